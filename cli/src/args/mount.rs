//! `holdfast mount`, as types.

use clap::Subcommand;

use super::host::HostArg;

#[derive(Debug, Subcommand)]
pub enum MountCommand {
    /// List the mounts of every container, or of some.
    Ls {
        #[command(flatten)]
        host: HostArg,
        containers: Vec<String>,
        /// Only mounts of this volume.
        #[arg(long)]
        volume: Option<String>,
    },
}
