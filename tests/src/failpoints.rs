//! Fail points of agent and controller as tests use them, and the record of
//! those that were visited.
//!
//! The names stand in `NAMES` of `agent/src/failpoint.rs` and
//! `controller/src/failpoint.rs`. A process that is started with one has to be
//! seen dying or standing still there: [`crate::process::Process`] checks that,
//! and then writes the name to the records of the run. So these list what was
//! visited, not what was meant to be.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::record;

/// What tells a process where it is to die or to stand still.
pub const VARIABLE: &str = "HOLDFAST_FAILPOINT";

const SIGKILL: i32 = 9;

/// The crates that have fail points.
pub const CRATES: [&str; 2] = ["agent", "controller"];

/// Where a process is to be killed, or to stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailPoint {
    name: String,
    halts: bool,
}

impl FailPoint {
    /// Reads a value of [`VARIABLE`]: `name`, `name:3`, `halt name` or `panic
    /// name`. Panics where no list has the name: nothing would ever come there.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix("panic ").unwrap_or(text);
        let (rest, halts) = text.strip_prefix("halt ").map_or((text, false), |rest| (rest, true));
        let name = rest.split(':').next().unwrap_or(rest).to_owned();
        let known = CRATES.iter().any(|krate| names(krate).contains(&name));
        assert!(known, "no list of fail points has `{name}`");
        Self { name, halts }
    }

    pub fn halts(&self) -> bool {
        self.halts
    }

    /// Panics unless a process that nobody else killed died here; records it.
    #[track_caller]
    pub fn assert_killed(&self, status: ExitStatus) {
        let name = &self.name;
        assert!(!self.halts, "a process that stands still at {name} ended: {status}");
        assert_eq!(status.signal(), Some(SIGKILL), "it never came to {name}, it ended otherwise: {status}");
        self.record();
    }

    /// Notes that a process was seen to die or to stand still here.
    pub fn record(&self) {
        record::append("visited", &self.name);
    }
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").to_owned()
}

/// The file with the list of a crate.
pub fn list_of(krate: &str) -> PathBuf {
    root().join(krate).join("src/failpoint.rs")
}

/// The names of a crate's fail points.
pub fn names(krate: &str) -> BTreeSet<String> {
    let path = list_of(krate);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let list =
        text.split_once("const NAMES").and_then(|(_, rest)| rest.split_once("];")).map(|(list, _)| list);
    let names = literals(list.unwrap_or_else(|| panic!("{} has no list NAMES", path.display())));
    assert!(!names.is_empty(), "the list in {} is empty", path.display());
    names
}

/// The texts in quotation marks of a source that look like a fail point,
/// without a prefix `halt ` and a suffix `:3`. Comments do not count.
pub fn literals(source: &str) -> BTreeSet<String> {
    let quoted = source.lines().flat_map(|line| {
        let parts = line.split('"').enumerate();
        // Every other part is code, and a comment ends the line.
        let code = parts.take_while(|(index, part)| index % 2 == 1 || !part.contains("//"));
        code.filter(|(index, _)| index % 2 == 1).map(|(_, part)| part)
    });
    let bare = |text: &str| {
        let text = text.strip_prefix("halt ").unwrap_or(text);
        text.split(':').next().unwrap_or(text).to_owned()
    };
    quoted.map(bare).filter(|text| looks_like_one(text)).collect()
}

/// `agent.part.place` or `controller.part.place`.
fn looks_like_one(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let plain =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    parts.len() == 3 && CRATES.contains(&parts[0]) && parts.iter().all(plain)
}
