//! The command line, as types. Nothing here acts.
//!
//! `main` parses it and `commands` takes it apart. Of the machine it reads the
//! environment, by way of clap, and no file.

mod audit;
mod backup;
mod container;
mod context;
mod host;
mod instead;
mod job;
mod mount;
mod mounts;
mod policy;
mod repo;
mod restore;
#[cfg(test)]
mod secrets;
mod snapshot;
mod source;
mod stack;
mod upgrade;
mod values;
mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use audit::AuditCommand;
pub use backup::{BackupCommand, BackupRunArgs, ConsistencyArg};
pub use container::{ContainerCommand, ContainerRunArgs};
pub use context::ContextCommand;
pub use host::{HostArg, HostCommand};
pub use instead::instead;
pub use job::JobCommand;
pub use mount::MountCommand;
pub use policy::{ApplyArgs, PolicyCommand};
pub use repo::{RepoCommand, RepoRestoreArgs, RepositoryArgs};
pub use restore::{RestoreCommand, RestoreOptions};
pub use snapshot::SnapshotCommand;
pub use source::SourceCommand;
pub use stack::{DemoArgs, DevArgs};
pub use upgrade::{ImageArgs, UpgradeCommand, UpgradeOptionArgs, UpgradePlanArgs, UpgradeRunArgs};
pub use volume::VolumeCommand;

/// Protects the data of Docker hosts, a fleet at a time.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage or input; 3 done, but something needs attention; \
4 damage found; 5 not found; 6 not allowed; 7 controller, host or store out of reach; \
8 restored with --salvage, and something is lost; 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// How results are printed.
    #[arg(long, short = 'o', global = true, value_enum, default_value = "table")]
    pub output: OutputFormat,
    /// Context of the configuration file to use instead of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Controller to talk to, as host:port, instead of a context's.
    #[arg(long, global = true, value_name = "ADDRESS", env = "HOLDFAST_CONTROLLER")]
    pub controller: Option<String>,
    /// The controller's CA certificate (PEM).
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// File that holds the operator's token.
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Talk to this host's agent at its own socket; no controller is needed.
    #[arg(long, global = true, value_name = "PATH", env = "HOLDFAST_SOCKET")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people: aligned, human units, relative times.
    Table,
    /// For programs: exact numbers, RFC 3339 times.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hosts of the fleet.
    #[command(subcommand)]
    Host(HostCommand),
    /// What could be backed up, and what is given up.
    #[command(subcommand)]
    Source(SourceCommand),
    /// Volumes of a host.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Mounts of a host's containers.
    #[command(subcommand)]
    Mount(MountCommand),
    /// Containers of a host.
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Replace containers, keeping their data, with a way back.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// What is backed up when, and kept how long.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run backups.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Snapshots in the repository.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Bring data back.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Work in progress and done.
    #[command(subcommand)]
    Job(JobCommand),
    /// A repository read without its controller; only `prune` asks the controller.
    #[command(subcommand)]
    Repo(RepoCommand),
    /// The record of who did what.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Apply policy files: all of them or none.
    Apply(ApplyArgs),
    /// Coverage of the fleet. Ends with 3 while anything needs attention.
    Status(StatusArgs),
    /// Contexts: which controllers this command talks to.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Show the whole thing on this machine: backup, disaster, restore.
    Demo(DemoArgs),
    /// Start a controller and an agent on this machine and keep them running.
    Dev(DevArgs),
    /// Print a completion script.
    Completion { shell: clap_complete::Shell },
    /// Write the manual pages into a directory.
    Man { directory: PathBuf },
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// What needs attention, each with the next command.
    #[arg(long)]
    pub problems: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
