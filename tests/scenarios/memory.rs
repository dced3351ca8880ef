//! The agent's memory is a budget, whatever the volume holds.

use e2e::figure;
use e2e::fleet::Fleet;
use e2e::require_engine;

/// Peak resident memory of a process, bytes.
fn peak_bytes(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn a31_a_hundred_thousand_files_stay_within_256_mib() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    let data = fleet.engine("host-a").volume_path("data");
    for dir in 0..100 {
        let dir = data.join(format!("dir-{dir}"));
        std::fs::create_dir(&dir).unwrap();
        for file in 0..1000 {
            let path = dir.join(format!("file-{file}"));
            let seed = path.display().to_string();
            let text: String = seed.chars().cycle().take(1024).collect();
            std::fs::write(path, text).unwrap();
        }
    }
    let job = fleet.backup("host-a", "data", "none");
    assert_eq!(job["sources"][0]["stats"]["files"], 100_000, "{job}");
    let pid = fleet.host("host-a").agent().pid().as_raw_nonzero().to_string();
    let after_backup = peak_bytes(&pid);
    let job = fleet.json(&["restore", "volume", "data", "--host", "host-a", "--as", "copy"]);
    assert_eq!(job["restore"]["differences"], 0);
    let after_restore = peak_bytes(&pid);
    figure!(
        "peak resident memory of the agent: {} MiB after the backup, {} MiB after the restore of 100,000 files",
        after_backup >> 20,
        after_restore >> 20
    );
    assert!(after_restore <= 256 << 20, "{after_restore} bytes");
}
