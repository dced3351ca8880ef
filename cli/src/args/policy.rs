//! `holdfast policy` and `holdfast apply`, as types.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List policies.
    Ls,
    /// Print a policy as it was applied.
    Show { name: String },
    /// Fire times, what matches, what is kept.
    Explain {
        name: String,
        /// How many fire times.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        count: u32,
    },
    /// Have a policy run again.
    Enable { name: String },
    /// Suspend a policy: nothing is backed up or forgotten by it.
    Disable { name: String },
    /// Delete a policy; its snapshots stay.
    Rm { name: String },
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Policy file, or directory of .toml files; may be repeated.
    #[arg(long = "file", short, required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Only check and say what would change.
    #[arg(long)]
    pub plan: bool,
    /// Accept that more than half of a source's snapshots are forgotten.
    #[arg(long)]
    pub allow_forgetting: bool,
}
