//! Who may call what: every RPC, by every kind of caller that may not.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_controller::api::roles::{About, Access, Names, NeedsAdmin, RULES};
use holdfast_controller::init::{self, Grant};
use holdfast_controller::model::caller::{Caller, HostScope, Role};
use holdfast_controller::policy::LabelMatch;
use holdfast_proto::v1::host_service_client::HostServiceClient;
use holdfast_proto::v1::status_service_client::StatusServiceClient;
use holdfast_proto::v1::{
    CreateVolumeRequest, GetStatusRequest, LabelHostRequest, ListHostsRequest, RevokeHostRequest,
    StartRestoreRequest,
};
use holdfast_proto::{ERROR_CODE_METADATA, FILE_DESCRIPTOR_SET, HOST_METADATA};
use http_body_util::Full;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, Value};
use secrecy::ExposeSecret as _;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tower::{Service as _, ServiceExt as _};

use crate::support::Controller;

/// Words by which the layer in front of all services refuses.
const REFUSALS: [&str; 6] =
    ["unauthenticated", "token-expired", "role-too-low", "out-of-scope", "agent-only", "not-forwardable"];

/// An operator's token that is good for all hosts and for ever.
async fn operator(controller: &Controller, name: &str, role: Role) -> String {
    limited(controller, name, role, &[], None).await
}

async fn limited(
    controller: &Controller,
    name: &str,
    role: Role,
    hosts: &[&str],
    lifetime: Option<Duration>,
) -> String {
    let hosts = HostScope(hosts.iter().map(|label| LabelMatch::parse(label).expect("a label")).collect());
    let grant = Grant { name, role, hosts, lifetime };
    let token = init::create_operator(&controller.catalog, &grant, "test").await.expect("made");
    token.expose_secret().to_owned()
}

/// Calls a method with an empty message; the status, if there is one before
/// any answer.
async fn call(channel: &Channel, path: &str, token: Option<&str>) -> Option<Status> {
    call_with(channel, path, token, &[]).await
}

/// The same with a message.
async fn call_with(channel: &Channel, path: &str, token: Option<&str>, message: &[u8]) -> Option<Status> {
    call_on(channel, path, token, message, None).await
}

/// The same, to go on to a host.
async fn call_on(
    channel: &Channel,
    path: &str,
    token: Option<&str>,
    message: &[u8],
    host: Option<&str>,
) -> Option<Status> {
    let mut request = http::Request::post(format!("http://controller{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(host) = host {
        request = request.header(HOST_METADATA, host);
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
    let viewer_token = operator(&controller, "vera", Role::Viewer).await;
    let viewer_token = viewer_token.as_str();
    let (host, credentials) = controller.host("web-1").await;
    let plain = controller.channel(None).await.expect("connected");
    let agents = controller.channel(Some(&credentials)).await.expect("connected");
    let viewer =
        Caller::Operator { name: "vera".to_owned(), role: Role::Viewer, hosts: HostScope::default() };
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
        tokens.push(operator(&controller, name, role).await);
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
    assert!(denied.contains(&("oleg".to_owned(), "driver driver=nfs".to_owned())), "{denied:?}");
    controller.stop().await;
}

/// A request with these fields, by the descriptors.
fn message(path: &str, fields: &[(&str, Value)]) -> Vec<u8> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let (service, method) = path[1..].split_once('/').expect("a path");
    let service = pool.get_service_by_name(service).expect("a service of ours");
    let method = service.methods().find(|found| found.name() == method).expect("a method");
    let mut message = DynamicMessage::new(method.input());
    for (name, value) in fields {
        message.set_field_by_name(name, value.clone());
    }
    message.encode_to_vec()
}

/// Something that a field can say.
fn something(path: &str, name: &str) -> Value {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let (service, method) = path[1..].split_once('/').expect("a path");
    let service = pool.get_service_by_name(service).expect("a service of ours");
    let method = service.methods().find(|found| found.name() == method).expect("a method");
    let field = method.input().get_field_by_name(name).expect("a field");
    match field.kind() {
        _ if field.is_map() => {
            Value::Map([(MapKey::String("device".into()), Value::String("/".into()))].into())
        }
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String("something".into()),
        other => panic!("{path} {name}: {other:?}"),
    }
}

#[tokio::test]
async fn v08_every_field_that_is_an_administrators_is_refused_to_others() {
    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    let restorer = operator(&controller, "rita", Role::Restorer).await;
    let admin = controller.admin_token();
    let mut seen = BTreeSet::new();
    for rule in RULES {
        for field in rule.admin_fields {
            let fields = match field.needs {
                NeedsAdmin::Set | NeedsAdmin::SetOtherThan(_) => {
                    vec![(field.name, something(rule.path, field.name))]
                }
                NeedsAdmin::Unset => Vec::new(),
            };
            let request = message(rule.path, &fields);
            let word = async |token: &str| {
                let status = call_with(&channel, rule.path, Some(token), &request).await;
                refusal(status.as_ref()).map(str::to_owned)
            };
            assert_eq!(
                word(&restorer).await.as_deref(),
                Some("role-too-low"),
                "{} {}",
                rule.path,
                field.name
            );
            assert_eq!(word(&admin).await, None, "{} {}", rule.path, field.name);
            seen.insert(format!("{} {}", rule.path.rsplit('/').next().expect("a method"), field.name));
        }
    }
    let expected = [
        "ApplyPolicies allow_forgetting",
        "CreateVolume driver",
        "CreateVolume options",
        "HoldSnapshot hold",
        "StartRestore driver",
        "StartRestore options",
    ];
    assert!(seen.iter().eq(expected.iter()), "{seen:?}");
    // What is nobody's in particular stays as it was.
    let apply = "/holdfast.v1.PolicyService/ApplyPolicies";
    let hold = "/holdfast.v1.CatalogService/HoldSnapshot";
    for (path, request) in [(apply, Vec::new()), (hold, message(hold, &[("hold", Value::Bool(true))]))] {
        let status = call_with(&channel, path, Some(&restorer), &request).await;
        assert_eq!(refusal(status.as_ref()), None, "{path} {status:?}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn v08_a_token_limited_to_hosts_is_good_for_nothing_else() {
    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    controller.host("web-1").await;
    controller.host("db-1").await;
    let label = LabelHostRequest {
        host: "web-1".to_owned(),
        set: [("rack".to_owned(), "7".to_owned())].into(),
        ..Default::default()
    };
    controller.hosts().await.label_host(label).await.expect("labelled");
    let token = limited(&controller, "lena", Role::Admin, &["rack=7"], None).await;
    let word = async |path: &str, request: &[u8], host: Option<&str>| {
        let status = call_on(&channel, path, Some(&token), request, host).await;
        refusal(status.as_ref()).map(str::to_owned)
    };
    let refused = Some("out-of-scope".to_owned());
    let text = |text: &str| Value::String(text.to_owned());
    let mut counts = [0; 4];
    for rule in RULES.iter().filter(|rule| matches!(rule.access, Access::Role(_))) {
        match rule.about {
            About::Fleet => {
                assert_eq!(word(rule.path, &[], None).await, refused, "{}", rule.path);
                counts[0] += 1;
            }
            About::Shown => {
                assert_eq!(word(rule.path, &[], None).await, None, "{}", rule.path);
                counts[1] += 1;
            }
            About::AnsweringHost => {
                assert_eq!(word(rule.path, &[], Some("db-1")).await, refused, "{}", rule.path);
                assert_eq!(word(rule.path, &[], Some("nowhere")).await, refused, "{}", rule.path);
                assert_eq!(word(rule.path, &[], Some("web-1")).await, None, "{}", rule.path);
                counts[2] += 1;
            }
            About::Named(fields) => {
                assert_eq!(word(rule.path, &[], None).await, refused, "{}: names nothing", rule.path);
                for (name, what) in fields {
                    let elsewhere = message(rule.path, &[(name, text("db-1"))]);
                    assert_eq!(word(rule.path, &elsewhere, None).await, refused, "{} {name}", rule.path);
                    // Retiring or revoking it would end the test.
                    let ends = rule.path.ends_with("/RevokeHost") || rule.path.ends_with("/RetireHost");
                    if *what == Names::Host && fields.len() == 1 && !ends {
                        let its_own = message(rule.path, &[(name, text("web-1"))]);
                        assert_eq!(word(rule.path, &its_own, None).await, None, "{} {name}", rule.path);
                    }
                }
                if fields.len() > 1 {
                    // One of them is its own, and the other is not.
                    let all: Vec<_> = fields
                        .iter()
                        .map(|(name, what)| {
                            (*name, text(if *what == Names::Host { "web-1" } else { "db-1/data" }))
                        })
                        .collect();
                    assert_eq!(
                        word(rule.path, &message(rule.path, &all), None).await,
                        refused,
                        "{}",
                        rule.path
                    );
                }
                counts[3] += 1;
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
    let denied = controller.audited("RemoveVolume", "denied").await;
    assert!(denied.contains(&("lena".to_owned(), "on=db-1".to_owned())), "{denied:?}");

    // Lists show what is its own.
    let mut hosts = HostServiceClient::new(channel.clone());
    let mut request = tonic::Request::new(ListHostsRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    let mut listed = hosts.list_hosts(request).await.expect("listed").into_inner();
    let mut names = Vec::new();
    while let Some(host) = listed.message().await.expect("a host") {
        names.push(host.name);
    }
    assert_eq!(names, ["web-1"]);
    let mut status = StatusServiceClient::new(channel.clone());
    let mut request = tonic::Request::new(GetStatusRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    let shown = status.get_status(request).await.expect("answered").into_inner();
    assert!(shown.hosts.iter().all(|line| line.host == "web-1") && shown.hosts.len() == 1, "{shown:?}");
    assert!(shown.problems.iter().all(|problem| problem.host != "db-1"), "{shown:?}");
    controller.stop().await;
}

#[tokio::test]
async fn v08_an_expired_token_is_refused_and_told_so() {
    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    let good = limited(&controller, "anna", Role::Viewer, &[], Some(Duration::from_hours(1))).await;
    let over = limited(&controller, "otto", Role::Viewer, &[], Some(Duration::ZERO)).await;
    let list = "/holdfast.v1.HostService/ListHosts";
    assert!(call(&channel, list, Some(&good)).await.is_none());
    let status = call(&channel, list, Some(&over)).await.expect("a status");
    assert_eq!((status.code(), refusal(Some(&status))), (Code::Unauthenticated, Some("token-expired")));
    assert!(status.message().contains("`otto` expired"), "{status:?}");
    assert_eq!(controller.audited("ListHosts", "denied").await, [("otto".to_owned(), String::new())]);
    let used = async |name: &str| {
        controller.catalog.operator(name).await.expect("asked").expect("known").last_used_ms.is_some()
    };
    assert!(used("anna").await && !used("otto").await);
    controller.stop().await;
}

#[tokio::test]
async fn v12_what_a_revoked_token_has_open_ends() {
    let controller = Controller::start().await;
    let token = operator(&controller, "vera", Role::Viewer).await;
    let other = operator(&controller, "anna", Role::Viewer).await;
    let mut open = Vec::new();
    for token in [&token, &other] {
        let channel = controller.channel(None).await.expect("connected");
        assert!(call(&channel, "/holdfast.v1.HostService/ListHosts", Some(token)).await.is_none());
        let mut reflection = ServerReflectionClient::new(channel);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
        let answers = reflection.server_reflection_info(request).await.expect("open").into_inner();
        open.push((sender, answers));
    }
    assert!(controller.catalog.revoke_operator("vera", 1).await.expect("revoked"));
    let (_kept, answers) = &mut open[0];
    let end = tokio::time::timeout(Duration::from_secs(60), answers.message()).await.expect("in time");
    assert!(end.is_err(), "a stream that was open ends: {end:?}");
    let (_kept, answers) = &mut open[1];
    let still = tokio::time::timeout(Duration::from_secs(1), answers.message()).await;
    assert!(still.is_err(), "another's goes on: {still:?}");
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

#[tokio::test]
async fn reflection_answers_in_both_versions_of_its_protocol() {
    use tonic_reflection::pb::{v1, v1alpha};

    let controller = Controller::start().await;
    let channel = controller.channel(None).await.expect("connected");
    let token: tonic::metadata::MetadataValue<_> =
        format!("Bearer {}", controller.admin_token()).parse().expect("ascii");
    let symbol = "holdfast.v1.HostService".to_owned();

    let question = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::FileContainingSymbol(
            symbol.clone(),
        )),
    };
    let mut request = tonic::Request::new(tokio_stream::once(question));
    request.metadata_mut().insert("authorization", token.clone());
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(request).await.expect("answered").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one").message_response;
    assert!(
        matches!(answer, Some(v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );

    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            symbol,
        )),
    };
    let mut request = tonic::Request::new(tokio_stream::once(question));
    request.metadata_mut().insert("authorization", token);
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(request).await.expect("answered").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one").message_response;
    assert!(
        matches!(
            answer,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        ),
        "{answer:?}"
    );
    controller.stop().await;
}
