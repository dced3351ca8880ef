//! A volume goes away while it is backed up.

use e2e::fleet::Fleet;
use e2e::require_engine;

use super::{HOST, LARGE, fill, halt_at, quiesced_container, snapshots, source, start};

#[test]
fn d04_a_volume_removed_for_good_during_its_backup_is_not_committed() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    fill(fleet.engine(HOST), "other", "echo text > /data/file");
    // While it is read, and when all of it has been; the small one is done by then.
    for point in ["agent.pack.before-put:3", "agent.capture.first-pass-done:2"] {
        fill(
            fleet.engine(HOST),
            "data",
            &format!("{LARGE}; for i in $(seq 200); do echo $i > /data/z-$i; done"),
        );
        halt_at(&mut fleet, point);
        let id = start(&fleet, &["data", "other"], "none");
        fleet.host(HOST).agent().wait_halted(120);
        fleet.engine(HOST).docker(["volume", "rm", "data"]);
        fleet.host(HOST).agent().run_on();
        let job = fleet.await_job(&id, 120);
        assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"not-found".into()), "{job}");
        let gone = source(&job, "data");
        assert!(gone["error"].as_str().unwrap().contains("`data`"), "{point}: {job}");
        assert_eq!((&gone["ok"], &gone["snapshot"]), (&false.into(), &"".into()), "{point}: {job}");
        assert_eq!(source(&job, "other")["ok"], true, "{point}: {job}");
        assert_eq!(snapshots(&fleet, "data"), 0, "{point}");
        fleet.assert_whole();
    }
    assert_eq!(snapshots(&fleet, "other"), 2);
    assert!(!fleet.engine(HOST).has_volume("data"), "somebody made it anew");
}

/// Its user goes with it, and is not brought back; that the volume is gone is
/// no reason to ask whether a filesystem is not mounted.
#[test]
fn d03_d04_a_volume_removed_with_its_user_at_rest_is_called_gone_and_not_empty() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    fleet.engine(HOST).run_writer("writer", "data");
    assert_eq!(fleet.backup(HOST, "data", "stop")["state"], "succeeded");
    halt_at(&mut fleet, "agent.quiesce.after-stop");
    let id = start(&fleet, &["data"], "stop");
    fleet.host(HOST).agent().wait_halted(60);
    fleet.engine(HOST).docker(["rm", "writer"]);
    fleet.engine(HOST).docker(["volume", "rm", "data"]);
    fleet.host(HOST).agent().run_on();
    let job = fleet.await_job(&id, 120);
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"not-found".into()), "{job}");
    let writer = quiesced_container(&job, "writer");
    assert_eq!((&writer["resumed"], &writer["problem"]), (&false.into(), &"it was removed meanwhile".into()));
    assert!(!fleet.engine(HOST).has_container("writer"));
    assert_eq!(snapshots(&fleet, "data"), 1, "that of before");
    fleet.assert_whole();
}
