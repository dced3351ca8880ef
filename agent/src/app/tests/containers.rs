use holdfast_proto::v1::container_mount::Kind;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use serde_json::Value;

use super::*;

fn containers(agent: &Agent) -> ContainerServiceClient<Channel> {
    ContainerServiceClient::new(agent.channel.clone())
}

async fn sleeper(scene: &Scene, suffix: &str) -> v1::RunContainerRequest {
    v1::RunContainerRequest {
        name: scene.name(suffix),
        image: scene.image().await,
        command: ["/bin/busybox", "sleep", "86400"].map(str::to_owned).to_vec(),
        env: vec!["SECRET=hunter2".to_owned()],
        labels: HashMap::from([(scene.label(), "1".to_owned())]),
        network: "none".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn containers_are_run_looked_at_stopped_and_removed() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"container\"]", Path::new(SOCKET)).await;
    let mut client = containers(&agent);
    let mut wanted = sleeper(&scene, "c").await;
    wanted.restart = "on-failure:2".to_owned();
    wanted.mounts = vec![v1::ContainerMount {
        kind: Some(Kind::Volume(v1::VolumeMount { name: scene.name("v"), no_copy: false })),
        target: "/data".to_owned(),
        read_only: true,
    }];
    let made = client.run_container(wanted.clone()).await.unwrap().into_inner().container.unwrap();
    assert_eq!(
        (made.state.as_str(), made.name.as_str(), made.mounts),
        ("running", scene.name("c").as_str(), 1)
    );
    let taken = client.run_container(wanted.clone()).await.unwrap_err();
    assert_eq!((taken.code(), code_of(&taken)), (Code::AlreadyExists, "conflict"));

    let request = v1::InspectContainerRequest { container: made.id.clone() };
    let seen = client.inspect_container(request).await.unwrap().into_inner();
    assert_eq!(seen.restart_policy, "on-failure:2");
    assert!(seen.started_unix_ms > 0 && !seen.spec_json.contains("hunter2"), "{}", seen.spec_json);
    let request = v1::GetContainerSpecRequest { container: scene.name("c"), clean: false };
    let spec = client.get_container_spec(request).await.unwrap().into_inner();
    let spec: Value = serde_json::from_str(&spec.json).unwrap();
    assert_eq!(spec["config"]["Env"], serde_json::json!(["SECRET=hunter2"]));
    assert_eq!(spec["networks"], serde_json::json!([["none", {}]]));
    // Options of its own log driver the Engine merges in; they look like set ones.
    let keys = spec["host_config"].as_object().unwrap().keys();
    let set: Vec<&String> = keys.filter(|key| *key != "LogConfig").collect();
    assert_eq!(set, ["Mounts", "NetworkMode", "RestartPolicy"], "nothing the Engine fills in: {spec}");

    let list = |running_only| v1::ListContainersRequest {
        names: vec![scene.name("*")],
        labels: vec![format!("{}=1", scene.label())],
        running_only,
    };
    let listed: Vec<_> = client.list_containers(list(true)).await.unwrap().into_inner().collect().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].as_ref().unwrap().networks, ["none"]);

    let request = v1::StopContainerRequest { container: scene.name("c"), timeout_seconds: Some(0) };
    let stopped = client.stop_container(request).await.unwrap().into_inner();
    assert_eq!((stopped.state.as_str(), stopped.exit_code), ("exited", 137));
    let listed: Vec<_> = client.list_containers(list(true)).await.unwrap().into_inner().collect().await;
    assert!(listed.is_empty());
    let request = v1::StartContainerRequest { container: scene.name("c") };
    assert_eq!(client.start_container(request).await.unwrap().into_inner().state, "running");

    let mut request = v1::RemoveContainerRequest { container: scene.name("c"), ..Default::default() };
    let refused = client.remove_container(request.clone()).await.unwrap_err();
    assert_eq!(code_of(&refused), "conflict", "{refused}");
    request.force = true;
    client.remove_container(request.clone()).await.unwrap();
    let gone = client.remove_container(request).await.unwrap_err();
    assert_eq!(code_of(&gone), "not-found", "{gone}");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_makes_nothing() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"container\"]", Path::new(SOCKET)).await;
    let mut client = containers(&agent);
    let wanted = v1::RunContainerRequest { ports: vec!["x".to_owned()], ..sleeper(&scene, "c").await };
    let refused = client.run_container(wanted).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (Code::InvalidArgument, "invalid-request"));
    assert!(refused.message().starts_with("port `x`"), "{refused}");
    let wanted = v1::RunContainerRequest { image: "hf-none/none:1".to_owned(), ..sleeper(&scene, "c").await };
    assert_eq!(code_of(&client.run_container(wanted).await.unwrap_err()), "not-found");
    // What does not start is not left, nor is the volume made for it.
    let mut wanted = v1::RunContainerRequest {
        command: vec!["/no-such-program".to_owned()],
        ..sleeper(&scene, "c").await
    };
    let anonymous = Kind::Volume(v1::VolumeMount::default());
    wanted.mounts =
        vec![v1::ContainerMount { kind: Some(anonymous), target: "/data".to_owned(), read_only: false }];
    let failed = client.run_container(wanted).await.unwrap_err();
    assert!(failed.message().contains("/no-such-program"), "{failed}");
    let request = v1::InspectContainerRequest { container: scene.name("c") };
    assert_eq!(client.inspect_container(request).await.unwrap_err().code(), Code::NotFound);

    let once = v1::RunContainerRequest { remove_when_stopped: true, ..sleeper(&scene, "once").await };
    client.run_container(once).await.unwrap();
    let near = v1::StartContainerRequest { container: scene.name("onc") };
    let refused = client.start_container(near).await.unwrap_err();
    assert!(refused.message().contains(&format!("did you mean `{}`", scene.name("once"))), "{refused}");
    let request = v1::StopContainerRequest { container: scene.name("once"), timeout_seconds: Some(0) };
    assert!(
        ["removed", "exited", "removing"]
            .contains(&client.stop_container(request).await.unwrap().into_inner().state.as_str())
    );
    let request = v1::StopContainerRequest { container: scene.name("once"), timeout_seconds: Some(100_000) };
    assert_eq!(code_of(&client.stop_container(request).await.unwrap_err()), "invalid-request");
}

#[tokio::test]
async fn without_the_right_containers_can_only_be_looked_at() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"backup\", \"restore\", \"exec\"]", Path::new(SOCKET)).await;
    let mut client = containers(&agent);
    let name = scene.run_sleeper("c", &["-e", "SECRET=hunter2"]).await;
    let request = v1::InspectContainerRequest { container: name.clone() };
    assert!(client.inspect_container(request).await.unwrap().into_inner().spec_json.contains("SECRET"));
    let container = || name.clone();
    let refusals = [
        client
            .get_container_spec(v1::GetContainerSpecRequest { container: container(), clean: false })
            .await
            .unwrap_err(),
        client.run_container(sleeper(&scene, "d").await).await.unwrap_err(),
        client.start_container(v1::StartContainerRequest { container: container() }).await.unwrap_err(),
        client
            .stop_container(v1::StopContainerRequest { container: container(), timeout_seconds: None })
            .await
            .unwrap_err(),
        client
            .remove_container(v1::RemoveContainerRequest {
                container: container(),
                force: true,
                volumes: true,
            })
            .await
            .unwrap_err(),
    ];
    for refused in &refusals {
        assert_eq!((refused.code(), code_of(refused)), (Code::PermissionDenied, "not-allowed"), "{refused}");
    }
}

#[tokio::test]
async fn the_agents_own_containers_are_not_shown_and_not_touched() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"container\"]", Path::new(SOCKET)).await;
    let mut client = containers(&agent);
    let name = scene.run_sleeper("holder", &["--label", "holdfast.holder=x"]).await;
    let request = v1::ListContainersRequest { names: vec![name.clone()], ..Default::default() };
    let listed: Vec<_> = client.list_containers(request).await.unwrap().into_inner().collect().await;
    assert!(listed.is_empty());
    let request = v1::StopContainerRequest { container: name, timeout_seconds: None };
    assert_eq!(code_of(&client.stop_container(request).await.unwrap_err()), "conflict");
}
