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
