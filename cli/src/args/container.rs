//! `holdfast container`, as types.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use holdfast_proto::v1::ContainerMount;

use super::{HostArg, mounts, values};

#[derive(Debug, Subcommand)]
pub enum ContainerCommand {
    /// List containers, running or not.
    Ls {
        #[command(flatten)]
        host: HostArg,
        /// Only names matching one of these globs.
        names: Vec<String>,
        /// Only containers with this label (key or key=value); may be repeated.
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Only those that run.
        #[arg(long)]
        running: bool,
    },
    /// Show one container.
    Inspect {
        #[command(flatten)]
        host: HostArg,
        /// Name or id.
        container: String,
    },
    /// Print what a person set, less what the image sets by itself. Environment values are shown.
    Spec {
        #[command(flatten)]
        host: HostArg,
        /// Name or id.
        container: String,
        /// Also drop what equals the defaults of any image the host has: for containers that other
        /// tools filled with the defaults of an image long gone.
        #[arg(long)]
        clean: bool,
    },
    /// Make a container and start it, as `docker run -d` does.
    Run(Box<ContainerRunArgs>),
    /// Start containers.
    Start {
        #[command(flatten)]
        host: HostArg,
        /// Names or ids.
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Stop containers with their own signal.
    Stop {
        #[command(flatten)]
        host: HostArg,
        /// Names or ids.
        #[arg(required = true)]
        containers: Vec<String>,
        /// How long each may take before it is killed [default: its own timeout].
        #[arg(long, short, value_name = "SPAN", value_parser = values::seconds)]
        timeout: Option<u32>,
    },
    /// Remove containers; their volumes stay.
    Rm {
        #[command(flatten)]
        host: HostArg,
        /// Names or ids.
        #[arg(required = true)]
        containers: Vec<String>,
        /// Also those that run.
        #[arg(long, short)]
        force: bool,
        /// Anonymous volumes go, too, with their data.
        #[arg(long)]
        volumes: bool,
    },
}

#[derive(Debug, Args)]
pub struct ContainerRunArgs {
    #[command(flatten)]
    pub host: HostArg,
    /// Name of the new container.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Mount: volume:/path, /directory/of/the/host:/path, or /path for an anonymous volume; then
    /// [:ro]. May be repeated.
    #[arg(long = "volume", short = 'v', value_name = "SOURCE:PATH", value_parser = mounts::volume)]
    pub volumes: Vec<ContainerMount>,
    /// Mount: type=volume|bind|tmpfs,source=..,target=..[,readonly]; may be repeated.
    #[arg(long = "mount", value_name = "FIELDS", value_parser = mounts::mount)]
    pub mounts: Vec<ContainerMount>,
    /// Directory in memory: /path[:size=64m]; may be repeated.
    #[arg(long, value_name = "PATH", value_parser = mounts::tmpfs)]
    pub tmpfs: Vec<ContainerMount>,
    /// Published port: [[address:][host port]:]port[/protocol]; may be repeated.
    #[arg(long = "publish", short = 'p', value_name = "PORT", value_parser = values::port)]
    pub ports: Vec<String>,
    /// Environment variable: KEY=VALUE, or KEY to pass this shell's; may be repeated. Other users
    /// of this machine can read a command line: give secrets in --env-file.
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines, # starting a comment; --env goes before it. May be repeated.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Label (key or key=value); may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::label)]
    pub label: Vec<(String, String)>,
    /// Network to join, or bridge, host, none, container:NAME.
    #[arg(long, value_name = "NAME", visible_alias = "net")]
    pub network: Option<String>,
    /// no, always, unless-stopped or on-failure[:COUNT].
    #[arg(long, value_name = "POLICY", value_parser = values::restart)]
    pub restart: Option<String>,
    /// User and group: name or id[:group].
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// What the container calls itself.
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Working directory in the container.
    #[arg(long, short, value_name = "PATH")]
    pub workdir: Option<String>,
    /// The container may write to its mounts alone.
    #[arg(long)]
    pub read_only: bool,
    /// Remove it, with its anonymous volumes, as soon as it stops.
    #[arg(long)]
    pub rm: bool,
    /// Most memory it may use: 512m, 2g.
    #[arg(long, short, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<u64>,
    /// Most CPUs it may use: 1.5.
    #[arg(long, value_name = "NUMBER", value_parser = values::cpus)]
    pub cpus: Option<f64>,
    /// Fetch the image where it is not there.
    #[arg(long)]
    pub pull: bool,
    /// Program to run instead of the image's.
    #[arg(long, value_name = "PROGRAM", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub entrypoint: Option<String>,
    /// Only make it.
    #[arg(long)]
    pub no_start: bool,
    /// Taken for the sake of `docker run -d` and without effect: a container always runs in the
    /// background.
    #[arg(long, short)]
    pub detach: bool,
    /// Reference or id.
    pub image: String,
    /// Command and arguments instead of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
