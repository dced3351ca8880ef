//! Restores into new volumes and directories.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_a_new_volume() {
    let Some(bench) = Bench::open().await else { return };
    let (path, snapshot) = bench.snapshot().await;
    let name = bench.scene.volume_name("restored");
    let asked = restore_request(snapshot, into_volume(&name));
    let finished = bench.restore(asked.clone()).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!((finished.files, finished.differences), (2, 0));
    let volume = bench.scene.engine.inspect_volume(&name).await.unwrap();
    same_trees(&path, &volume.mountpoint);
    assert_eq!(volume.labels[crate::resume::RESTORE_LABEL], asked.job.to_string());
    assert!(bench.recovery.journal().is_empty());
    assert_eq!(bench.repository.open_leases(), 0);
    // Told again, not done again.
    assert_eq!(bench.restore(asked).await, finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn d15_an_existing_volume_is_never_written_into() {
    let Some(bench) = Bench::open().await else { return };
    let (_, snapshot) = bench.snapshot().await;
    let (name, path) = bench.volume("taken").await;
    let finished = bench.restore(restore_request(snapshot, into_volume(&name))).await;
    assert_eq!(finished.error_code, "target-exists", "{finished:?}");
    assert!(path.join("large").exists());
    assert_eq!(bench.repository.calls("open_restore"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_a_restore_that_fails_or_is_cancelled_leaves_no_volume() {
    let Some(bench) = Bench::open().await else { return };
    let (_, snapshot) = bench.snapshot().await;
    let before = bench.volumes();
    let refused = vec![Status::permission_denied("not yours"); 64];
    bench.repository.lock().failures.insert("read_pack", refused);
    let name = bench.scene.volume_name("restored");
    let finished = bench.restore(restore_request(snapshot, into_volume(&name))).await;
    assert!(!finished.ok && !finished.error_code.is_empty(), "{finished:?}");
    assert_eq!(bench.volumes(), before);
    bench.repository.lock().failures.clear();

    bench.repository.lock().stuck = Some("locate");
    let seen = bench.repository.calls("locate");
    let asked = restore_request(snapshot, into_volume(&name));
    let job = asked.job;
    let cancelling = async {
        while bench.repository.calls("locate") == seen {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(bench.volumes(), before);
        assert!(bench.snapshots.cancel(job));
    };
    let (finished, ()) = tokio::join!(bench.restore(asked), cancelling);
    assert!(finished.cancelled, "{finished:?}");
    assert_eq!(bench.volumes(), before);
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_filled_beside_its_place_and_then_named() {
    let Some(bench) = Bench::open().await else { return };
    let (path, snapshot) = bench.snapshot().await;
    let allowed = bench.scene.directory("allowed");
    let target = allowed.join("new");
    let asked = |path: &std::path::Path| restore_request(snapshot, RestoreTarget::Directory(path.to_owned()));
    let finished = bench.restore(asked(&target)).await;
    assert!(finished.ok, "{finished:?}");
    same_trees(&path, &target);
    assert_eq!(fs::read_dir(&allowed).unwrap().count(), 1, "nothing is left beside it");
    let again = bench.restore(asked(&target)).await;
    assert_eq!(again.error_code, "target-exists", "{again:?}");
    let outside = bench.restore(asked(&bench.scene.directory("other").join("x"))).await;
    assert_eq!(outside.error_code, "not-allowed", "{outside:?}");
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn some_paths_are_restored_alone() {
    let Some(bench) = Bench::open().await else { return };
    let (_, snapshot) = bench.snapshot().await;
    let name = bench.scene.volume_name("some");
    let asked = RestoreRequest {
        paths: vec![b"sub/small".to_vec()],
        ..restore_request(snapshot, into_volume(&name))
    };
    let finished = bench.restore(asked).await;
    assert!(finished.ok, "{finished:?}");
    let path = bench.scene.engine.inspect_volume(&name).await.unwrap().mountpoint;
    assert_eq!(fs::read_to_string(path.join("sub/small")).unwrap(), "small");
    assert!(!path.join("large").exists());
}
