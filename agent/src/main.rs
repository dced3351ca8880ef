//! The agent's program: reads the command line and does what it says.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use holdfast_agent::args::{Cli, Command};
use holdfast_agent::{app, logging};
use holdfast_archive::process::guard_memory;
use holdfast_archive::text::{printable, printable_lines};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    // This host's key and what is read from its volumes are in this process's memory.
    guard_memory();
    holdfast_archive::fs::raise_handle_limit();
    // Fails only if one is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            drop(writeln!(std::io::stderr(), "error: {}", printable(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => app::run(args).await,
            Command::Join(args) => {
                let joined = app::join(args).await?;
                writeln!(std::io::stdout(), "{}", printable_lines(&joined))?;
                Ok(())
            }
            Command::Status(args) => {
                let status = app::status(&args).await?;
                writeln!(std::io::stdout(), "{}", printable_lines(&status.text))?;
                anyhow::ensure!(status.well, "not all is well");
                Ok(())
            }
            Command::Leave(args) => {
                let left = app::leave(&args)?;
                writeln!(std::io::stdout(), "{}", printable_lines(&left))?;
                Ok(())
            }
            Command::Resume(args) => {
                let done = app::resume(args).await?;
                writeln!(std::io::stdout(), "{}", printable_lines(&done))?;
                Ok(())
            }
            Command::HandOver(args) => app::hand_over(args).await,
        }
    })
}
