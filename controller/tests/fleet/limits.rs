//! Peers that send too much, or nothing.

use holdfast_controller::places::Limits;
use std::time::Duration;

use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::{CreateJoinTokenRequest, JoinRequest, ListHostsRequest};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Controller, eventually};

#[tokio::test]
async fn x16_a_message_or_header_over_the_limit_hurts_its_sender_only() {
    let controller = Controller::start().await;
    let mut other = controller.hosts().await;
    let mut hosts = controller.hosts().await;
    let request = CreateJoinTokenRequest { name: "x".repeat(5 << 20), ..Default::default() };
    let status = hosts.create_join_token(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let mut request = Request::new(ListHostsRequest::default());
    request.metadata_mut().insert("x-large", "x".repeat(64 << 10).parse().expect("ascii"));
    assert!(controller.hosts().await.list_hosts(request).await.is_err());
    other.list_hosts(ListHostsRequest::default()).await.expect("others are served");
    controller.stop().await;
}

#[tokio::test]
async fn x17_peers_that_never_finish_their_handshake_hold_up_nobody() {
    let limits = Limits { anonymous: 4, anonymous_time: Duration::from_secs(600), ..Limits::default() };
    let controller = Controller::start_with(limits).await;
    let mut served = controller.hosts().await;
    served.list_hosts(ListHostsRequest::default()).await.expect("an operator");
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(controller.address).await.expect("connected"));
    }
    // Held for ten minutes, as far as the silent ones are concerned.
    eventually("a new connection gets in", || async {
        let Ok(channel) = controller.channel(None).await else { return false };
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok()
    })
    .await;
    served.list_hosts(ListHostsRequest::default()).await.expect("whoever is in stays");
    drop(silent);
    controller.stop().await;
}

/// Whether the other end has closed this.
async fn is_closed(io: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match tokio::time::timeout(Duration::from_millis(20), io.read(&mut bytes)).await {
            Err(_) => return false,
            // Cut off without a farewell is closed, too.
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn v03_a_connection_that_shows_nothing_is_closed_in_time_and_others_stay() {
    let limits = Limits { anonymous_time: Duration::from_millis(500), ..Limits::default() };
    let controller = Controller::start_with(limits).await;
    let (_, credentials) = controller.host("web-1").await;
    let mut operator = controller.hosts().await;
    operator.list_hosts(ListHostsRequest::default()).await.expect("an operator");
    let mut agent = controller.connect(b"h2", Some(&credentials)).await.expect("connected");
    let mut silent = controller.connect(b"h2", None).await.expect("connected");
    let begun = std::time::Instant::now();
    while !is_closed(&mut silent).await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still open");
    }
    operator.list_hosts(ListHostsRequest::default()).await.expect("a token keeps its connection");
    assert!(!is_closed(&mut agent).await, "a certificate keeps its connection");
    controller.stop().await;
}

#[tokio::test]
async fn v03_a_call_anybody_may_make_is_small() {
    let controller = Controller::start().await;
    let mut client = EnrolmentServiceClient::new(controller.channel(None).await.expect("connected"));
    let request = JoinRequest { token: "x".repeat(65 << 10), ..JoinRequest::default() };
    let refused = client.join(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let mut health = HealthClient::new(controller.channel(None).await.expect("connected"));
    let request = HealthCheckRequest { service: "x".repeat(65 << 10) };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::OutOfRange);
    health.check(HealthCheckRequest::default()).await.expect("a short one is answered");
    controller.stop().await;
}

#[tokio::test]
async fn v03_a_host_closes_its_own_oldest_connection() {
    let limits = Limits { of_host: 2, ..Limits::default() };
    let controller = Controller::start_with(limits).await;
    let (_, one) = controller.host("web-1").await;
    let (_, other) = controller.host("web-2").await;
    let mut others = controller.connect(b"h2", Some(&other)).await.expect("connected");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(controller.connect(b"h2", Some(&one)).await.expect("connected"));
    }
    let begun = std::time::Instant::now();
    loop {
        let mut closed = 0;
        for io in &mut held {
            closed += usize::from(is_closed(io).await);
        }
        if closed == 2 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{closed} are closed");
    }
    assert!(!is_closed(&mut others).await, "another host keeps its own");
    controller.stop().await;
}
