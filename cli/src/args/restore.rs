//! `holdfast restore`, as types.

use clap::{Args, Subcommand};

use super::values::key_value;

#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// Restore a snapshot into a new volume.
    Volume(RestoreVolumeArgs),
    /// Restore a snapshot, or some of its paths, into a directory of a host.
    Files(RestoreFilesArgs),
}

#[derive(Debug, Args)]
pub struct RestoreVolumeArgs {
    /// Snapshot: an id, or [host/]source[@latest|@yesterday|@#number|@date].
    pub snapshot: String,
    /// Host to restore on.
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// Name of the new volume.
    #[arg(long = "as", value_name = "NAME")]
    pub as_volume: String,
    /// Driver of the new volume; that of the snapshot's volume is not taken over.
    #[arg(long, value_name = "NAME")]
    pub driver: Option<String>,
    /// Driver option of the new volume (key=value); may be repeated.
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = key_value)]
    pub options: Vec<(String, String)>,
    #[command(flatten)]
    pub common: RestoreOptions,
}

#[derive(Debug, Args)]
pub struct RestoreFilesArgs {
    /// Snapshot: an id, or [host/]source[@latest|@yesterday|@#number|@date].
    pub snapshot: String,
    /// Only these paths inside the snapshot.
    pub paths: Vec<String>,
    /// Host to restore on.
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// Directory on that host, absent or empty, below one its agent allows.
    #[arg(long, value_name = "PATH")]
    pub to: String,
    #[command(flatten)]
    pub common: RestoreOptions,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreOptions {
    /// Restore device nodes.
    #[arg(long)]
    pub devices: bool,
    /// Restore setuid and setgid bits.
    #[arg(long)]
    pub setuid: bool,
    /// Fail where the target cannot hold something, instead of listing it.
    #[arg(long)]
    pub strict: bool,
    /// Leave out files of which the repository has lost something, and list them, instead of failing.
    #[arg(long)]
    pub salvage: bool,
    /// Start it and return.
    #[arg(long)]
    pub no_wait: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub plan: bool,
}
