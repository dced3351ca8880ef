//! What all runs of the soak did, and the report that is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::kill::{Act, Victim};

/// One thing that was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    at: DateTime<Utc>,
    version: String,
    #[serde(flatten)]
    pub(crate) what: What,
    /// What did not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    violation: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "lowercase")]
pub(crate) enum What {
    Kill {
        act: Act,
        victim: Victim,
        /// Milliseconds from the beginning of the act.
        after_ms: u64,
        /// Whether the process still ran and died by it.
        killed: bool,
        /// How the job of the act ended, empty where it never began.
        ended: String,
    },
    Bits {
        /// Name of the object in the bucket.
        object: String,
        /// How many bits were flipped, each alone.
        bits: u64,
    },
    Files {
        files: u64,
        figures: Vec<String>,
    },
}

/// All lines, in a file that is only ever appended to.
pub(crate) struct Book {
    path: PathBuf,
    version: String,
    lines: Vec<Line>,
}

impl Book {
    /// Reads what earlier runs wrote.
    ///
    /// # Errors
    /// The folder cannot be made, or a line is not one of the soak's.
    pub(crate) fn open(dir: &Path, version: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let path = dir.join("rounds.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let read = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let lines = read.with_context(|| format!("{} has another format: remove it", path.display()))?;
        Ok(Self { path, version: version.to_owned(), lines })
    }

    /// Writes a line down, before anything else is begun.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn add(&mut self, what: What, violation: Option<String>) -> Result<()> {
        let line = Line { at: Utc::now(), version: self.version.clone(), what, violation };
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())?;
        if let Some(violation) = &line.violation {
            println!("VIOLATION: {violation}");
        }
        self.lines.push(line);
        Ok(())
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &What> {
        self.lines.iter().map(|line| &line.what)
    }

    /// How many rounds with a victim there were, and how many of them died.
    pub(crate) fn kills(&self) -> (u64, u64) {
        let rounds = self.lines().filter_map(|what| match what {
            What::Kill { killed, .. } => Some(u64::from(*killed)),
            _ => None,
        });
        rounds.fold((0, 0), |(rounds, kills), killed| (rounds + 1, kills + killed))
    }

    pub(crate) fn violations(&self) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.violation.as_deref()).collect()
    }

    /// All of it as Markdown.
    pub(crate) fn report(&self) -> String {
        let days: BTreeSet<String> =
            self.lines.iter().map(|line| line.at.format("%Y-%m-%d").to_string()).collect();
        let versions: BTreeSet<&str> = self.lines.iter().map(|line| line.version.as_str()).collect();
        let mut text =
            String::from("# Soak\n\nMade by `tests/run --soak`: release builds, private Docker Engines.\n\n");
        let join = |set: Vec<String>| set.join(", ");
        let _ = writeln!(
            text,
            "Dates: {}. Versions: {}.\n",
            join(days.into_iter().collect()),
            join(versions.iter().map(ToString::to_string).collect())
        );
        let (rounds, kills) = self.kills();
        let _ = writeln!(
            text,
            "**{kills} SIGKILLs in {rounds} rounds, {} violations.**\n",
            self.violations().len()
        );
        text.push_str(&self.kill_table());
        text.push_str(&self.bit_table());
        for what in self.lines() {
            if let What::Files { files, figures } = what {
                let _ = writeln!(text, "\n## A volume of {files} files\n");
                for figure in figures {
                    let _ = writeln!(text, "- {figure}");
                }
            }
        }
        for violation in self.violations() {
            let _ = writeln!(text, "\nVIOLATION: {}", violation.replace('\n', " "));
        }
        text
    }

    fn kill_table(&self) -> String {
        let mut rows: BTreeMap<(Act, Victim), Row> = BTreeMap::new();
        for what in self.lines() {
            if let What::Kill { act, victim, killed, ended, .. } = what {
                let row = rows.entry((*act, *victim)).or_default();
                row.rounds += 1;
                row.kills += u64::from(*killed);
                *row.ended.entry(if ended.is_empty() { "not begun" } else { ended }).or_default() += 1;
            }
        }
        let mut text =
            String::from("| while | killed | rounds | kills | the job's end |\n|---|---|--:|--:|---|\n");
        for ((act, victim), row) in rows {
            let ended: Vec<String> =
                row.ended.iter().map(|(ended, times)| format!("{ended} {times}")).collect();
            let _ = writeln!(
                text,
                "| {act:?} | {victim:?} | {} | {} | {} |",
                row.rounds,
                row.kills,
                ended.join(", ")
            );
        }
        text
    }

    fn bit_table(&self) -> String {
        let mut text = String::from("\n| object | bits flipped, each alone, and found |\n|---|--:|\n");
        let (mut objects, mut all) = (0, 0);
        for what in self.lines() {
            if let What::Bits { object, bits } = what {
                let _ = writeln!(text, "| `{object}` | {bits} |");
                objects += 1;
                all += bits;
            }
        }
        let _ = writeln!(text, "| {objects} objects | {all} |");
        text
    }
}

#[derive(Default)]
struct Row<'a> {
    rounds: u64,
    kills: u64,
    ended: BTreeMap<&'a str, u64>,
}
