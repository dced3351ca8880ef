//! `holdfast source`, as types.

use clap::Subcommand;

use super::values::host_and_source;

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// List volumes and directories, those that are gone or retired too.
    Ls {
        /// Only this host.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Give sources up: they are not missed any more. Snapshots stay, by
    /// retention.
    ///
    /// For a volume that is gone on purpose, a directory that is not backed up
    /// any more, or a bind mount that is not to be protected. A retired volume
    /// that is there again counts again.
    Retire {
        /// HOST/VOLUME or HOST/PATH (web-1//srv/data).
        #[arg(required = true, value_name = "HOST/SOURCE", value_parser = host_and_source)]
        sources: Vec<(String, String)>,
        /// Have them count again.
        #[arg(long)]
        undo: bool,
    },
}
