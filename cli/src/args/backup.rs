//! `holdfast backup`, as types.

use clap::{Args, Subcommand, ValueEnum};

use super::values;

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Run a policy now, or back up volumes by hand.
    Run(BackupRunArgs),
}

#[derive(Debug, Args)]
#[command(override_usage = "holdfast backup run POLICY [--host NAME] [OPTIONS]\n       \
holdfast backup run --host NAME --volume GLOB... [--directory PATH...] [OPTIONS]")]
pub struct BackupRunArgs {
    /// Policy to run.
    #[arg(required_unless_present_any = ["volume", "directory"], conflicts_with_all = ["volume", "directory", "consistency"])]
    pub policy: Option<String>,
    /// Only this host.
    #[arg(long, value_name = "NAME", required_unless_present = "policy")]
    pub host: Option<String>,
    /// Volume, or glob over names; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub volume: Vec<String>,
    /// Directory the host allows; may be repeated.
    #[arg(long, value_name = "PATH")]
    pub directory: Vec<String>,
    /// How containers are quiesced.
    #[arg(long, value_enum, default_value = "none")]
    pub consistency: ConsistencyArg,
    /// Accept a source that has become empty, or shrank below a tenth.
    #[arg(long)]
    pub allow_empty: bool,
    /// Call a snapshot complete that leaves out what is mounted inside a source.
    #[arg(long)]
    pub leave_out_mounts: bool,
    /// Longest time a container may be kept quiesced: 90s, 5m [default: what its host allows].
    #[arg(long, value_name = "SPAN", value_parser = values::some_seconds)]
    pub max_downtime: Option<u32>,
    /// Start it and return.
    #[arg(long)]
    pub no_wait: bool,
    /// Only say what would be backed up.
    #[arg(long)]
    pub plan: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsistencyArg {
    None,
    Pause,
    Stop,
}

impl From<ConsistencyArg> for holdfast_proto::v1::Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::None => Self::None,
            ConsistencyArg::Pause => Self::Pause,
            ConsistencyArg::Stop => Self::Stop,
        }
    }
}
