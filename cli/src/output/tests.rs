//! That nothing reaches a terminal but through here, and how it arrives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_archive::text::hidden;
use serde::Serialize;

use super::*;

/// What hosts would write if they could: clear the screen, forge a line of
/// ours, turn a line around, a C1 control sequence, a title, a link.
const HOSTILE: &str = "db\x1b[2J\x1b]0;t\x07\nerror: forged\r\tx\u{202e}gpj\u{2066}\u{9b}31m\u{200b}\u{2028}\x1b]8;;http://x\x1b\\";

fn is_safe(text: &str) {
    let bad: Vec<char> = text.chars().filter(|c| hidden(*c) && *c != '\n').collect();
    assert!(bad.is_empty(), "{bad:?} in {text:?}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("error: forged")), "{text}");
}

#[derive(Serialize)]
struct Hostile {
    name: String,
    labels: BTreeMap<String, String>,
}

fn hostile() -> Hostile {
    Hostile { name: HOSTILE.to_owned(), labels: BTreeMap::from([(HOSTILE.to_owned(), HOSTILE.to_owned())]) }
}

#[test]
fn v09_tables_details_and_errors_are_safe_to_look_at() {
    let mut rows = Rows::new(&["NAME", "LABEL"], "none");
    rows.push([HOSTILE, HOSTILE]);
    let table = rows.finish().to_string();
    is_safe(&table);
    assert_eq!(table.lines().count(), 2, "a row is a line: {table}");
    is_safe(&Details::new().add("name", HOSTILE).list("users", [HOSTILE, HOSTILE]).finish().to_string());
    let error =
        CliError::failed(format!("host `{HOSTILE}`")).more([HOSTILE.to_owned()]).hint(HOSTILE.to_owned());
    let told = told(&error).to_string();
    is_safe(&told);
    assert_eq!(told.lines().count(), 3, "{told}");
}

#[test]
fn v09_json_is_safe_to_look_at_and_exact() {
    let text = json::pretty(&hostile());
    is_safe(&text);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["name"], HOSTILE);
    assert_eq!(value["labels"][HOSTILE], HOSTILE);
    let error = json::error(&CliError::failed(HOSTILE).more(["x".to_owned()]));
    is_safe(&error);
    let value: serde_json::Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!(value["error"]["message"], format!("{HOSTILE}\nx"));
}

/// In a process of its own: what this one writes, nobody here can read.
#[test]
fn v09_what_is_said_and_noted_is_safe_to_look_at() {
    const CHILD: &str = "HOLDFAST_TEST_SAYS_AND_NOTES";
    if std::env::var_os(CHILD).is_some() {
        say(HOSTILE);
        note(HOSTILE);
        return;
    }
    let own = std::env::current_exe().expect("a running test has a path");
    let mut child = std::process::Command::new(own);
    child.args(["--exact", "--nocapture", "output::tests::v09_what_is_said_and_noted_is_safe_to_look_at"]);
    let written = child.env(CHILD, "1").output().expect("it runs");
    for stream in [written.stdout, written.stderr] {
        let text = String::from_utf8(stream).expect("text");
        assert!(text.contains("db\\u{1b}[2J"), "it is shown all the same: {text:?}");
        is_safe(&text);
    }
}

#[test]
fn v09_a_terminal_is_shown_content_and_does_not_act_on_it() {
    let mut content = Content { to_terminal: true, rest: Vec::new() };
    // A character cut in two, and bytes that are no text.
    let mut text = content.shown("a\tgr\u{fc}n\n".as_bytes().get(..5).expect("cut in the letter"));
    text.push_str(&content.shown(&"a\tgr\u{fc}n\n".as_bytes()[5..]));
    assert_eq!(text, "a\tgr\u{fc}n\n");
    assert_eq!(content.shown(b"\x1b[2J\xff\xfe\n"), "\\u{1b}[2J\\xff\\xfe\n");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the crate's own sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Words with which something could be written past the filter.
const WAYS_OUT: [&str; 14] = [
    "stdout(",
    "stderr(",
    "println!",
    "print!(",
    "dbg!(",
    "ProgressBar",
    "MultiProgress",
    "indicatif",
    "Stdio::inherit",
    "/dev/tty",
    "/dev/stdout",
    "/dev/stderr",
    "tracing::",
    "tracing_subscriber",
];

/// These start children, and give them an output of their own.
const STARTERS: [&str; 2] = ["src/stack/process.rs", "src/commands/demo/app.rs"];

/// The way out that a line of code is, if it is one.
fn way_out(line: &str) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    WAYS_OUT.iter().copied().find(|way| code.contains(way))
}

#[test]
fn v09_no_other_module_writes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources are found");
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.starts_with(root.join("output"))) {
        let text = std::fs::read_to_string(file).expect("a source");
        for (index, line) in text.lines().enumerate() {
            // `.stdout(…)` gives a child its output; ours would be a function.
            let line = line.replace(".stdout(", ".").replace(".stderr(", ".");
            let starts =
                line.contains("Command::new(") && !STARTERS.iter().any(|known| file.ends_with(known));
            if let Some(way) = way_out(&line).or(starts.then_some("Command::new")) {
                found.push(format!("{}:{}: {way}", file.display(), index + 1));
            }
        }
    }
    assert!(found.is_empty(), "text may leave through `output` alone: {found:#?}");
    assert_eq!(way_out("let _ = writeln!(std::io::stderr(), \"x\");"), Some("stderr("), "the test can fail");
}
