//! The soak: kills at random moments, every bit of a small repository, and a
//! million files. Too long for every change; `tests/run --soak` runs it.
//!
//! What was done is a line of JSON in the state folder, so that a run goes on
//! where the one before it ended, and the report is made of all of them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to people")]

mod bits;
mod book;
mod files;
mod kill;
mod kills;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use book::Book;

#[derive(Parser)]
#[command(about = "Kills at random moments, flipped bits and a million files; goes on where it ended last")]
struct Arguments {
    /// No new round begins after so many minutes.
    #[arg(long, default_value_t = 90)]
    minutes: u64,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kills,bits,files")]
    parts: Vec<Part>,
    /// SIGKILLs in all, those of earlier runs included.
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// Files of the large volume.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Where the lines of all runs lie.
    #[arg(long, default_value = "target/soak")]
    state: PathBuf,
    /// The version that is tested, for the report.
    #[arg(long, default_value = "unknown")]
    version: String,
    /// A report of all runs is written here.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// SIGKILLs of agent, controller and Engine while they work.
    Kills,
    /// Every bit of every kind of object.
    Bits,
    /// A volume of many files.
    Files,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let missing = e2e::docker::unavailable();
    ensure!(missing.is_none(), "no private Docker Engine: {}", missing.unwrap_or_default());
    let end = Instant::now() + Duration::from_secs(arguments.minutes * 60);
    let mut book = Book::open(&arguments.state, &arguments.version)?;
    for part in arguments.parts {
        match part {
            Part::Kills => kills::run(&mut book, arguments.kills, end)?,
            Part::Bits => bits::run(&mut book, end)?,
            Part::Files => files::run(&mut book, arguments.files, end)?,
        }
    }
    let report = book.report();
    print!("{report}");
    if let Some(path) = arguments.report {
        std::fs::write(path, report)?;
    }
    Ok(if book.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
