//! `holdfast upgrade`, as types.

use clap::{ArgGroup, Args, Subcommand};
use holdfast_proto::v1::Probe;

use super::{ConsistencyArg, HostArg, values};

#[derive(Debug, Subcommand)]
pub enum UpgradeCommand {
    /// What an upgrade would keep, change, stop and lose. Changes nothing.
    #[command(after_help = "Ends with 0 when the upgrade can be run as it is, and with 3 when something \
forbids it or a loss is not allowed yet. At an agent's socket the plan gets no id.")]
    Plan(UpgradePlanArgs),
    /// Replace containers; when the new one fails, the old one and its data come back.
    #[command(after_help = "Ends with 0 when every upgrade is committed, with 1 when one failed, also when \
it was rolled back, and with 3 when --plan shows something that cannot be upgraded.")]
    Run(Box<UpgradeRunArgs>),
    /// Upgrades that hosts remember, newest first.
    Status {
        #[command(flatten)]
        host: UpgradeHostArg,
        /// Only upgrades of this container, with their steps.
        container: Option<String>,
    },
    /// End the grace period: the old container and the clone of its data go. There is no way back.
    Commit {
        #[command(flatten)]
        host: HostArg,
        /// The container, or the job of its upgrade.
        upgrade: String,
    },
    /// Go back to the old container and to the data of the stop. What was written since is kept in
    /// a snapshot.
    Rollback {
        #[command(flatten)]
        host: HostArg,
        /// The container, or the job of its upgrade.
        upgrade: String,
        /// Discard what was written since the upgrade; the only way without a controller.
        #[arg(long)]
        without_snapshot: bool,
        /// Start it and return.
        #[arg(long)]
        no_wait: bool,
    },
}

/// Which hosts are asked.
#[derive(Debug, Clone, Args)]
pub struct UpgradeHostArg {
    /// Only this host [default: every connected one].
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub struct UpgradePlanArgs {
    #[command(flatten)]
    pub host: HostArg,
    /// Name or id.
    #[arg(requires = "to")]
    pub container: String,
    #[command(flatten)]
    pub target: ImageArgs,
    #[command(flatten)]
    pub options: UpgradeOptionArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["container", "plan_id", "selector"]))]
pub struct UpgradeRunArgs {
    /// Name or id; needs --host.
    #[arg(requires = "host", requires = "to")]
    pub container: Option<String>,
    /// Host the container is on.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["plan_id", "selector"])]
    pub host: Option<String>,
    /// Run exactly this plan, or nothing where the world has changed since.
    #[arg(long, value_name = "ID", conflicts_with_all = ["to", "options", "plan"])]
    pub plan_id: Option<String>,
    /// Every container of the fleet with this label (key or key=value); may be repeated, then all
    /// must match.
    #[arg(long, value_name = "LABEL", requires = "to")]
    pub selector: Vec<String>,
    /// Only on hosts with this label (key or key=value); may be repeated.
    #[arg(long, help_heading = "With --selector", value_name = "LABEL", conflicts_with_all = ["container", "plan_id"])]
    pub host_label: Vec<String>,
    /// Containers at once.
    #[arg(long, help_heading = "With --selector", value_name = "COUNT", conflicts_with_all = ["container", "plan_id"], default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Failures that do not stop the rollout; the next one does.
    #[arg(long, help_heading = "With --selector", value_name = "COUNT", conflicts_with_all = ["container", "plan_id"], default_value_t = 0)]
    pub max_failures: u32,
    /// Wait between batches.
    #[arg(long, help_heading = "With --selector", value_name = "SPAN", conflicts_with_all = ["container", "plan_id"], default_value = "0", value_parser = values::seconds)]
    pub pause: u32,
    /// When the rollout stops, roll back what it upgraded before.
    #[arg(long, help_heading = "With --selector", conflicts_with_all = ["container", "plan_id"])]
    pub undo: bool,
    #[command(flatten)]
    pub target: ImageArgs,
    #[command(flatten)]
    pub options: UpgradeOptionArgs,
    /// How containers are quiesced for the snapshot before the upgrade [default: pause].
    #[arg(long, value_enum)]
    pub consistency: Option<ConsistencyArg>,
    /// Start it and return.
    #[arg(long, conflicts_with = "plan")]
    pub no_wait: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub plan: bool,
}

/// What a container becomes.
#[derive(Debug, Clone, Args)]
#[group(id = "to", multiple = true)]
pub struct ImageArgs {
    /// The new image; without it, the reference the container was made with.
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<String>,
    /// Fetch the image anew, also where one of that name is there.
    #[arg(long)]
    pub pull: bool,
}

#[derive(Debug, Clone, Args)]
#[group(id = "options", multiple = true)]
pub struct UpgradeOptionArgs {
    /// Accept a loss by the name the plan gives it; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow_loss: Vec<String>,
    /// How long the new container may take until it is well [default: 2m].
    #[arg(long, value_name = "SPAN", value_parser = values::some_seconds)]
    pub health_timeout: Option<u32>,
    /// Without a health check: how long it has to run without a restart [default: 10s].
    #[arg(long, value_name = "SPAN", value_parser = values::some_seconds)]
    pub steady: Option<u32>,
    /// How long the old container and the clone of its data are kept [default: 24h].
    #[arg(long, value_name = "SPAN", value_parser = values::some_seconds)]
    pub grace: Option<u32>,
    /// It is well when this ends with 0 inside: a line for /bin/sh, or a JSON array that is run as
    /// it is. The host has to allow "exec".
    #[arg(long, value_name = "COMMAND", value_parser = values::probe_command, group = "probe")]
    pub probe_cmd: Option<Probe>,
    /// It is well when this port of the container takes a connection.
    #[arg(long, value_name = "PORT", value_parser = values::probe_tcp, group = "probe")]
    pub probe_tcp: Option<Probe>,
    /// It is well when this port of the container answers a GET of the path below 400.
    #[arg(long, value_name = "PORT/PATH", value_parser = values::probe_http, group = "probe")]
    pub probe_http: Option<Probe>,
}
