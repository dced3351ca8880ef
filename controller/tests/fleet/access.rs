//! Who may call what: every RPC, by every kind of caller that may not.

use std::collections::BTreeSet;

use bytes::Bytes;
use holdfast_controller::api::caller::{Caller, Role};
use holdfast_controller::api::roles::{Access, RULES};
use holdfast_controller::init;
use holdfast_proto::ERROR_CODE_METADATA;
use holdfast_proto::v1::host_service_client::HostServiceClient;
use holdfast_proto::v1::{CreateVolumeRequest, LabelHostRequest, RevokeHostRequest, StartRestoreRequest};
use http_body_util::Full;
use prost::Message as _;
use secrecy::ExposeSecret as _;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::support::Controller;

/// Words by which the layer in front of all services refuses.
const REFUSALS: [&str; 4] = ["unauthenticated", "role-too-low", "agent-only", "not-forwardable"];

/// Calls a method with an empty message; the status, if there is one before
/// any answer.
async fn call(channel: &Channel, path: &str, token: Option<&str>) -> Option<Status> {
    call_with(channel, path, token, &[]).await
}

/// The same with a message.
async fn call_with(channel: &Channel, path: &str, token: Option<&str>, message: &[u8]) -> Option<Status> {
    let mut request = http::Request::post(format!("http://controller{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    let body = Body::new(Full::new(Bytes::from([&[0][..], &length, message].concat())));
    let mut channel = channel.clone();
    let answer = channel.ready().await.expect("ready").call(request.body(body).expect("request")).await;
    Status::from_header_map(answer.expect("an answer").headers())
}

fn refusal(status: Option<&Status>) -> Option<&str> {
    let word = status?.metadata().get(ERROR_CODE_METADATA)?.to_str().ok()?;
    REFUSALS.contains(&word).then_some(word)
}

#[tokio::test]
async fn x21_every_rpc_is_refused_to_whoever_the_table_does_not_admit() {
    let controller = Controller::start().await;
    let viewer_token = init::create_operator(&controller.catalog, "vera", Role::Viewer, "test").await;
    let viewer_token = viewer_token.expect("made");
    let viewer_token = viewer_token.expose_secret();
    let (host, credentials) = controller.host("web-1").await;
    let plain = controller.channel(None).await.expect("connected");
    let agents = controller.channel(Some(&credentials)).await.expect("connected");
    let viewer = Caller::Operator { name: "vera".to_owned(), role: Role::Viewer };
    let agent = Caller::Agent { host: host.parse().expect("an id"), host_name: "web-1".to_owned() };

    let mut denied_to_viewer = BTreeSet::new();
    for rule in RULES {
        let cases = [
            (&Caller::Anonymous, &plain, None),
            (&viewer, &plain, Some(viewer_token)),
            (&agent, &agents, None),
            // A host stays a host, whatever else it shows.
            (&agent, &agents, Some(viewer_token)),
        ];
        for (caller, channel, token) in cases {
            let status = call(channel, rule.path, token).await;
            let refused = refusal(status.as_ref()).map(str::to_owned);
            assert_eq!(refused.is_none(), rule.admits(caller), "{} {caller:?} {status:?}", rule.path);
            let Some(status) = status.filter(|_| refused.is_some()) else { continue };
            let expected = match caller {
                Caller::Anonymous => Code::Unauthenticated,
                _ => Code::PermissionDenied,
            };
            assert_eq!(status.code(), expected, "{} {caller:?}", rule.path);
            if matches!(caller, Caller::Operator { .. }) {
                denied_to_viewer.insert(rule.path.to_owned());
            }
        }
    }
    for rule in RULES.iter().filter(|rule| rule.audit.is_some() && rule.access != Access::Anyone) {
        assert!(denied_to_viewer.contains(rule.path), "a viewer could change something: {}", rule.path);
        let rows = controller.audited(rule.path, "denied").await;
        assert!(rows.iter().any(|(actor, _)| actor == "vera"), "no row about {}", rule.path);
    }
    controller.stop().await;
}

#[tokio::test]
async fn v02_where_a_volume_leads_is_for_an_administrator_alone() {
    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    let mut tokens = Vec::new();
    for (name, role) in [("oleg", Role::Operator), ("rita", Role::Restorer)] {
        let token = init::create_operator(&controller.catalog, name, role, "test").await.expect("made");
        tokens.push(token.expose_secret().to_owned());
    }
    let admin = controller.admin_token();
    let options = || [("device".to_owned(), "/".to_owned())].into();
    let create = "/holdfast.v1.VolumeService/CreateVolume";
    let restore = "/holdfast.v1.JobService/StartRestore";
    let volume = |driver: &str| CreateVolumeRequest { driver: driver.into(), ..Default::default() };
    let led = CreateVolumeRequest { options: options(), ..volume("") };
    let restored = StartRestoreRequest { options: options(), ..Default::default() };
    let driven = StartRestoreRequest { driver: "nfs".into(), ..Default::default() };
    for (token, path, message, is_refused) in [
        (&tokens[0], create, led.encode_to_vec(), true),
        (&tokens[1], create, led.encode_to_vec(), true),
        (&tokens[0], create, volume("nfs").encode_to_vec(), true),
        (&tokens[0], create, volume("local").encode_to_vec(), false),
        (&tokens[0], create, volume("").encode_to_vec(), false),
        (&tokens[1], restore, restored.encode_to_vec(), true),
        (&tokens[1], restore, driven.encode_to_vec(), true),
        (&tokens[1], restore, Vec::new(), false),
        (&admin, create, led.encode_to_vec(), false),
        (&admin, restore, restored.encode_to_vec(), false),
    ] {
        let status = call_with(&channel, path, Some(token), &message).await.expect("nothing of it is there");
        let refused = refusal(Some(&status)).map(str::to_owned);
        assert_eq!(refused.as_deref(), is_refused.then_some("role-too-low"), "{path} {status:?}");
        assert!(!is_refused || status.message().contains("admin"), "{status:?}");
    }
    let denied = controller.audited("CreateVolume", "denied").await;
    assert!(denied.contains(&("oleg".to_owned(), "driver".to_owned())), "{denied:?}");
    controller.stop().await;
}

#[tokio::test]
async fn calls_nobody_knows_and_tokens_nobody_made_are_refused() {
    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    let status = call(&channel, "/holdfast.v1.HostService/Nothing", None).await.expect("a status");
    assert_eq!(status.code(), Code::Unimplemented);
    let status = call(&channel, "/holdfast.v1.HostService/ListHosts", Some("hfo_guess")).await;
    assert_eq!(status.expect("a status").code(), Code::Unauthenticated);

    let token = controller.admin_token();
    assert!(call(&channel, "/holdfast.v1.HostService/ListHosts", Some(&token)).await.is_none());
    assert!(controller.catalog.revoke_operator("admin", 1).await.expect("revoked"));
    let status = call(&channel, "/holdfast.v1.HostService/ListHosts", Some(&token)).await;
    assert_eq!(status.expect("a status").code(), Code::Unauthenticated);
    controller.stop().await;
}

#[tokio::test]
async fn x01_a_host_cannot_act_on_another_by_naming_it() {
    let controller = Controller::start().await;
    let (_, credentials) = controller.host("web-1").await;
    controller.host("web-2").await;
    let mut client = HostServiceClient::new(controller.channel(Some(&credentials)).await.expect("connected"));
    let status = client.revoke_host(RevokeHostRequest { host: "web-2".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let rows = controller.audited("RevokeHost", "denied").await;
    assert_eq!(rows, [("agent:web-1".to_owned(), String::new())]);
    controller.stop().await;
}

#[tokio::test]
async fn what_changes_something_is_recorded_before_and_its_failure_after() {
    let controller = Controller::start().await;
    let request = LabelHostRequest { host: "web-9".to_owned(), ..Default::default() };
    let status = controller.hosts().await.label_host(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let row = ("admin".to_owned(), "host=web-9".to_owned());
    let row = [row];
    assert_eq!(controller.audited("LabelHost", "allowed").await, row);
    assert_eq!(controller.audited("LabelHost", "failed").await, row);
    controller.stop().await;
}
