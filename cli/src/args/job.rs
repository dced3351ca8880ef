//! `holdfast job`, as types.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs, newest first.
    Ls {
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
        /// Only jobs that have not ended.
        #[arg(long)]
        active: bool,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one job.
    Show { id: String },
    /// Follow a job until it ends.
    Watch { id: String },
    /// What a job has said so far, with the times.
    Logs { id: String },
    /// Cancel a job; nothing stays stopped.
    Cancel { id: String },
}
