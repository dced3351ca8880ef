//! `holdfast`: how operators drive a fleet, and how they recover when
//! everything but the bucket is gone.

#![allow(unreachable_pub, reason = "a binary has no outside: `pub` says what other modules may use")]

mod args;
mod client;
mod commands;
mod config;
mod error;
mod output;
mod stack;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    // Two TLS stacks may not be linked by accident: the one there is, is named.
    let _ = rustls::crypto::ring::default_provider().install_default();
    output::tame_panics();
    // Before any work: a restore holds a handle for each directory that waits for its files.
    holdfast_archive::fs::raise_handle_limit();
    let format = cli.global.output;
    let exit = match commands::run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            output::fail(format, &error);
            error.exit
        }
    };
    exit.into()
}

/// Help and version are asked for; the rest is a line that means nothing here.
fn refused(error: &clap::Error) -> ExitCode {
    // Where there is no output there is nobody to tell.
    let _ = error.print();
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        let line: Vec<String> = std::env::args().skip(1).collect();
        if let Some(other) = args::instead(line.iter().map(String::as_str)) {
            output::note(format!("hint:  {other}"));
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
