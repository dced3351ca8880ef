//! Peers that send too much, or nothing.

use holdfast_controller::listen::{Limit, Limits};
use holdfast_proto::v1::{CreateJoinTokenRequest, ListHostsRequest};
use tokio::net::TcpStream;
use tonic::{Code, Request};

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
async fn x17_peers_that_never_finish_their_handshake_hold_up_nobody_for_long() {
    let handshakes = Limit { in_all: 8, per_peer: 4 };
    let controller = Controller::start_with(Limits { handshakes, ..Limits::default() }).await;
    let mut served = controller.hosts().await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(controller.address).await.expect("connected"));
    }
    eventually("the peer's share of handshakes is used up", || async {
        controller.channel(None).await.is_err()
    })
    .await;
    served.list_hosts(ListHostsRequest::default()).await.expect("whoever is in is served");
    drop(silent);
    eventually("places are free again", || async { controller.channel(None).await.is_ok() }).await;
    controller.stop().await;
}
