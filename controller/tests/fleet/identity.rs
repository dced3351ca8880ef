//! Joining, certificates, clones and revocation.

use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_controller::catalog::audit::Book;
use holdfast_controller::catalog::enrolment::NewJoinToken;
use holdfast_controller::clock::now_ms;
use holdfast_controller::identity::ca::{Authority, Serial, Validity};
use holdfast_controller::identity::certificate::host_uri;
use holdfast_controller::identity::token;
use holdfast_proto::AGENT_ALPN;
use holdfast_proto::join_token::JoinToken;
use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::{RenewRequest, RevokeHostRequest};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Agent, Controller, Credentials, csr, eventually};

async fn renew(controller: &Controller, credentials: &Credentials) -> Result<Credentials, Status> {
    let key = KeyPair::generate().expect("key");
    let mut client = EnrolmentServiceClient::new(controller.channel(Some(credentials)).await?);
    let answer = client.renew(RenewRequest { csr_pem: csr(&key) }).await?.into_inner();
    Ok(Credentials { certificate: answer.certificate_pem, key: key.serialize_pem() })
}

#[tokio::test]
async fn x02_a_join_token_works_once_in_time_and_for_its_host() {
    let controller = Controller::start().await;
    let text = controller.token("web-1").await;
    let mut other: JoinToken = text.parse().expect("a token");
    other.host_name = "db-1".to_owned();
    assert_eq!(controller.join(&other.encode()).await.map(drop).unwrap_err().code(), Code::PermissionDenied);
    controller.join(&text).await.expect("joined");
    assert_eq!(controller.join(&text).await.map(drop).unwrap_err().code(), Code::PermissionDenied);
    let rows = controller.catalog.audit_rows(Book::Main, 0, 100).await.expect("rows");
    let alarm = rows.iter().find(|row| row.outcome == "denied").expect("a row about the reuse");
    assert!(alarm.subject == "host=web-1" && alarm.detail.starts_with("alarm: "), "{alarm:?}");

    let expired = JoinToken { secret: [7; 32], host_name: "web-2".to_owned(), ..other };
    let record = NewJoinToken {
        hash: &token::hash(&expired.secret),
        host_name: "web-2",
        labels: &Default::default(),
        created_ms: 0,
        expires_ms: now_ms() - 1,
    };
    controller.catalog.put_join_token(&record).await.expect("put");
    let status = controller.join(&expired.encode()).await.map(drop).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "this join token has expired"));
    controller.stop().await;
}

#[tokio::test]
async fn x04_certificates_that_are_not_good_open_nothing() {
    let controller = Controller::start().await;
    let (host, good) = controller.host("web-1").await;
    let host: HostId = host.parse().expect("an id");
    let authority = Authority::open(&controller.state()).expect("authority");
    let key = KeyPair::generate().expect("key");
    let credentials = |certificate: String| Credentials { certificate, key: key.serialize_pem() };
    let now = now_ms();
    let hour = 3_600_000;
    let signed_by = |authority: &Authority, from: i64, to: i64| {
        let validity = Validity { not_before_ms: now + from, not_after_ms: now + to };
        credentials(authority.issue_host(&key, host, &Serial::generate(), validity).expect("issued"))
    };
    let ca_key = std::fs::read_to_string(controller.state().join("ca.key")).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&controller.ca_pem(), KeyPair::from_pem(&ca_key).expect("key"));
    let issuer = issuer.expect("issuer");
    let by_hand = |purpose: Vec<ExtendedKeyUsagePurpose>, names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.extended_key_usages = purpose;
        params.subject_alt_names = names;
        credentials(params.signed_by(&key, &issuer).expect("signed").pem())
    };
    let uri = || vec![SanType::URI(host_uri(host).try_into().expect("ascii"))];
    let client = || vec![ExtendedKeyUsagePurpose::ClientAuth];
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let foreign = Authority::create(elsewhere.path(), now).expect("created");
    let unknown_host = SanType::URI(host_uri(HostId::generate()).try_into().expect("ascii"));

    let cases = [
        ("expired", signed_by(&authority, -2 * hour, -hour)),
        ("not yet valid", signed_by(&authority, hour, 2 * hour)),
        ("another CA", signed_by(&foreign, -hour, hour)),
        ("server purpose", by_hand(vec![ExtendedKeyUsagePurpose::ServerAuth], uri())),
        ("no purpose", by_hand(Vec::new(), uri())),
        ("no name", by_hand(client(), Vec::new())),
        ("a host nobody knows", by_hand(client(), vec![unknown_host])),
    ];
    for (what, credentials) in cases {
        assert!(renew(&controller, &credentials).await.is_err(), "{what}");
        if controller.connect(AGENT_ALPN, Some(&credentials)).await.is_ok() {
            let agent = Agent::new("i-1");
            // A refused TLS 1.3 client sees it only when its connection ends.
            agent.dial(&controller, &credentials).await.await.expect("ended");
            assert!(!agent.is_greeted(), "{what}");
        }
    }
    assert!(controller.fleet.connected().is_empty());
    renew(&controller, &good).await.expect("the real one works");
    controller.stop().await;
}

#[tokio::test]
async fn p22_an_agent_of_another_protocol_is_refused_before_it_says_anything() {
    let controller = Controller::start().await;
    let (_, credentials) = controller.host("web-1").await;
    for other in [&b"holdfast-agent/2"[..], b"holdfast-agent/0", b"holdfast-agent"] {
        let error = controller.connect(other, Some(&credentials)).await.expect_err("refused");
        assert!(format!("{error:?}").contains("NoApplicationProtocol"), "{error:?}");
    }
    assert!(controller.fleet.connected().is_empty());
    // The same host, once its agent is of this release.
    let agent = Agent::new("i-1");
    let serving = agent.dial(&controller, &credentials).await;
    eventually("the host's connection", || controller.is_connected("web-1")).await;
    serving.abort();
    controller.stop().await;
}

#[tokio::test]
async fn x05_a_revoked_host_is_cut_off_and_o12_comes_back_as_itself() {
    let controller = Controller::start().await;
    let (host, credentials) = controller.host("web-1").await;
    let agent = Agent::new("i-1");
    let serving = agent.dial(&controller, &credentials).await;
    eventually("the host's connection", || controller.is_connected("web-1")).await;
    let channel = controller.channel(Some(&credentials)).await.expect("connected");
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = HealthClient::new(channel).watch(request).await.expect("watching").into_inner();
    stream.message().await.expect("a first message");

    let mut hosts = controller.hosts().await;
    hosts.revoke_host(RevokeHostRequest { host: "web-1".to_owned() }).await.expect("revoked");
    let limit = Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, stream.message()).await.expect("the stream ends in time");
    assert!(!matches!(ended, Ok(Some(_))));
    tokio::time::timeout(limit, serving).await.expect("the connection ends in time").expect("joined");
    assert!(!controller.is_connected("web-1").await);
    assert_eq!(renew(&controller, &credentials).await.map(drop).unwrap_err().code(), Code::PermissionDenied);

    let (again, fresh) = controller.host("web-1").await;
    assert_eq!(again, host);
    Agent::new("i-2").dial(&controller, &fresh).await;
    eventually("the host's new connection", || controller.is_connected("web-1")).await;
    assert_eq!(renew(&controller, &credentials).await.map(drop).unwrap_err().code(), Code::Unauthenticated);
    controller.stop().await;
}

#[tokio::test]
async fn d19_a_clone_is_refused_while_the_first_answers() {
    let controller = Controller::start().await;
    let (_, credentials) = controller.host("web-1").await;
    let first = Agent::new("i-1");
    let serving = first.dial(&controller, &credentials).await;
    eventually("the host's connection", || controller.is_connected("web-1")).await;

    // With and without an instance id of its own.
    for instance in ["i-2", "i-1"] {
        let clone = Agent::new(instance);
        clone.dial(&controller, &credentials).await.await.expect("ended");
        assert!(!clone.is_greeted());
    }
    assert!(!serving.is_finished() && controller.is_connected("web-1").await);
    let rows = controller.catalog.audit_rows(Book::Main, 0, 100).await.expect("rows");
    assert_eq!(rows.iter().filter(|row| row.detail.starts_with("alarm: instance")).count(), 2);

    serving.abort();
    controller.fleet.disconnect(controller.fleet.connected()[0]);
    let second = Agent::new("i-2");
    second.dial(&controller, &credentials).await;
    eventually("the second's connection", || controller.is_connected("web-1")).await;
    assert!(second.is_greeted());
    controller.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_replaces_the_one_before() {
    let controller = Controller::start().await;
    let (_, first) = controller.host("web-1").await;
    let second = renew(&controller, &first).await.expect("renewed");
    let third = renew(&controller, &second).await.expect("renewed");
    assert_eq!(renew(&controller, &first).await.map(drop).unwrap_err().code(), Code::Unauthenticated);
    let agent = Agent::new("i-1");
    agent.dial(&controller, &third).await;
    eventually("the host's connection", || controller.is_connected("web-1")).await;
    controller.stop().await;
}
