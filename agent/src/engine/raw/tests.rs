use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::engine::testing::Scene;

fn body(image: &str) -> Value {
    json!({
        "Image": image,
        "Cmd": ["/bin/busybox", "sleep", "86400"],
        "Labels": { "a": "1" },
        "HostConfig": { "NetworkMode": "none", "RestartPolicy": { "Name": "always" } },
    })
}

#[tokio::test]
async fn a_container_is_made_renamed_and_told_when_to_start_again() {
    let Some(scene) = Scene::open().await else { return };
    let (engine, image) = (&scene.engine, scene.image().await);
    assert!((41..=51).contains(&engine.api_minor().await.unwrap()));
    let (first, second) = (scene.name("first"), scene.name("second"));
    let made = engine.create_container_json(&first, None, &body(&image)).await.unwrap();
    assert_eq!(made.id.len(), 64);
    let again = engine.create_container_json(&first, None, &body(&image)).await.unwrap_err();
    assert_eq!(again.kind(), EngineErrorKind::Conflict, "{again}");

    engine.rename_container(&made.id, &second).await.unwrap();
    engine.set_restart_policy(&made.id, &json!({ "Name": "no", "MaximumRetryCount": 0 })).await.unwrap();
    let seen = engine.inspect_container_json(&second).await.unwrap();
    assert_eq!(seen["Id"], made.id);
    assert_eq!(seen["HostConfig"]["RestartPolicy"]["Name"], "no");
    assert_eq!(seen["Config"]["Labels"], json!({ "a": "1" }));
    let image_seen = engine.inspect_image_json(&image).await.unwrap();
    assert_eq!(image_seen["Id"], seen["Image"]);
    assert_eq!(image_seen["Config"]["Env"], json!(["PATH=/bin"]));
    let listed = engine.list_images_json().await.unwrap();
    assert!(listed.iter().any(|listed| listed["Id"] == seen["Image"]));
    assert!(engine.info_json().await.unwrap()["ServerVersion"].is_string());
}

#[tokio::test]
async fn what_is_not_there_and_what_is_wrong_are_told_apart() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let name = scene.name("none");
    assert!(engine.inspect_container_json(&name).await.unwrap_err().is_not_found());
    let error = engine.inspect_image_json("hf-none/none:1").await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("hf-none/none:1"), "{error}");
    let error = engine.create_container_json(&name, None, &body("hf-none/none:1")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let wrong = json!({ "Image": scene.image().await, "Cmd": 7 });
    let error = engine.create_container_json(&name, None, &wrong).await.unwrap_err();
    assert!(matches!(error.kind(), EngineErrorKind::Invalid | EngineErrorKind::Failed), "{error}");
    for reference in ["", "../x", "a?b", "a b", "a//b", "a%2fb", "a#b"] {
        let error = engine.inspect_image_json(reference).await.unwrap_err();
        assert_eq!(error.kind(), EngineErrorKind::Invalid, "{reference}");
    }
}

#[tokio::test]
async fn commands_run_inside_and_what_they_change_is_listed() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let name = scene.run_sleeper("c", &[]).await;
    let run = |line: &str| {
        let argv = ["/bin/busybox", "sh", "-c", line].map(str::to_owned);
        let (engine, name) = (engine.clone(), name.clone());
        async move { engine.exec(&name, &argv, Duration::from_secs(30)).await }
    };
    let outcome = run("echo out; echo err >&2; echo x > /new; exit 3").await.unwrap();
    assert_eq!(outcome.exit_code, 3);
    assert!(outcome.output.contains("out\n") && outcome.output.contains("err\n"), "{outcome:?}");
    let changes = engine.container_changes(&name).await.unwrap();
    assert!(
        changes.contains(&PathChange { path: "/new".to_owned(), kind: PathChangeKind::Added }),
        "{changes:?}"
    );

    let long = run("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done").await.unwrap();
    assert!(long.output.len() <= OUTPUT_BYTES && long.output.ends_with("line 2999\n"));
    let argv = ["/bin/busybox", "sleep", "600"].map(str::to_owned);
    let error = engine.exec(&name, &argv, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Timeout);
    scene.docker(&["kill", &name]);
    assert_eq!(run("true").await.unwrap_err().kind(), EngineErrorKind::Conflict);
}

#[tokio::test]
async fn a_container_is_connected_to_a_network_with_its_endpoint() {
    let Some(scene) = Scene::open().await else { return };
    let engine = &scene.engine;
    let (network, octets) = scene.network("net", 1);
    let address = format!("{octets}.9");
    let mut wanted = body(&scene.image().await);
    wanted["HostConfig"]["NetworkMode"] = json!(network.clone());
    let made = engine.create_container_json(&scene.name("c"), None, &wanted).await.unwrap();
    scene.docker(&["network", "disconnect", &network, &made.id]);
    let endpoint = json!({ "Aliases": ["db"], "IPAMConfig": { "IPv4Address": address } });
    let connected = engine.connect_network(&network, &made.id, &endpoint).await;
    let seen = engine.inspect_container_json(&made.id).await.unwrap();
    connected.unwrap();
    let at = &seen["NetworkSettings"]["Networks"][&network];
    assert_eq!(at["IPAMConfig"]["IPv4Address"], address);
    assert!(at["Aliases"].as_array().unwrap().contains(&json!("db")), "{at}");
    assert_eq!(engine.inspect_network_json(&network).await.unwrap()["Name"], network);
    assert!(engine.inspect_network_json(&scene.name("none")).await.unwrap_err().is_not_found());
    engine.disconnect_network(&network, &made.id).await.unwrap();
    engine.disconnect_network(&network, &made.id).await.expect("a second time is no failure");
    let error = engine.connect_network(&network, &scene.name("none"), &endpoint).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

/// An Engine that speaks API 1.41 and answers each further request with `answer`.
async fn scripted(answer: &'static str) -> (Engine, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 16 << 10];
            let length = stream.read(&mut head).await.unwrap();
            let body = match head[..length].starts_with(b"GET /version") {
                true => r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#,
                false => answer,
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + body).as_bytes()).await.unwrap();
        }
    });
    (Engine::open(&directory.path().join("docker.sock")), directory)
}

#[tokio::test]
async fn a_pull_that_fails_after_it_began_is_a_failure() {
    let answer = "{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{\"message\":\"disk is full\"},\"error\":\"disk is full\"}\r\n";
    let (engine, _directory) = scripted(answer).await;
    let error = engine.pull_image("reg.example/app:2", Some("linux/arm64/v8")).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Failed);
    assert_eq!(
        error.to_string(),
        "the Docker Engine could not fetch image `reg.example/app:2`: disk is full"
    );
    let (engine, _directory) = scripted("{\"error\":\"manifest for app:9 not found\"}").await;
    assert!(engine.pull_image("app:9", None).await.unwrap_err().is_not_found());
    let (engine, _directory) = scripted("{\"status\":\"Downloaded\"}\n").await;
    engine.pull_image("app:2", None).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_a_failure() {
    let Some(scene) = Scene::open().await else { return };
    let error = scene.engine.pull_image("127.0.0.1:9/none:1", None).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
}

#[test]
fn a_reference_without_tag_means_latest() {
    let digest = format!("app@sha256:{}", "0".repeat(64));
    let tagged = [
        ("app", "app:latest"),
        ("reg:5000/app", "reg:5000/app:latest"),
        ("reg:5000/a:1", "reg:5000/a:1"),
        (&digest, &digest),
    ];
    for (reference, expected) in tagged {
        assert_eq!(with_tag(reference), expected);
    }
}

#[test]
fn no_engine_is_unreachable() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::open(Path::new("/nonexistent/docker.sock"));
    let error = runtime.block_on(engine.inspect_container_json("c")).unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unreachable);
}
