use std::collections::HashMap;
use std::path::{Path, PathBuf};

use holdfast_proto::v1;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::mount_service_client::MountServiceClient;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::{ERROR_CODE_METADATA, HINT_METADATA, MAX_MESSAGE_BYTES};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::args::StateArgs;
use crate::engine::testing::{SOCKET, Scene};

mod containers;

/// An agent that serves in this process until it is dropped or stopped.
struct Agent {
    state: AgentState,
    serving: Option<JoinHandle<anyhow::Result<()>>>,
    channel: Channel,
    _directory: tempfile::TempDir,
}

impl Agent {
    async fn start(settings: &str, docker_socket: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.toml"), settings).unwrap();
        let args = RunArgs {
            state: StateArgs {
                state_dir: directory.path().to_owned(),
                config: None,
                docker_host: Some(format!("unix://{}", docker_socket.display())),
            },
            socket: Some(directory.path().join("agent.sock")),
        };
        let state = AgentState::open(Config::load(&args).unwrap()).await.unwrap();
        let socket = Socket::bind(&state.config.socket).await.unwrap();
        let channel = connect(socket.path().to_owned()).await;
        let serving = tokio::spawn({
            let state = state.clone();
            async move { serve(&state, socket).await }
        });
        Self { state, serving: Some(serving), channel, _directory: directory }
    }

    fn volumes(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(self.channel.clone())
    }
}

/// Connects when it is first used: the agent may not be serving yet.
async fn connect(path: PathBuf) -> Channel {
    Endpoint::from_static("http://agent").connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

fn code_of(status: &tonic::Status) -> &str {
    status.metadata().get(ERROR_CODE_METADATA).and_then(|word| word.to_str().ok()).unwrap_or_default()
}

fn create(name: &str, label: &str) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest {
        name: name.to_owned(),
        labels: HashMap::from([(label.to_owned(), "1".to_owned())]),
        ..Default::default()
    }
}

#[tokio::test]
async fn volumes_are_served_over_the_socket() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"restore\", \"remove\"]", Path::new(SOCKET)).await;
    let mut volumes = agent.volumes();
    let (name, label) = (scene.name("v"), scene.label());
    let made = volumes.create_volume(create(&name, &label)).await.unwrap().into_inner();
    assert!(made.created);
    assert!(!volumes.create_volume(create(&name, &label)).await.unwrap().into_inner().created);
    let mut other = create(&name, &label);
    other.labels.insert("tier".to_owned(), "gold".to_owned());
    let refused = volumes.create_volume(other).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (Code::AlreadyExists, "conflict"));

    let at = format!("{name}:/data:ro");
    let user = scene.run_sleeper("user", &["-v", &at]).await;
    let path = &made.volume.unwrap().mountpoint;
    std::fs::write(Path::new(path).join("file"), vec![1; 8192]).unwrap();
    let request = v1::InspectVolumeRequest { name: name.clone(), with_usage: true };
    let seen = volumes.inspect_volume(request).await.unwrap().into_inner();
    assert_eq!((seen.entries, seen.reach()), (Some(1), v1::VolumeReach::Direct));
    assert!(seen.size_bytes.unwrap() >= 8192);
    let users: Vec<_> =
        seen.users.iter().map(|user| (user.container_name.as_str(), user.read_only)).collect();
    assert_eq!(users, [(user.as_str(), true)]);

    let request = v1::ListVolumesRequest {
        names: vec![scene.name("*")],
        labels: vec![label],
        unused: Some(false),
        ..Default::default()
    };
    let listed: Vec<_> = volumes.list_volumes(request).await.unwrap().into_inner().collect().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].as_ref().unwrap().name, name);

    let request = v1::RemoveVolumeRequest { name: name.clone() };
    let refused = volumes.remove_volume(request.clone()).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (Code::FailedPrecondition, "conflict"));
    scene.docker(&["rm", "-f", &user]);
    volumes.remove_volume(request.clone()).await.unwrap();
    assert_eq!(volumes.remove_volume(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_volume_mounted_only_in_use_is_measured_through_a_holder() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("", Path::new(SOCKET)).await;
    let directory = scene.directory("device");
    std::fs::write(directory.join("file"), "data").unwrap();
    // A person on the host made it; the agent itself would not, here.
    let device = format!("device={}", directory.display());
    let options = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
    scene.docker(&[&["volume", "create"], &options[..], &[&scene.name("v")]].concat());
    let mut volumes = agent.volumes();
    let request = v1::InspectVolumeRequest { name: scene.name("v"), with_usage: true };
    let seen = volumes.inspect_volume(request).await.unwrap().into_inner();
    assert_eq!((seen.entries, seen.reach()), (Some(1), v1::VolumeReach::Holder));
    assert!(agent.state.journal.is_empty());
}

#[tokio::test]
async fn pruning_takes_a_dry_run_and_the_names_it_gave() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("allow = [\"restore\", \"remove\"]", Path::new(SOCKET)).await;
    let mut volumes = agent.volumes();
    volumes.create_volume(create(&scene.name("a"), &scene.label())).await.unwrap();
    let mut request =
        v1::PruneVolumesRequest { labels: vec![scene.label()], include_named: true, ..Default::default() };
    let refused = volumes.prune_volumes(request.clone()).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (Code::InvalidArgument, "invalid-request"));
    request.dry_run = true;
    let shown = volumes.prune_volumes(request.clone()).await.unwrap().into_inner();
    request.names = shown.volumes.into_iter().map(|volume| volume.name).collect();
    assert_eq!(request.names, [scene.name("a")]);
    request.dry_run = false;
    let pruned = volumes.prune_volumes(request).await.unwrap().into_inner();
    assert_eq!((pruned.volumes.len(), pruned.kept.len()), (1, 0));
}

#[tokio::test]
async fn mounts_are_listed_by_container_and_by_volume() {
    let Some(scene) = Scene::open().await else { return };
    let agent = Agent::start("", Path::new(SOCKET)).await;
    let volume = format!("{}:/v", scene.name("v"));
    let first = scene.run_sleeper("a", &["-v", &volume, "--tmpfs", "/t:size=1m"]).await;
    let second = scene.run_sleeper("b", &["-v", &volume, "-v", "/nowhere"]).await;
    let mut mounts = MountServiceClient::new(agent.channel.clone());
    let request =
        v1::ListMountsRequest { containers: vec![second.clone(), first.clone()], volume: String::new() };
    let listed: Vec<_> = mounts.list_mounts(request).await.unwrap().into_inner().collect().await;
    let listed: Vec<_> = listed.into_iter().map(Result::unwrap).collect();
    let names: Vec<_> = listed.iter().map(|container| container.container_name.as_str()).collect();
    assert_eq!(names, [first.as_str(), second.as_str()]);
    let kinds: Vec<_> = listed[0].mounts.iter().map(|mount| (mount.kind(), mount.size_bytes)).collect();
    assert_eq!(kinds, [(v1::MountKind::Tmpfs, Some(1 << 20)), (v1::MountKind::Volume, None)]);
    let anonymous = listed[1].mounts.iter().find(|mount| mount.anonymous).expect("an anonymous volume");
    assert_eq!(anonymous.target, "/nowhere");
    scene.docker(&["rm", "-fv", &second]);

    let request = v1::ListMountsRequest { containers: Vec::new(), volume: scene.name("v") };
    let listed: Vec<_> = mounts.list_mounts(request).await.unwrap().into_inner().collect().await;
    assert_eq!(listed.len(), 1);
    let request = v1::ListMountsRequest { containers: vec![second], volume: String::new() };
    assert_eq!(mounts.list_mounts(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn x18_hostile_names_reach_no_path_of_the_engine() {
    let agent =
        Agent::start("allow = [\"restore\", \"remove\"]", Path::new("/nonexistent/docker.sock")).await;
    let mut volumes = agent.volumes();
    for name in ["../../etc", "-v", "$(id)", "a\nb", "", &"a".repeat(300)] {
        let name = name.to_owned();
        let inspected = v1::InspectVolumeRequest { name: name.clone(), with_usage: false };
        for status in [
            volumes.inspect_volume(inspected).await.unwrap_err(),
            volumes.create_volume(create(&name, "x")).await.unwrap_err(),
            volumes.remove_volume(v1::RemoveVolumeRequest { name: name.clone() }).await.unwrap_err(),
        ] {
            assert_eq!(
                (status.code(), code_of(&status)),
                (Code::InvalidArgument, "invalid-name"),
                "{name:?}"
            );
        }
    }
    let mut mounts = MountServiceClient::new(agent.channel.clone());
    let request =
        v1::ListMountsRequest { containers: vec!["../volumes/x".to_owned()], volume: String::new() };
    assert_eq!(mounts.list_mounts(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn x26_what_the_host_does_not_allow_is_refused_whoever_asks() {
    let agent = Agent::start("allow = [\"backup\"]", Path::new("/nonexistent/docker.sock")).await;
    let restoring = Agent::start("", Path::new("/nonexistent/docker.sock")).await;
    let mut volumes = agent.volumes();
    let refused = volumes.create_volume(create("v", "x")).await.unwrap_err();
    // To restore is not to remove.
    let mut volumes = restoring.volumes();
    for status in [
        refused,
        volumes.remove_volume(v1::RemoveVolumeRequest { name: "v".to_owned() }).await.unwrap_err(),
        volumes.prune_volumes(v1::PruneVolumesRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!((status.code(), code_of(&status)), (Code::PermissionDenied, "not-allowed"));
        assert!(status.metadata().get(HINT_METADATA).is_some());
    }
    // Looking at what a prune would remove is allowed; it fails for another reason.
    let look = v1::PruneVolumesRequest { dry_run: true, ..Default::default() };
    let status = volumes.prune_volumes(look).await.unwrap_err();
    assert_eq!((status.code(), code_of(&status)), (Code::Unavailable, "engine-unreachable"));
    // Looking is allowed; it fails for another reason.
    let status = volumes.list_volumes(v1::ListVolumesRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), code_of(&status)), (Code::Unavailable, "engine-unreachable"));
}

/// A request for a volume with these options.
fn with_options(driver: &str, options: &[(&str, &str)]) -> v1::CreateVolumeRequest {
    let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    v1::CreateVolumeRequest { driver: driver.to_owned(), options, ..create("v", "x") }
}

#[tokio::test]
async fn v02_x26_a_volume_that_leads_elsewhere_is_refused_by_name_whoever_asks() {
    let allowed = tempfile::tempdir().unwrap();
    let allowed = allowed.path().canonicalize().unwrap();
    let inside = [("type", "none"), ("o", "bind"), ("device", allowed.to_str().unwrap())];
    let elsewhere = [
        (with_options("", &[("type", "none"), ("o", "bind"), ("device", "/etc")]), "/etc"),
        (with_options("local", &[("type", "tmpfs"), ("device", "tmpfs")]), "device"),
        (with_options("local", &[("type", "nfs"), ("o", "addr=10.0.0.1"), ("device", ":/x")]), "device"),
        (with_options("vieux/sshfs", &[]), "vieux/sshfs"),
    ];
    let engine = Path::new("/nonexistent/docker.sock");
    for allow in ["[\"backup\", \"restore\"]".to_owned(), format!("[\"restore\", \"{}\"]", allowed.display())]
    {
        let agent = Agent::start(&format!("allow = {allow}"), engine).await;
        for (request, named) in &elsewhere {
            let status = agent.volumes().create_volume(request.clone()).await.unwrap_err();
            assert_eq!(
                (status.code(), code_of(&status)),
                (Code::PermissionDenied, "not-allowed"),
                "{status:?}"
            );
            assert!(
                status.message().contains(named) && status.message().contains("`container`"),
                "{status:?}"
            );
        }
        let status = agent.volumes().create_volume(with_options("", &inside)).await.unwrap_err();
        let expected = if allow.contains('/') { "engine-unreachable" } else { "not-allowed" };
        assert_eq!(code_of(&status), expected, "{allow}: {status:?}");
        let status = agent.volumes().create_volume(with_options("", &[("size", "1g")])).await.unwrap_err();
        assert_eq!(code_of(&status), "engine-unreachable", "that is Docker's own directory");
    }
    let agent = Agent::start("allow = [\"restore\", \"container\"]", engine).await;
    for (request, _) in &elsewhere {
        let status = agent.volumes().create_volume(request.clone()).await.unwrap_err();
        assert_eq!(code_of(&status), "engine-unreachable", "root may: {status:?}");
    }
}

#[tokio::test]
async fn d09_an_agent_without_an_engine_says_so_and_stays_reachable() {
    let agent = Agent::start("", Path::new("/nonexistent/docker.sock")).await;
    let mut client = AgentServiceClient::new(agent.channel.clone());
    let mut greetings = agent.state.controller.greetings();
    let request = v1::HelloRequest { host_name: "web-1".to_owned(), now_unix_ms: 1, ..Default::default() };
    let answer = client.hello(request).await.unwrap().into_inner().agent.unwrap();
    assert!(answer.engine.is_none());
    assert!(answer.engine_problem.contains("/nonexistent/docker.sock"), "{}", answer.engine_problem);
    assert_eq!(answer.allow, ["backup", "restore"]);
    assert_eq!(answer.instance_id, agent.state.instance.to_string());
    greetings.changed().await.unwrap();
    let greeting = agent.state.controller.last().unwrap();
    assert_eq!(greeting.host_name, "web-1");
    assert!(greeting.skew_ms > 0);
}

#[tokio::test]
async fn health_and_reflection_are_served_and_a_stop_drains() {
    let mut agent = Agent::start("", Path::new("/nonexistent/docker.sock")).await;
    let mut health = HealthClient::new(agent.channel.clone());
    for service in ["", "holdfast.v1.VolumeService", "holdfast.v1.AgentService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), Answer::Serving, "{service}");
    }
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
        agent.channel.clone(),
    );
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let question = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("holdfast.v1.VolumeService".to_owned())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::once(question)).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.next().await.unwrap().unwrap().message_response);
    assert!(answer.starts_with("Some(FileDescriptorResponse"), "{answer}");
    use tonic_reflection::pb::v1alpha;
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(agent.channel.clone());
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "holdfast.v1.VolumeService".to_owned(),
        )),
    };
    let mut answers = older.server_reflection_info(tokio_stream::once(question)).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.next().await.unwrap().unwrap().message_response);
    assert!(answer.starts_with("Some(FileDescriptorResponse"), "{answer}");

    let path = agent.state.config.socket.clone();
    agent.state.stop.cancel();
    let serving = agent.serving.take().unwrap();
    tokio::time::timeout(Duration::from_secs(60), serving).await.expect("it stops").unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn x16_a_message_over_the_limit_is_refused_and_others_are_served() {
    let agent = Agent::start("", Path::new("/nonexistent/docker.sock")).await;
    let mut volumes = agent.volumes();
    let request = v1::ListVolumesRequest { driver: "x".repeat(MAX_MESSAGE_BYTES + 1), ..Default::default() };
    assert_eq!(volumes.list_volumes(request).await.unwrap_err().code(), Code::OutOfRange);
    let mut client = AgentServiceClient::new(agent.channel.clone());
    assert!(client.get_agent(v1::GetAgentRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_second_agent_on_one_state_directory_is_refused() {
    let agent = Agent::start("", Path::new("/nonexistent/docker.sock")).await;
    let directory = agent.state.config.state_dir.clone();
    assert!(Journal::open(&directory, Duration::ZERO).is_err());
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

#[tokio::test]
async fn what_is_allowed_is_written_before_the_token_is_spent() {
    let directory = tempfile::tempdir().unwrap();
    // Nothing listens there: the token is never shown to anybody.
    let token = holdfast_proto::join_token::JoinToken {
        addresses: vec!["127.0.0.1:1".to_owned()],
        ca_key_sha256: [1; 32],
        secret: [2; 32],
        host_name: "web-1".to_owned(),
    };
    let token_file = directory.path().join("token");
    secret_file::write(&token_file, &token.encode()).unwrap();
    let state = StateArgs {
        state_dir: directory.path().join("state"),
        config: None,
        docker_host: Some("unix:///nowhere/docker.sock".to_owned()),
    };
    let args = JoinArgs { state: state.clone(), token_file, allow: vec!["backup".to_owned()] };
    join(args).await.unwrap_err();
    assert_eq!(Config::load_state(&state).unwrap().allow.words(), ["backup"]);
}

#[tokio::test]
async fn a_task_that_panics_is_seen_and_one_that_ends_is_none() {
    let mut tasks = Tasks::default();
    tasks.ending.spawn(async {});
    tasks.endless.spawn(std::future::pending());
    let none = tokio::time::timeout(Duration::from_millis(50), tasks.failure()).await;
    assert!(none.is_err(), "{none:?}");
    tasks.endless.spawn(async { panic!("as a bug would") });
    assert!(tasks.failure().await.is_panic());
    tasks.end().await.unwrap();
}
