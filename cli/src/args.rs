//! The command line, as types. Nothing here acts.

mod container;
mod instead;
mod mounts;
#[cfg(test)]
mod secrets;
mod upgrade;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use container::{ContainerCommand, ContainerRunArgs};
pub use instead::instead;
pub use upgrade::{ImageArgs, UpgradeCommand, UpgradeOptionArgs, UpgradePlanArgs, UpgradeRunArgs};
pub use values::Since;
use values::{host_and_source, key_value, since};

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

/// Which host an agent's call is for.
#[derive(Debug, Clone, Args)]
pub struct HostArg {
    /// Host to act on (not needed at the host's own socket).
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List hosts.
    Ls {
        /// Only hosts with this label (key or key=value); may be repeated.
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
    },
    /// Show one host.
    Show { host: String },
    /// Print a single-use token with which an agent joins as NAME.
    Token {
        name: String,
        /// Label the host is given (key=value); may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
        /// Minutes it is valid; an hour at most.
        #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=60))]
        valid: u32,
        /// Write the token to this file (mode 0600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Set and remove labels.
    Label {
        host: String,
        /// key=value sets, key- removes.
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Refuse the host's certificate from now on; `status` goes on to name the
    /// host.
    Revoke { host: String },
    /// Give a host up: refuse its certificate and end all alarms about it. Its
    /// snapshots stay, by retention.
    ///
    /// Also ends the wait for a host that a token was made for and that never
    /// joined. A new token for the name brings the host back.
    #[command(visible_alias = "rm")]
    Retire { host: String },
}

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

/// Where a repository is, for work without a controller.
#[derive(Debug, Clone, Args)]
pub struct RepositoryArgs {
    /// s3://bucket/prefix or an absolute path.
    #[arg(long, value_name = "LOCATION", env = "HOLDFAST_REPOSITORY")]
    pub repository: String,
    /// URL of the S3 service.
    #[arg(long, value_name = "URL", env = "HOLDFAST_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket [default: us-east-1].
    #[arg(long, value_name = "NAME", env = "HOLDFAST_S3_REGION")]
    pub s3_region: Option<String>,
    /// File with the access key and the secret key.
    #[arg(long, value_name = "FILE", env = "HOLDFAST_S3_CREDENTIALS_FILE")]
    pub s3_credentials_file: Option<PathBuf>,
    /// Profile in that file [default: default].
    #[arg(long, value_name = "NAME", env = "HOLDFAST_S3_PROFILE")]
    pub s3_profile: Option<String>,
    /// CA certificate of the S3 service (PEM).
    #[arg(long, value_name = "FILE", env = "HOLDFAST_S3_CA_FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Let the URL be http:// on another machine: nothing on the way is encrypted then.
    #[arg(long, env = "HOLDFAST_S3_ALLOW_HTTP")]
    pub s3_allow_http: bool,
}

#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// See whether a store can hold a repository: writes, reads, lists and removes small objects.
    Check {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List snapshots.
    Ls {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List what is in a snapshot.
    Browse {
        #[command(flatten)]
        repository: RepositoryArgs,
        /// Snapshot: an id, or [host/]source[@latest|@#number].
        snapshot: String,
        path: Option<String>,
        #[arg(long, short = 'R')]
        recursive: bool,
    },
    /// Prove that everything stored is there and intact.
    Verify {
        #[command(flatten)]
        repository: RepositoryArgs,
        /// Only lengths, snapshots and references; read no data.
        #[arg(long)]
        quick: bool,
    },
    /// Restore a snapshot into a directory of this machine.
    Restore(RepoRestoreArgs),
    /// Have the controller delete what no snapshot needs; this is the one that needs the controller.
    Prune {
        /// Only say what would go.
        #[arg(long)]
        plan: bool,
        /// Start it and return.
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct RepoRestoreArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Snapshot: an id, or [host/]source[@latest|@#number].
    pub snapshot: String,
    /// Only these paths inside the snapshot.
    pub paths: Vec<String>,
    /// Directory, absent or empty.
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
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

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// What needs attention, each with the next command.
    #[arg(long)]
    pub problems: bool,
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts.
    Ls,
    /// Add or replace a context; the first becomes the current one.
    Add { name: String },
    /// Make a context the current one.
    Use { name: String },
    /// Remove a context.
    Rm { name: String },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Docker Engine to use.
    #[arg(long, value_name = "HOST", env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    /// Folder of the sibling binaries, when not beside this one.
    #[arg(long, value_name = "PATH")]
    pub binaries: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DevArgs {
    #[command(flatten)]
    pub demo: DemoArgs,
    /// Keep the state here instead of in a temporary directory.
    #[arg(long, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
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
