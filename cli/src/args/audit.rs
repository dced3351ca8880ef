//! `holdfast audit`, as types.

use clap::Subcommand;

use super::values::{Since, since};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done and what was refused, the newest last.
    Ls {
        /// Only from then on: a date or time in UTC (2026-11-22, 2026-11-22T02:00), or how long
        /// ago (90m, 12h, 7d).
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<Since>,
        /// Only this caller: an operator's name, agent:HOST, anonymous or local.
        #[arg(long, value_name = "NAME")]
        caller: Option<String>,
        /// Only this method (RevokeHost) or command.
        #[arg(long, value_name = "METHOD")]
        method: Option<String>,
        /// Only this outcome.
        #[arg(long, value_name = "OUTCOME", value_parser = ["allowed", "ok", "denied", "failed"])]
        outcome: Option<String>,
        /// The newest so many.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Recompute the chain of hashes, hold it against the bucket, and name the first row that was
    /// changed or cut. Ends with 4 where there is one.
    Verify,
}
