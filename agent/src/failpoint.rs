//! Named places at which a test makes the agent die.
//!
//! `HOLDFAST_FAILPOINT=name` kills the process with SIGKILL when it gets
//! there, `name:3` the third time. Nothing is flushed and no destructor runs,
//! which is the point: what is on disk then is what a power cut would leave.
//! Release builds have no such places.

/// Every name, so that a test can try them all.
pub const NAMES: &[&str] = &[
    "agent.journal.after-write",
    "agent.journal.after-remove",
    "agent.holder.created",
    "agent.quiesce.before-act",
    "agent.quiesce.after-pause",
    "agent.quiesce.after-stop",
    "agent.capture.first-pass-done",
    "agent.capture.second-pass-done",
    "agent.pack.before-put",
    "agent.pack.after-put",
    "agent.commit.before",
    "agent.commit.after",
    "agent.resume.before",
    "agent.resume.after",
    "agent.restore.volume-created",
    "agent.restore.written",
    "agent.restore.before-verify",
    "agent.restore.verified",
    "agent.upgrade.record-written",
    "agent.upgrade.new-created",
    "agent.upgrade.first-pass-done",
    "agent.upgrade.handed-over",
    "agent.upgrade.policy-set",
    "agent.upgrade.stopped",
    "agent.upgrade.cloned",
    "agent.upgrade.old-renamed",
    "agent.upgrade.new-renamed",
    "agent.upgrade.new-started",
    "agent.upgrade.gate-passed",
    "agent.upgrade.committing",
    "agent.upgrade.committed",
    "agent.upgrade.rollback-begun",
    "agent.upgrade.rollback-exchanged",
    "agent.upgrade.rollback-renamed",
    "agent.upgrade.rollback-started",
    "agent.upgrade.undo-noted",
    "agent.upgrade.undo-rested",
    "agent.upgrade.undo-awake",
];

/// Dies here if the environment asks for it.
#[cfg(debug_assertions)]
pub fn failpoint(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static HITS: AtomicU32 = AtomicU32::new(0);

    debug_assert!(NAMES.contains(&name), "fail point {name} is not in the list");
    let wanted = WANTED.get_or_init(|| std::env::var("HOLDFAST_FAILPOINT").ok().map(|text| parse(&text)));
    let Some((wanted, hit)) = wanted else { return };
    if wanted == name && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *hit {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
pub fn failpoint(_name: &'static str) {}

#[cfg(debug_assertions)]
fn parse(text: &str) -> (String, u32) {
    match text.rsplit_once(':').and_then(|(name, hit)| Some((name, hit.parse().ok()?))) {
        Some((name, hit)) => (name.to_owned(), hit),
        None => (text.to_owned(), 1),
    }
}
