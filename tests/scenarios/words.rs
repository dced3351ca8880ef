//! Words that were given up stay away. `docs/GLOSSARY.md` has those in use.

use std::path::Path;
use std::process::Command;

/// Names of types, functions and fields that once stood for what has another
/// name now, as extended regular expressions.
const GIVEN_UP: [&str; 15] = [
    r"\b(Container)?Debts?\b|\bDebtId\b|\bPayer\b|\bPayment\b",
    r"\bowe(s|d)?\b|\bowing\b",
    r"\b(Not)?AtRest\b|\bResting\b|\bRESTING\b|\bplan_rest\b|\bbring_to_rest\b",
    r"\bto rest\b|\bcontainers (at )?rest\b",
    r"\bUndoings?\b|\bundoings?\b|\bWish\b",
    r"\bDriven\b|\bDriving\b",
    r"\bHappening\b|\bheard_out\b|\bunmet\b",
    r"\bSeamError\b|\bseams?\b",
    r"\bRemakes?\b|\bremakes?\b|\bmade_anew\b",
    r"\bCustody\b|\bnewcomers? on\b|\blatecomers?\b",
    r"\bTroubles?\b",
    r"\bBoard\b|\bCards?\b",
    r"\b(MOST|LEAST)_[A-Z]|_(MOST|LEAST)\b",
    r"\bstable words?\b",
    r"(?i)patience|stranger|newcomer|latecomer|made.anew",
];

#[test]
fn words_that_were_given_up_stay_away() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    for pattern in GIVEN_UP {
        let mut git = Command::new("git");
        git.args(["grep", "-nIP", pattern, "--", "*.rs", "*.proto", "*.md", "*.toml", "*.yaml"]);
        let output = git.current_dir(root).output().expect("git runs");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        // This file lists them.
        let others = lines.lines().filter(|line| !line.starts_with("tests/scenarios/words.rs:"));
        found.extend(others.map(str::to_owned));
    }
    assert!(found.is_empty(), "docs/GLOSSARY.md has the words in use:\n{}", found.join("\n"));
}
