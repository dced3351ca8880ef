//! Calls that go on to a host.

use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{ListVolumesRequest, RemoveVolumeRequest};
use holdfast_proto::{ACTOR_METADATA, ERROR_CODE_METADATA, HOST_METADATA};
use tonic::{Code, Request};

use crate::support::{Agent, Controller, eventually};

fn request<T>(controller: &Controller, message: T, host: &str) -> Request<T> {
    let mut request = Request::new(message);
    let token = format!("Bearer {}", controller.admin_token());
    request.metadata_mut().insert("authorization", token.parse().expect("ascii"));
    request.metadata_mut().insert(HOST_METADATA, host.parse().expect("ascii"));
    request.metadata_mut().insert(ACTOR_METADATA, "somebody-else".parse().expect("ascii"));
    request
}

#[tokio::test]
async fn r12_the_host_learns_who_calls_but_never_the_token() {
    let controller = Controller::start().await;
    let (_, credentials) = controller.host("web-1").await;
    let agent = Agent::new("i-1");
    agent.dial(&controller, &credentials).await;
    eventually("the host's connection", || controller.is_connected("web-1")).await;

    let mut client = VolumeServiceClient::new(controller.channel(None).await.expect("connected"));
    let message = ListVolumesRequest::default();
    let mut volumes =
        client.list_volumes(request(&controller, message, "web-1")).await.expect("a list").into_inner();
    let mut names = Vec::new();
    while let Some(volume) = volumes.message().await.expect("a volume") {
        names.push(volume.name);
    }
    assert_eq!(names, ["a", "b"]);

    let message = RemoveVolumeRequest { name: "a".to_owned() };
    let status = client.remove_volume(request(&controller, message, "web-1")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "volume a is in use"));
    let row = ("admin".to_owned(), "on=web-1 name=a".to_owned());
    let row = [row];
    assert_eq!(controller.audited("RemoveVolume", "allowed").await, row);
    assert_eq!(controller.audited("RemoveVolume", "failed").await, row);

    let seen = agent.metadata.lock().expect("lock").clone();
    // The controller's own look at the host's volumes comes without an actor.
    let actors: Vec<_> = seen.iter().filter_map(|metadata| metadata.get(ACTOR_METADATA)).collect();
    assert_eq!(actors, ["admin", "admin"]);
    for metadata in seen {
        assert!(metadata.get("authorization").is_none() && metadata.get(HOST_METADATA).is_none());
        assert!(!format!("{metadata:?}").contains(&controller.admin_token()));
    }
    controller.stop().await;
}

#[tokio::test]
async fn o02_hosts_that_are_unknown_or_away_are_told_apart() {
    let controller = Controller::start().await;
    controller.host("web-1").await;
    let mut client = VolumeServiceClient::new(controller.channel(None).await.expect("connected"));
    let mut ask = async |host: &str| {
        let status = client.list_volumes(request(&controller, ListVolumesRequest::default(), host)).await;
        let status = status.map(drop).unwrap_err();
        let word =
            status.metadata().get(ERROR_CODE_METADATA).expect("a word").to_str().expect("ascii").to_owned();
        (status.code(), word, status.message().to_owned())
    };
    let (code, word, message) = ask("web-2").await;
    assert_eq!((code, word.as_str()), (Code::NotFound, "host-unknown"));
    assert_eq!(message, "host `web-2` is not known; did you mean `web-1`?");
    let (code, word, message) = ask("web-1").await;
    assert_eq!((code, word.as_str()), (Code::Unavailable, "host-not-connected"));
    assert_eq!(message, "host `web-1` is not connected; it never was");
    controller.stop().await;
}
