//! `holdfast volume`, as types.

use clap::Subcommand;

use super::host::HostArg;
use super::values::key_value;

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes.
    Ls {
        #[command(flatten)]
        host: HostArg,
        /// Only names matching one of these globs.
        names: Vec<String>,
        /// Only volumes with this label (key or key=value); may be repeated.
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Only volumes of this driver.
        #[arg(long)]
        driver: Option<String>,
        /// Only volumes that no container uses.
        #[arg(long, conflicts_with = "used")]
        unused: bool,
        /// Only volumes that some container uses.
        #[arg(long)]
        used: bool,
        /// Measure the space each takes.
        #[arg(long)]
        usage: bool,
    },
    /// Show one volume.
    Inspect {
        #[command(flatten)]
        host: HostArg,
        name: String,
        /// Measure the space it takes.
        #[arg(long)]
        usage: bool,
    },
    /// Create a volume.
    Create {
        #[command(flatten)]
        host: HostArg,
        name: String,
        #[arg(long, default_value = "local")]
        driver: String,
        /// Driver option (key=value); may be repeated.
        #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = key_value)]
        options: Vec<(String, String)>,
        /// Label (key=value); may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
    },
    /// Show volumes that no container uses, ask, and remove them with their data.
    Rm {
        #[command(flatten)]
        host: HostArg,
        #[arg(required = true)]
        names: Vec<String>,
        /// Do not ask.
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Show which unused volumes would go, ask, and remove just those.
    Prune {
        #[command(flatten)]
        host: HostArg,
        /// Only volumes with this label (key or key=value); may be repeated.
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Named volumes too, not only anonymous ones.
        #[arg(long)]
        named: bool,
        /// Do not ask.
        #[arg(long, short = 'y')]
        yes: bool,
        /// Only show.
        #[arg(long)]
        plan: bool,
    },
}
