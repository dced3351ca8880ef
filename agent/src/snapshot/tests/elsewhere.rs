//! Volumes whose settings lead elsewhere than Docker's own directory.

use std::collections::BTreeMap;

use super::*;

fn bind(name: &VolumeName, device: &std::path::Path) -> RestoreTarget {
    let options = [("type", "none"), ("o", "bind"), ("device", device.to_str().unwrap())];
    RestoreTarget::Volume(VolumeTarget {
        name: name.clone(),
        driver: String::new(),
        options: options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        labels: BTreeMap::new(),
    })
}

impl Bench {
    /// A volume that a person made on a directory, with a file in it, and its snapshot.
    async fn bound_snapshot(&self, device: &std::path::Path) -> SnapshotId {
        let name = self.scene.volume_name("bound");
        let device = format!("device={}", device.display());
        let create = ["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", &device];
        self.scene.docker(&[&create[..], &[name.as_str()]].concat());
        let source = SourceId::generate();
        let outcome = self.run(request(source, &name, None)).await;
        assert!(outcome.ended.ok, "what a person made is backed up: {outcome:?}");
        let (id, body) = self.repository.snapshots(source).remove(0);
        assert_eq!(body.source.options["o"], "bind");
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v01_options_in_a_snapshot_are_not_obeyed() {
    let Some(bench) = Bench::open().await else { return };
    let device = bench.scene.directory("device");
    fs::write(device.join("file"), "data").unwrap();
    let snapshot = bench.bound_snapshot(&device).await;
    let name = bench.scene.volume_name("copy");
    // As on its own host, where the place it led to is in use.
    let finished = bench.restore(restore_request(snapshot, into_volume(&name))).await;
    assert!(finished.ok, "{finished:?}");
    let made = bench.scene.engine.inspect_volume(&name).await.unwrap();
    assert_eq!((made.driver.as_str(), made.options.len()), ("local", 0));
    assert_eq!(fs::read_to_string(made.mountpoint.join("file")).unwrap(), "data");
    // And as on another one, where that place is an empty directory.
    fs::remove_file(device.join("file")).unwrap();
    let name = bench.scene.volume_name("copy-2");
    let finished = bench.restore(restore_request(snapshot, into_volume(&name))).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(fs::read_dir(&device).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v02_a_restore_into_a_volume_that_leads_elsewhere_is_refused_by_name() {
    let Some(bench) = Bench::open().await else { return };
    let (_, snapshot) = bench.snapshot().await;
    let outside = bench.scene.directory("outside");
    let allowed = bench.scene.directory("allowed");
    std::os::unix::fs::symlink(&outside, allowed.join("link")).unwrap();
    let name = bench.scene.volume_name("copy");
    let before = bench.volumes();
    for device in [&outside, &allowed.join("link")] {
        let finished = bench.restore(restore_request(snapshot, bind(&name, device))).await;
        assert_eq!(finished.error_code, "not-allowed", "{finished:?}");
        assert!(finished.error.contains(device.to_str().unwrap()), "{finished:?}");
    }
    let mut foreign = into_volume(&name);
    let RestoreTarget::Volume(target) = &mut foreign else { unreachable!() };
    target.driver = "vieux/sshfs".to_owned();
    let finished = bench.restore(restore_request(snapshot, foreign)).await;
    assert_eq!(finished.error_code, "not-allowed", "{finished:?}");
    assert!(finished.error.contains("vieux/sshfs"), "{finished:?}");
    assert_eq!(bench.volumes(), before);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(bench.repository.calls("open_restore"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_a_bind_of_an_allowed_directory_fills_it() {
    let Some(bench) = Bench::open().await else { return };
    let (path, snapshot) = bench.snapshot().await;
    let inside = bench.scene.directory("allowed").join("inside");
    fs::create_dir(&inside).unwrap();
    let name = bench.scene.volume_name("copy");
    let finished = bench.restore(restore_request(snapshot, bind(&name, &inside))).await;
    assert!(finished.ok, "{finished:?}");
    same_trees(&path, &inside);
}

fn entries(directory: &std::path::Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// A restore that fails removes what it wrote; what it met there stays.
#[tokio::test(flavor = "multi_thread")]
async fn p05_a_failed_restore_into_a_bind_leaves_the_directory_as_it_was() {
    let Some(bench) = Bench::open().await else { return };
    let (_, snapshot) = bench.snapshot().await;
    let inside = bench.scene.directory("allowed").join("inside");
    fs::create_dir(&inside).unwrap();
    let name = bench.scene.volume_name("copy");

    fs::write(inside.join("theirs"), "precious").unwrap();
    let finished = bench.restore(restore_request(snapshot, bind(&name, &inside))).await;
    assert_eq!(finished.error_code, "target-not-empty", "{finished:?}");
    assert_eq!(fs::read_to_string(inside.join("theirs")).unwrap(), "precious");

    fs::remove_file(inside.join("theirs")).unwrap();
    bench.repository.lock().failures.insert("read_pack", vec![tonic::Status::data_loss("gone"); 64]);
    let mut request = restore_request(snapshot, bind(&name, &inside));
    request.strict = true;
    let finished = bench.restore(request).await;
    assert!(!finished.ok, "{finished:?}");
    assert_eq!(entries(&inside), 0, "nothing half restored stays: {finished:?}");
    bench.repository.lock().failures.clear();
    let finished = bench.restore(restore_request(snapshot, bind(&name, &inside))).await;
    assert!(finished.ok, "{finished:?}");
}

/// As where the Engine was away: the removal of what the attempt before had
/// written down comes late, and must not meet what this one restored.
#[tokio::test(flavor = "multi_thread")]
async fn p05_a_restore_waits_until_what_an_attempt_before_left_is_removed() {
    use crate::journal::CleanupAction;
    use crate::resume::Act;

    let Some(bench) = Bench::open().await else { return };
    let (path, snapshot) = bench.snapshot().await;
    let name = bench.scene.volume_name("restored");
    let asked = restore_request(snapshot, into_volume(&name));
    let action = CleanupAction::RemoveVolume { job: asked.job, name: name.to_string(), seen_empty: None };
    let id = bench.recovery.journal().record(action.clone()).unwrap();
    bench.recovery.hand_over([(id, action, Act::over())]);
    let restoring = bench.restore(asked);
    tokio::pin!(restoring);
    // Time enough to restore it, if it did not wait for the removal.
    let early = tokio::time::timeout(Duration::from_secs(5), &mut restoring).await;
    assert!(bench.recovery.carry_out_all(Duration::from_secs(60)).await.is_empty());
    let finished = match early {
        Ok(finished) => finished,
        Err(_) => restoring.await,
    };
    assert!(finished.ok, "{finished:?}");
    let restored = bench.scene.engine.inspect_volume(&name).await;
    same_trees(&path, &restored.expect("what was restored was removed again").mountpoint);
}

/// As the journal has it after the agent died with the directory half full.
#[tokio::test(flavor = "multi_thread")]
async fn p05_only_the_directory_that_was_seen_empty_is_emptied_and_only_while_nobody_uses_it() {
    use std::os::unix::fs::MetadataExt;

    use crate::journal::CleanupAction;
    use crate::resume::{Attempt, Outcome};

    let Some(bench) = Bench::open().await else { return };
    let job = JobId::generate();
    let label = format!("{}={job}", crate::resume::RESTORE_LABEL);
    let half_restored = |suffix: &str| {
        let device = bench.scene.directory("allowed").join(suffix);
        fs::create_dir_all(device.join("dir/sub")).unwrap();
        fs::write(device.join("dir/sub/file"), "half").unwrap();
        let name = bench.scene.volume_name(suffix);
        let option = format!("device={}", device.display());
        let create = ["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", &option];
        bench.scene.docker(&[&create[..], &["--label", &label, name.as_str()]].concat());
        let inode = fs::metadata(&device).unwrap().ino();
        (name, device, inode)
    };
    let carry_out = async |name: &VolumeName, seen_empty: Option<u64>| {
        let action = CleanupAction::RemoveVolume { job, name: name.to_string(), seen_empty };
        let id = bench.recovery.journal().record(action.clone()).unwrap();
        bench.recovery.carry_out(id, &action, Outcome::Over).await.unwrap()
    };
    let is_there = async |name: &VolumeName| bench.scene.engine.inspect_volume(name).await.is_ok();

    let (name, device, inode) = half_restored("ours");
    assert_eq!(carry_out(&name, Some(inode)).await, Attempt::Done);
    assert_eq!((entries(&device), is_there(&name).await), (0, false));

    // Not seen empty: whatever is there was there before.
    let (name, device, _) = half_restored("theirs");
    assert_eq!(carry_out(&name, None).await, Attempt::Done);
    assert_eq!((entries(&device), is_there(&name).await), (1, false));

    // Another directory has taken the place.
    let (name, device, inode) = half_restored("moved");
    fs::rename(&device, device.with_extension("old")).unwrap();
    fs::create_dir(&device).unwrap();
    fs::write(device.join("theirs"), "precious").unwrap();
    assert_eq!(carry_out(&name, Some(inode)).await, Attempt::Done);
    assert_eq!((entries(&device), is_there(&name).await), (1, false));

    // A container mounts the directory by its path.
    let (name, device, inode) = half_restored("used");
    let mount = format!("{}:/data", device.join("dir").display());
    bench.scene.run_sleeper("user", &["-v", &mount]).await;
    assert!(
        matches!(carry_out(&name, Some(inode)).await, Attempt::Void(reason) if reason.contains("directory"))
    );
    assert_eq!((entries(&device), is_there(&name).await), (1, true));
    assert!(bench.recovery.journal().is_empty());
    bench.scene.docker(&["rm", "-f", &bench.scene.name("user")]);
}
