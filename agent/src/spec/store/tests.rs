use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::engine::ContainerState;
use crate::engine::testing::Scene;

fn container(id: &str, name: &str) -> ContainerSummary {
    ContainerSummary {
        id: id.to_owned(),
        name: name.to_owned(),
        image: "app:1".to_owned(),
        state: ContainerState::Running,
        labels: BTreeMap::new(),
        mounts: Vec::new(),
    }
}

fn record(name: &str) -> Record {
    let inspect = json!({ "Id": "1", "Name": name, "Config": { "Env": ["A=1"] }, "HostConfig": {} });
    let spec = Spec::of(&inspect, &Value::Null, &Facts::default(), &[]).unwrap();
    Record::present(spec)
}

/// With both clocks in step.
fn at(ms: i64) -> Moment {
    Moment { unix_ms: ms, uptime_ms: ms.try_into().unwrap() }
}

#[test]
fn specs_are_kept_for_thirty_days_after_their_container_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("specs");
    let (here, day) = ([container("1", "web")], 24 * 60 * 60 * 1000);
    assert_eq!(tidy(dir, &here, at(0)).unwrap(), ["1"]);
    write(dir, &record_file("1"), &record("web")).unwrap();
    assert!(tidy(dir, &here, at(day)).unwrap().is_empty());
    tidy(dir, &[], at(2 * day)).unwrap();
    assert_eq!(read_record(dir, "1").unwrap().gone_unix_ms, Some(2 * day));
    // One that is back is not gone.
    tidy(dir, &here, at(3 * day)).unwrap();
    assert_eq!(read_record(dir, "1").unwrap(), record("web"));
    tidy(dir, &[], at(4 * day)).unwrap();
    tidy(dir, &[], at(34 * day)).unwrap();
    assert!(read_record(dir, "1").is_some());
    tidy(dir, &[], at(34 * day + 1)).unwrap();
    assert!(read_record(dir, "1").is_none());
    assert!(read_names(dir).is_empty());
}

/// A virtual machine is resumed with its clock months ahead, which is set right
/// a pass later.
#[test]
fn h10_a_clock_ahead_for_one_pass_costs_no_spec_and_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("specs");
    let (here, minute, day) = ([container("1", "web")], 60_000, 24 * 60 * 60 * 1000);
    tidy(dir, &here, at(day)).unwrap();
    write(dir, &record_file("1"), &record("web")).unwrap();
    tidy(dir, &[], at(2 * day)).unwrap();
    let ahead = Moment { unix_ms: 92 * day, uptime_ms: at(2 * day + minute).uptime_ms };
    tidy(dir, &[], ahead).unwrap();
    assert!(read_record(dir, "1").is_some());
    assert_eq!(read_names(dir)["web"].ids, ["1"]);
    tidy(dir, &[], at(2 * day + 2 * minute)).unwrap();
    assert!(read_record(dir, "1").is_some());
    assert_eq!(read_names(dir)["web"].ids, ["1"]);
    // Nor does one that stays right keep them for ever.
    tidy(dir, &[], at(33 * day)).unwrap();
    assert!(read_record(dir, "1").is_none() && read_names(dir).is_empty());
}

#[test]
fn what_cannot_be_read_is_taken_anew_and_only_the_agent_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("specs");
    let here = [container("1", "web")];
    tidy(dir, &here, at(0)).unwrap();
    write(dir, &record_file("1"), &record("web")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(dir), mode(&dir.join("1.json"))), (0o700, 0o600));
    fs::write(dir.join("1.json"), "{").unwrap();
    fs::write(dir.join("2.json.new"), "{").unwrap();
    assert_eq!(tidy(dir, &here, at(0)).unwrap(), ["1"]);
    assert!(!dir.join("2.json.new").exists());
}

#[test]
fn the_ids_a_name_had_are_remembered_in_order() {
    let mut names = Names::new();
    for (now, id) in ["1", "2", "2", "3"].into_iter().enumerate() {
        names = named(names, &[container(id, "web")], at(now.try_into().unwrap()), KEPT);
    }
    assert_eq!(
        names["web"],
        Named { ids: vec!["1".into(), "2".into(), "3".into()], seen_unix_ms: 3, seen_uptime_ms: 3 }
    );
    names = named(names, &[container("1", "web")], at(4), KEPT);
    assert_eq!(names["web"].ids, ["2", "3", "1"]);
    assert!(named(names, &[], at(9), Duration::from_millis(4)).is_empty());
}

#[tokio::test]
async fn a_container_whose_image_is_gone_is_told_from_what_was_kept() {
    let Some(scene) = Scene::open().await else { return };
    let directory = scene.directory("state");
    let specs = Specs::new(&directory, scene.engine.clone());
    let (name, image) = (scene.name("c"), format!("{}:2", scene.name("own")));
    let base = scene.image().await;
    scene.docker(&["run", "--name", &scene.name("base"), "--network", "none", &base, "/bin/busybox", "true"]);
    scene.docker(&["commit", "--change", "ENV B=2", "--change", "USER 5", &scene.name("base"), &image]);
    scene.docker(&[
        "create",
        "--name",
        &name,
        "--network",
        "none",
        "-e",
        "A=1",
        "-v",
        "/data",
        &image,
        "/bin/busybox",
    ]);
    specs.keep(at(0)).await.unwrap();
    let before = specs.read(&name).await.unwrap();
    assert_eq!(before.config["Env"], json!(["A=1"]));

    scene.docker(&["image", "rm", "-f", &image]);
    let gone = Spec::read(&scene.engine, &name).await.unwrap_err();
    assert!(matches!(gone, SpecError::ImageGone { .. }), "{gone}");
    assert!(gone.to_string().contains(&image), "{gone}");
    let mut after = specs.read(&name).await.unwrap();
    assert!(after.notes.pop().unwrap().contains("earlier look"));
    assert_eq!(after, before);
    let nothing_kept = Specs::new(&scene.directory("other"), scene.engine.clone());
    assert!(matches!(nothing_kept.read(&name).await, Err(SpecError::ImageGone { .. })));
}

#[tokio::test]
async fn the_id_of_a_former_container_is_neither_host_name_nor_alias() {
    let Some(scene) = Scene::open().await else { return };
    let specs = Specs::new(&scene.directory("state"), scene.engine.clone());
    let first = scene.run_sleeper("c", &[]).await;
    let id = scene.engine.inspect_container(&first).await.unwrap().id;
    specs.keep(at(0)).await.unwrap();
    scene.docker(&["rm", "-f", &first]);
    // As a tool that copies everything would make it.
    scene.run_sleeper("c", &["--hostname", &id[..12]]).await;
    specs.keep(at(1)).await.unwrap();
    assert_eq!(specs.read(&first).await.unwrap().config.get("Hostname"), None);
    assert_eq!(Spec::read(&scene.engine, &first).await.unwrap().config["Hostname"], id[..12]);
    let inspect = scene.engine.inspect_container_json(&first).await.unwrap();
    let strange = Specs::new(&scene.directory("none"), scene.engine.clone());
    let (clean, dropped) = strange.read_clean(&inspect).await.unwrap();
    assert!(
        !clean.config.contains_key("Hostname") && dropped.iter().any(|line| line.contains(&id[..12])),
        "{dropped:?}"
    );
}
