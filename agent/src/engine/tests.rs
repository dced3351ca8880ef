use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::testing::{SOCKET, Scene};
use super::*;

fn new_volume(scene: &Scene, suffix: &str) -> NewVolume {
    NewVolume {
        name: scene.volume_name(suffix),
        driver: "local".to_owned(),
        options: BTreeMap::new(),
        labels: BTreeMap::from([(scene.label(), "1".to_owned())]),
    }
}

#[test]
fn the_api_version_is_the_newest_both_sides_speak() {
    assert_eq!(choose_minor("1.41", "1.12").unwrap(), 41);
    assert_eq!(choose_minor("1.60", "1.44").unwrap(), 51);
    assert_eq!(choose_minor("1.48", "").unwrap(), 48);
    for (newest, oldest) in [("1.40", "1.12"), ("1.60", "1.52"), ("2.0", "2.0"), ("", "")] {
        let error = choose_minor(newest, oldest).unwrap_err();
        assert_eq!(error.kind(), EngineErrorKind::Unsupported, "{newest} {oldest}: {error}");
    }
}

#[tokio::test]
async fn d09_a_missing_socket_is_unreachable_and_named() {
    let engine = Engine::open(Path::new("/nonexistent/docker.sock"));
    let error = engine.info().await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unreachable);
    assert!(error.to_string().contains("/nonexistent/docker.sock"), "{error}");
}

#[tokio::test]
async fn d11_an_engine_that_never_answers_is_given_up_and_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        // Ends when the agent hangs up.
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    });
    let engine = Engine::open(&socket).with_limit(Duration::from_secs(2));
    assert_eq!(engine.list_volumes().await.unwrap_err().kind(), EngineErrorKind::Timeout);
    let heard =
        tokio::time::timeout(Duration::from_secs(30), silent).await.expect("the agent hangs up").unwrap();
    assert!(heard.starts_with(b"GET /version "), "{}", String::from_utf8_lossy(&heard));
}

/// Copies between clients and the Engine and keeps the first line of every request.
async fn proxy(listener: UnixListener, lines: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let lines = lines.clone();
        tokio::spawn(async move {
            let mut engine = UnixStream::connect(SOCKET).await.unwrap();
            let mut head = vec![0; 64 << 10];
            let length = client.read(&mut head).await.unwrap();
            let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
            lines.lock().unwrap().push(line);
            engine.write_all(&head[..length]).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut client, &mut engine).await);
        });
    }
}

#[tokio::test]
async fn d10_the_api_version_is_on_the_wire() {
    let Some(scene) = Scene::open().await else { return };
    let used = scene.engine.info().await.unwrap().api_version_used;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let serving = tokio::spawn(proxy(UnixListener::bind(&socket).unwrap(), lines.clone()));
    let engine = Engine::open(&socket);
    engine.list_volumes().await.unwrap();
    let name = scene.volume_name("none");
    assert!(engine.inspect_volume(&name).await.unwrap_err().is_not_found());
    serving.abort();
    let expected = [
        "GET /version HTTP/1.1".to_owned(),
        format!("GET /v{used}/volumes HTTP/1.1"),
        format!("GET /v{used}/volumes/{name} HTTP/1.1"),
    ];
    assert_eq!(*lines.lock().unwrap(), expected);
}

#[tokio::test]
async fn volumes_are_made_once_and_a_taken_name_with_other_settings_is_refused() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let wanted = new_volume(&scene, "v");
    let first = engine.create_volume(&wanted).await.unwrap();
    assert!(first.created);
    assert_eq!(first.volume.labels, wanted.labels);
    assert!(first.volume.created_unix_ms() > 0);
    let second = engine.create_volume(&wanted).await.unwrap();
    assert!(!second.created);
    assert_eq!(second.volume, first.volume);

    let mut other = wanted.clone();
    other.labels.insert("tier".to_owned(), "gold".to_owned());
    let error = engine.create_volume(&other).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Conflict);
    assert!(error.to_string().contains("label `tier`"), "{error}");

    let listed = engine.list_volumes().await.unwrap();
    assert!(listed.contains(&first.volume));
    engine.remove_volume(&wanted.name).await.unwrap();
    assert!(engine.inspect_volume(&wanted.name).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_volumes_users_are_found_in_every_state_and_block_its_removal() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let wanted = new_volume(&scene, "v");
    engine.create_volume(&wanted).await.unwrap();
    let at = format!("{}:/data:ro", wanted.name);
    let running = scene.run_sleeper("running", &["-v", &at]).await;
    let stopped = scene.run_sleeper("stopped", &["-v", &at]).await;
    scene.run_sleeper("other", &[]).await;
    scene.docker(&["kill", &stopped]);

    let users = engine.volume_users(&wanted.name).await.unwrap();
    let facts: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.state)).collect();
    assert_eq!(
        facts,
        [(running.as_str(), ContainerState::Running), (stopped.as_str(), ContainerState::Exited)]
    );
    assert!(users.iter().all(|user| user.mounts.len() == 1 && user.mounts[0].read_only));
    let error = engine.remove_volume(&wanted.name).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn containers_are_paused_stopped_and_started_again() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let name = scene.run_sleeper("c", &["--stop-timeout", "0"]).await;
    engine.pause_container(&name).await.unwrap();
    assert_eq!(engine.inspect_container(&name).await.unwrap().state, ContainerState::Paused);
    engine.unpause_container(&name).await.unwrap();
    engine.unpause_container(&name).await.expect("a second time is no failure");

    let before = engine.inspect_container(&name).await.unwrap();
    assert_eq!((before.state, before.stop_timeout_seconds), (ContainerState::Running, Some(0)));
    engine.stop_container(&before, None).await.unwrap();
    engine.stop_container(&before, None).await.expect("a second time is no failure");
    assert_eq!(engine.inspect_container(&name).await.unwrap().state, ContainerState::Exited);
    engine.start_container(&name).await.unwrap();
    assert_eq!(engine.wait_healthy(&name, Duration::from_secs(30)).await.unwrap(), HealthWait::NoCheck);
    assert_ne!(engine.inspect_container(&name).await.unwrap().started_at, before.started_at);

    engine.remove_container(&name).await.unwrap();
    engine.remove_container(&name).await.expect("a second time is no failure");
    assert!(engine.inspect_container(&name).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_container_that_was_found_is_meant_whatever_has_its_name_by_now() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let name = scene.run_sleeper("c", &[]).await;
    scene.docker(&["kill", &name]);
    let found = engine.inspect_container(&name).await.unwrap();
    engine.rename_container(&found.id, &scene.name("renamed")).await.unwrap();
    scene.run_sleeper("c", &[]).await;
    let other = engine.inspect_container(&name).await.unwrap();

    engine.start_found(&found).await.unwrap();
    assert_eq!(engine.inspect_container(&found.id).await.unwrap().state, ContainerState::Running);
    engine.remove_found(&found, true, false).await.unwrap();
    assert!(engine.inspect_container(&found.id).await.unwrap_err().is_not_found());
    assert_eq!(engine.inspect_container(&name).await.unwrap().id, other.id);
    let gone = engine.remove_found(&found, true, false).await.unwrap_err();
    assert!(gone.is_not_found() && gone.to_string().contains(&name), "{gone}");
}

#[tokio::test]
async fn health_is_awaited_and_an_unhealthy_container_is_told_apart() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let run = async |name: &str, verdict: &str| {
        let second = Duration::from_secs(1).as_nanos();
        let check = json!({"Test": ["CMD", "/bin/busybox", verdict], "Interval": second, "Retries": 1});
        let image = scene.image_with(&format!("is-{name}"), &json!({"Healthcheck": check})).await;
        let name = scene.name(name);
        let run = ["run", "-d", "--name", &name, "--network", "none", &image];
        scene.docker(&[&run[..], &["/bin/busybox", "sleep", "86400"]].concat());
        name
    };
    let (well, sick) = (run("well", "true").await, run("sick", "false").await);
    let within = Duration::from_secs(60);
    assert_eq!(engine.wait_healthy(&well, within).await.unwrap(), HealthWait::Healthy);
    assert_eq!(engine.wait_healthy(&sick, within).await.unwrap(), HealthWait::Unhealthy);
    scene.docker(&["kill", &well]);
    assert_eq!(engine.wait_healthy(&well, within).await.unwrap(), HealthWait::Ended { exit_code: 137 });
}

#[tokio::test]
async fn every_kind_of_mount_is_read() {
    let Some(scene) = Scene::open().await else { return };
    let directory = scene.directory("bind");
    let volume = format!("{}:/v", scene.name("v"));
    let bind = format!("{}:/b:ro,rprivate", directory.display());
    let name = scene
        .run_sleeper(
            "c",
            &[
                "-v",
                &volume,
                "-v",
                &bind,
                "--tmpfs",
                "/t:size=1m",
                "--mount",
                "type=tmpfs,dst=/u,tmpfs-size=2048",
            ],
        )
        .await;
    let container = scene.engine.inspect_container(&name).await.unwrap();
    let facts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| {
            (mount.target.as_str(), mount.kind, mount.source.clone(), mount.read_only, mount.size_bytes)
        })
        .collect();
    assert_eq!(
        facts,
        [
            ("/b", MountKind::Bind, directory.display().to_string(), true, None),
            ("/t", MountKind::Tmpfs, String::new(), false, Some(1 << 20)),
            ("/u", MountKind::Tmpfs, String::new(), false, Some(2048)),
            ("/v", MountKind::Volume, scene.name("v"), false, None),
        ]
    );
    assert_eq!(container.mounts[0].propagation, "rprivate");
    assert_eq!(container.mounts[3].driver, "local");
}
