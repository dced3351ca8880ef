//! What is in a volume goes, changes its kind or grows while it is read.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::fleet::Fleet;
use e2e::{require_engine, tree};

use super::{HOST, LARGE, fill, halt_at, problems, source, start};

/// The names of a directory are read at once, so what happens to the files
/// after the first large one happens between that and their being opened.
#[test]
fn a22_a23_what_vanishes_or_changes_meanwhile_is_counted_where_people_look() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    fill(fleet.engine(HOST), "data", &format!("{LARGE}; for i in $(seq 40); do echo $i > /data/z-$i; done"));
    let data = fleet.engine(HOST).volume_path("data");
    halt_at(&mut fleet, "agent.pack.before-put");
    let id = start(&fleet, &["data"], "none");
    fleet.host(HOST).agent().wait_halted(60);
    let root_changed = std::fs::metadata(&data).unwrap().modified().unwrap();
    for i in 1..=10 {
        std::fs::remove_file(data.join(format!("z-{i}"))).unwrap();
    }
    for i in 11..=15 {
        let path = data.join(format!("z-{i}"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), "new").unwrap();
    }
    std::fs::remove_file(data.join("z-16")).unwrap();
    symlink("z-17", data.join("z-16")).unwrap();
    // The root was looked at before that.
    std::fs::File::open(&data).unwrap().set_modified(root_changed).unwrap();
    fleet.host(HOST).agent().run_on();
    let job = fleet.await_job(&id, 120);
    // What became something else was looked at once more, and is in as it is now.
    assert_eq!(job["state"], "succeeded", "{job}");
    let stats = &source(&job, "data")["stats"];
    assert_eq!((&stats["vanished_entries"], &stats["unreadable_entries"]), (&10.into(), &0.into()), "{job}");
    fleet.ok(&["restore", "volume", "data@latest", "--host", HOST, "--as", "again"]);
    tree::assert_equal(&data, &fleet.engine(HOST).volume_path("again"));
    let told = |said: String| assert!(said.contains("10 vanished"), "{said}");
    told(fleet.ok(&["snapshot", "show", "data@latest"]));
    told(fleet.ok(&["job", "show", &id]));

    // One that never holds still is torn, and makes the snapshot partial.
    let growing = data.join("b-grows");
    std::fs::write(&growing, vec![1; 40_000_000]).unwrap();
    let done = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = std::fs::File::options().append(true).open(&growing).unwrap();
            while !done.load(Ordering::SeqCst) {
                file.write_all(b"more").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let said = fleet.cli(&["backup", "run", "--host", HOST, "--volume", "data", "--consistency", "none"]);
        done.store(true, Ordering::SeqCst);
        said
    });
    let said = said.ends_with(3);
    assert!(said.stdout.contains("1 torn") || said.stderr.contains("1 torn"), "{said:?}");
    let shown = fleet.json(&["snapshot", "show", "data@latest"]);
    assert_eq!((&shown["partial"], &shown["stats"]["torn_files"]), (&true.into(), &1.into()), "{shown}");
    assert!(problems(&shown).contains("b-grows changed while it was read, twice"), "{shown}");
    assert!(fleet.ok(&["snapshot", "show", "data@latest"]).contains("1 torn"));
}
