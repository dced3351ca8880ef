//! `holdfast snapshot`, as types.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots, newest first.
    Ls {
        /// Source name or glob.
        source: Option<String>,
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Only those this job made.
        #[arg(long, value_name = "ID")]
        job: Option<String>,
        /// Forgotten ones too, while they can be brought back.
        #[arg(long)]
        forgotten: bool,
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        limit: u32,
    },
    /// Show one snapshot.
    Show { snapshot: String },
    /// List what is in it.
    Browse {
        snapshot: String,
        /// Directory inside.
        path: Option<String>,
        #[arg(long, short = 'R')]
        recursive: bool,
    },
    /// Write one file's content to standard output.
    Cat { snapshot: String, path: String },
    /// Forget snapshots; each can be brought back for a while.
    Forget {
        /// An id, or [host/]source[@latest|@yesterday|@#number|@date].
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
    },
    /// Bring a forgotten one back.
    Undelete { snapshot: String },
    /// Keep it whatever the policies say.
    Hold { snapshot: String },
    /// Undo a hold.
    Release { snapshot: String },
}
