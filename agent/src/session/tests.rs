//! Packs under a controller that does not mean well, and a store that does not
//! answer well.

use std::sync::Mutex;

use holdfast_archive::frame::encode;
use holdfast_archive::ids::SourceId;
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::FrameKind;
use holdfast_proto::ids::JobId;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::cancel::Cancel;
use crate::snapshot::testing::{Repository, store};
use crate::store_pin::StorePin;

/// A server that answers every request with the same bytes, and what it heard.
struct Server {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: String, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let log = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => converse(stream, &answer, &log).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => converse(stream, &answer, &log).await,
                        Err(_) => log.lock().unwrap().push("a handshake that failed".to_owned()),
                    },
                }
            }
        });
        Self { address, heard }
    }

    /// One that must not be reached.
    async fn trap() -> Self {
        Self::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), None).await
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// Reads a request to its end, notes its head, and answers: whoever has the
/// answer finds it noted.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str, log: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let head = text.split_once("\r\n\r\n").map(|(head, _)| head);
        let length = head
            .and_then(|head| head.lines().find_map(|line| line.strip_prefix("content-length: ")))
            .and_then(|length| length.parse::<usize>().ok());
        let whole = head.is_some_and(|head| bytes.len() >= head.len() + 4 + length.unwrap_or(0));
        if whole || read == 0 {
            log.lock().unwrap().push(head.unwrap_or(&text).to_owned());
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            return;
        }
    }
}

fn pack() -> SealedPack {
    let mut pack = PackBuilder::new();
    pack.push(encode(FrameKind::Data, b"what the host holds", 1));
    pack.finish()
}

fn pin(place: &str, ca_pem: &str) -> Arc<StorePin> {
    Arc::new(StorePin::new(place, ca_pem).unwrap())
}

/// What comes of a pack where the controller names `named` as its place and the
/// host keeps `kept`.
async fn put(repository: &Repository, named: &str, kept: Option<Arc<StorePin>>) -> Result<(), PackIoError> {
    repository.lock().presigned = Some(named.to_owned());
    let (plane, line) = repository.plane().await;
    line.send_modify(|line| line.as_mut().unwrap().store = kept);
    let run = JobRun { job: JobId::generate(), generation: 0 };
    let upload = plane.open_upload(run, SourceId::generate(), &Cancel::default()).await.unwrap();
    let session = upload.session.clone();
    let put = tokio::task::spawn_blocking(move || session.put_pack(pack())).await.unwrap();
    upload.session.close().await;
    put
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_a_controller_that_names_another_address_has_nothing_sent_there() {
    let trap = Server::trap().await;
    for kept in [
        None,
        Some(pin("https://store.example/bucket", "")),
        Some(pin(&format!("http://{}/other", trap.address), "")),
        Some(pin(&format!("https://{}/bucket", trap.address), "")),
        Some(pin("http://127.0.0.1:9/bucket", "")),
    ] {
        let repository = Repository::default();
        put(&repository, &format!("http://{}/bucket", trap.address), kept.clone()).await.unwrap();
        assert_eq!(trap.heard(), Vec::<String>::new(), "kept: {kept:?}");
        assert_eq!((repository.packs(), repository.calls("upload_pack")), (1, 1), "it is relayed instead");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_packs_go_to_the_pinned_store_by_themselves() {
    let repository = Repository::default();
    let store = store(repository.clone()).await;
    put(&repository, &store, Some(pin(&store, ""))).await.unwrap();
    assert_eq!((repository.packs(), repository.calls("upload_pack")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_a_redirect_is_not_followed() {
    let trap = Server::trap().await;
    let answer =
        format!("HTTP/1.1 307 x\r\nlocation: http://{}/bucket/x\r\ncontent-length: 0\r\n\r\n", trap.address);
    let store = Server::start(answer, None).await;
    let place = format!("http://{}/bucket", store.address);
    let error = put(&Repository::default(), &place, Some(pin(&place, ""))).await.unwrap_err();
    assert!(error.to_string().contains("307"), "{error}");
    assert_eq!(store.heard().len(), PACK_ATTEMPTS as usize);
    assert_eq!(trap.heard(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_of_a_refusal_only_its_word_is_told() {
    let body = "<Error><Code>SignatureDoesNotMatch</Code><SignatureProvided>hush</SignatureProvided></Error>";
    let answer = format!("HTTP/1.1 403 x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let store = Server::start(answer, None).await;
    let place = format!("http://{}/bucket", store.address);
    let error = put(&Repository::default(), &place, Some(pin(&place, ""))).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("403 SignatureDoesNotMatch") && !text.contains("hush"), "{text}");
    let head = &store.heard()[0];
    let names: Vec<&str> = head.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["host", "content-length", "x-amz-checksum-sha256"], "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_the_pinned_ca_proves_the_store_and_no_other_does() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let answer = "HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n".to_owned();
    let store = Server::start(answer, Some(acceptor)).await;
    let place = format!("https://{}/bucket", store.address);
    let error = put(&Repository::default(), &place, Some(pin(&place, &certificate.pem()))).await.unwrap_err();
    assert!(error.to_string().contains("403"), "it was spoken to: {error}");

    let other = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    for ca in [other.pem(), String::new()] {
        let repository = Repository::default();
        let before = store.heard().len();
        put(&repository, &place, Some(pin(&place, &ca))).await.unwrap();
        assert_eq!(repository.calls("upload_pack"), 1, "it is relayed instead");
        let heard = store.heard().split_off(before);
        assert!(heard.iter().all(|heard| heard == "a handshake that failed"), "{heard:?}");
    }
}
