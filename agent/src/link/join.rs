//! Joining: a token's text becomes this host's identity.
//!
//! The token names the controller's CA by the hash of its key, so whoever sits
//! in between cannot answer in its place and never sees the token: it is sent
//! only when the server has proved itself. The key is made here and stays here.

use std::path::Path;
use std::time::Duration;

use holdfast_proto::ids::InstanceId;
use holdfast_proto::join_token::{InvalidJoinToken, JoinToken};
use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::{JoinRequest, JoinResponse, StorePlace};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::Request;
use tonic::transport::Endpoint;

use super::dial::{DialError, dial};
use super::identity::{Identity, IdentityError};
use super::tls;
use crate::store_pin::StorePin;

const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the host did not join. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Token(#[from] InvalidJoinToken),
    #[error(
        "the server at {0} is not the controller that made this token: somebody answers in its place, \
         or the controller was recreated; make another token there"
    )]
    WrongServer(String),
    #[error("the controller could not be reached")]
    Dial(#[source] DialError),
    #[error("the connection to the controller failed")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}; make another token: holdfast host token {host}", .status.message())]
    Refused { host: String, status: Box<tonic::Status> },
    #[error("the controller's answer does not fit what was asked: {0}")]
    Answer(&'static str),
    #[error("a key could not be made")]
    Key(#[from] rcgen::Error),
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Shows the token to the controller it names and writes the identity that
/// comes back into `state_dir`, replacing one that is there.
///
/// # Errors
/// When the token is no good, the controller cannot be reached, is another
/// one, or refuses; nothing is written then.
pub(crate) async fn join(
    token_text: &str,
    state_dir: &Path,
    instance: InstanceId,
) -> Result<Identity, JoinError> {
    let token: JoinToken = token_text.parse()?;
    let config = tls::joining_config(token.ca_key_sha256)?;
    let stream = dial(&token.addresses, &config).await.map_err(|error| {
        if error.is_wrong_server() {
            JoinError::WrongServer(token.addresses.join(", "))
        } else {
            JoinError::Dial(error)
        }
    })?;
    // That very connection and no other: the token goes only to the server whose
    // CA was just checked.
    let mut stream = Some(TokioIo::new(stream));
    let channel = Endpoint::from_static("http://controller")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::other("the connection was lost")) }
        }))
        .await?;
    let key = KeyPair::generate()?;
    let csr_pem = CertificateParams::default().serialize_request(&key)?.pem()?;
    let mut request = Request::new(JoinRequest {
        token: token_text.trim().to_owned(),
        csr_pem,
        instance_id: instance.to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    request.set_timeout(JOIN_TIMEOUT);
    let answer = EnrolmentServiceClient::new(channel)
        .join(request)
        .await
        .map_err(|status| JoinError::Refused { host: token.host_name.clone(), status: Box::new(status) })?;
    let identity = identity(&token, &key, answer.into_inner())?;
    identity.save(state_dir)?;
    Ok(identity)
}

fn identity(token: &JoinToken, key: &KeyPair, answer: JoinResponse) -> Result<Identity, JoinError> {
    let JoinResponse { host_id, host_name, certificate_pem, ca_pem, not_after_unix_ms: _, store } = answer;
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|_| JoinError::Answer("its CA cannot be read"))?;
    // From now on this CA decides whom the host believes: the token, which came by
    // another way, has to vouch for it.
    if tls::key_sha256(&ca) != Some(token.ca_key_sha256) {
        return Err(JoinError::Answer("its CA is not the one in the token"));
    }
    let identity = Identity {
        host_id,
        host_name,
        addresses: token.addresses.clone(),
        ca_pem,
        certificate_pem,
        key_pem: key.serialize_pem(),
        store: store.and_then(|store| pin(&store)),
    };
    // Certificate and key must fit each other, or no connection ever works.
    tls::config(&identity, b"h2").map_err(|_| JoinError::Answer("its certificate is not for this key"))?;
    Ok(identity)
}

/// The place of packs, unless it is none: then all go through the controller,
/// which is no reason for a host not to join.
fn pin(store: &StorePlace) -> Option<StorePin> {
    StorePin::new(&store.url, &store.ca_pem)
        .inspect_err(|error| tracing::warn!(%error, "packs of this host go through the controller only"))
        .ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A CA and a server certificate of it: the chain, the server's key, and
    /// the hash of the CA's key.
    pub(in super::super) fn authority() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, [u8; 32]) {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([holdfast_proto::SERVER_NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = params.signed_by(&key, &issuer).unwrap();
        let hash = tls::key_sha256(ca.der()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![server.into(), ca.into()], key, hash)
    }

    /// Joins through a server that shows `chain`, with a token for the CA with
    /// that key; gives what came of it and the bytes the server was sent.
    async fn join_at(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        ca_key_sha256: [u8; 32],
    ) -> (JoinError, Vec<u8>) {
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 1 << 16];
            match TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
                Ok(mut stream) => {
                    let length = stream.read(&mut heard).await.unwrap_or(0);
                    heard.truncate(length);
                    heard
                }
                Err(_) => Vec::new(),
            }
        });
        let token = JoinToken {
            addresses: vec![address],
            ca_key_sha256,
            secret: [7; 32],
            host_name: "web-1".to_owned(),
        };
        let dir = tempfile::tempdir().unwrap();
        let error = join(&token.encode(), dir.path(), InstanceId::generate()).await.unwrap_err();
        assert!(Identity::load(dir.path()).unwrap().is_none(), "nothing is written");
        (error, server.await.unwrap())
    }

    #[tokio::test]
    async fn x03_nobody_in_between_is_shown_the_token() {
        let (chain, key, _) = authority();
        let (real_chain, _, real_hash) = authority();
        let (error, heard) = join_at(chain.clone(), key.clone_key(), real_hash).await;
        assert!(matches!(error, JoinError::WrongServer(_)), "{error}");
        assert!(heard.is_empty());
        // Sending the real CA along does not help without its signature.
        let forged = vec![chain[0].clone(), real_chain[1].clone()];
        let (error, heard) = join_at(forged, key, real_hash).await;
        assert!(matches!(error, JoinError::WrongServer(_)), "{error}");
        assert!(heard.is_empty());
    }

    #[tokio::test]
    async fn the_controller_of_the_token_is_spoken_to() {
        let (chain, key, hash) = authority();
        let (error, heard) = join_at(chain, key, hash).await;
        // It hangs up without an answer, but it was the right one.
        assert!(!matches!(error, JoinError::WrongServer(_)), "{error}");
        assert!(!heard.is_empty());
    }
}
