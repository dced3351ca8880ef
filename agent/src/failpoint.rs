//! Named places at which a test makes the agent die, or stand still.
//!
//! `HOLDFAST_FAILPOINT=name` kills the process with SIGKILL when it gets
//! there, `name:3` the third time. Nothing is flushed and no destructor runs,
//! which is the point: what is on disk then is what a power cut would leave.
//! `halt name` stops it with SIGSTOP instead, for a test to kill something
//! else at that very place and to let the agent meet it. Only builds with the
//! feature `failpoints` have such places, and only `tests/run` asks for it.

/// Every name, so that a test can try them all.
#[cfg(feature = "failpoints")]
pub(crate) const NAMES: &[&str] = &[
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
    "agent.restore.root-noted",
    "agent.restore.room-found",
    "agent.restore.written",
    "agent.restore.before-verify",
    "agent.restore.verified",
    "agent.restore.emptied",
    "agent.upgrade.record-written",
    "agent.upgrade.create",
    "agent.upgrade.copy-live",
    "agent.upgrade.look-again",
    "agent.upgrade.handed-over",
    "agent.upgrade.policy-set",
    "agent.upgrade.quiesce",
    "agent.upgrade.copy-quiesced",
    "agent.upgrade.await-snapshot",
    "agent.upgrade.old-renamed",
    "agent.upgrade.switch",
    "agent.upgrade.start",
    "agent.upgrade.verify",
    "agent.upgrade.dependents",
    "agent.upgrade.commit",
    "agent.upgrade.restore-policies",
    "agent.upgrade.stand-in-noted",
    "agent.upgrade.layer-noted",
    "agent.upgrade.layer-kept",
    "agent.upgrade.stand-in-made",
    "agent.upgrade.stand-in-compared",
    "agent.upgrade.old-removed",
    "agent.upgrade.stand-ins",
    "agent.upgrade.keep",
    "agent.upgrade.finish-begun",
    "agent.upgrade.finish-old-removed",
    "agent.upgrade.rollback-begun",
    "agent.upgrade.data-exchanged",
    "agent.upgrade.undo-start",
    "agent.upgrade.undo-create",
    "agent.upgrade.old-made",
    "agent.upgrade.old-noted",
    "agent.upgrade.undo-switch",
    "agent.upgrade.old-started",
    "agent.upgrade.undo-quiesce",
    "agent.upgrade.undo-stand-ins",
    "agent.upgrade.undo-copy-live",
    "agent.upgrade.rollback-asked",
    "agent.upgrade.rollback-quiesced",
    "agent.upgrade.rollback-resumed",
];

/// What is to happen, and where.
#[cfg(feature = "failpoints")]
struct Wanted {
    name: String,
    hit: u32,
    halt: bool,
}

/// Dies or stands still here if the environment asks for it.
#[cfg(feature = "failpoints")]
pub(crate) fn failpoint(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    static HITS: AtomicU32 = AtomicU32::new(0);

    assert!(NAMES.contains(&name), "fail point {name} is not in the list");
    let wanted = WANTED.get_or_init(|| std::env::var("HOLDFAST_FAILPOINT").ok().map(|text| parse(&text)));
    let Some(Wanted { name: wanted, hit, halt }) = wanted else { return };
    if wanted != name || HITS.fetch_add(1, Ordering::SeqCst) + 1 != *hit {
        return;
    }
    let signal = if *halt { Signal::STOP } else { Signal::KILL };
    let _ = kill_process(getpid(), signal);
    if *halt {
        // Another thread may take the signal, and this one would run on until
        // the whole process is stopped.
        std::thread::sleep(Duration::from_millis(100));
        return;
    }
    loop {
        std::thread::park();
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn failpoint(_name: &'static str) {}

#[cfg(feature = "failpoints")]
fn parse(text: &str) -> Wanted {
    let (text, halt) = text.strip_prefix("halt ").map_or((text, false), |name| (name, true));
    let (name, hit) = match text.rsplit_once(':').and_then(|(name, hit)| Some((name, hit.parse().ok()?))) {
        Some((name, hit)) => (name, hit),
        None => (text, 1),
    };
    Wanted { name: name.to_owned(), hit, halt }
}
