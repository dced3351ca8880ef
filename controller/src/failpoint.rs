//! Named places at which a test makes the controller die.
//!
//! `HOLDFAST_FAILPOINT=name` kills the process with SIGKILL when it gets
//! there, `name:3` the third time. Nothing is flushed and no destructor runs:
//! what is on disk then is what a crash would leave. `panic name` panics
//! there instead, once: what a mistake in the code of one job would do. Only
//! builds with the feature `failpoints` have such places, and only `tests/run`
//! asks for it.

/// Every name, so that a test can try them all.
#[cfg(feature = "failpoints")]
pub(crate) const NAMES: &[&str] = &[
    "controller.fire.before-row",
    "controller.fire.after-row",
    "controller.dispatch.after-claim",
    "controller.job.after-source",
    "controller.job.before-finish",
    "controller.upgrade.after-before-snapshot",
    "controller.upgrade.after-run",
    "controller.upgrade.at-stop-snapshot",
    "controller.upgrade.before-proceed",
    "controller.upgrade.after-proceed",
    "controller.rollout.after-child",
    "controller.pack.after-intent",
    "controller.pack.after-store",
    "controller.pack.after-commit",
    "controller.commit.after-row",
    "controller.commit.after-object",
    "controller.commit.after-committed",
    "controller.gc.after-condemn",
    "controller.gc.after-deleting",
    "controller.gc.after-objects",
    "controller.purge.after-object",
];

/// What is to happen, and where.
#[cfg(feature = "failpoints")]
struct Wanted {
    name: String,
    hit: u32,
    panic: bool,
}

/// Dies or panics here if the environment asks for it.
#[cfg(feature = "failpoints")]
pub(crate) fn failpoint(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    static HITS: AtomicU32 = AtomicU32::new(0);

    assert!(NAMES.contains(&name), "fail point {name} is not in the list");
    let wanted = WANTED.get_or_init(|| std::env::var("HOLDFAST_FAILPOINT").ok().map(|text| parse(&text)));
    let Some(Wanted { name: wanted, hit, panic }) = wanted else { return };
    if wanted != name || HITS.fetch_add(1, Ordering::SeqCst) + 1 != *hit {
        return;
    }
    assert!(!*panic, "a panic at {name}, as asked for");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn failpoint(_name: &'static str) {}

#[cfg(feature = "failpoints")]
fn parse(text: &str) -> Wanted {
    let (text, panic) = text.strip_prefix("panic ").map_or((text, false), |name| (name, true));
    let (name, hit) = match text.rsplit_once(':').and_then(|(name, hit)| Some((name, hit.parse().ok()?))) {
        Some((name, hit)) => (name, hit),
        None => (text, 1),
    };
    Wanted { name: name.to_owned(), hit, panic }
}
