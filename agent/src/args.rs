//! The agent's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use holdfast_proto::ids::JobId;

/// Serves volumes, mounts and snapshots of this host's Docker Engine.
#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the local socket, and the controller once this host has joined.
    Run(RunArgs),
    /// Make this host known to a controller, with a join token.
    Join(JoinArgs),
    /// What this host is to its controller, whether an agent runs and whether
    /// the Docker Engine answers. Exit code 1 unless all is well.
    Status(StateArgs),
    /// Forget the controller: a running agent disconnects and serves its socket
    /// alone.
    Leave(StateArgs),
    /// Start, unpause and remove what an agent that is gone left behind on this host.
    Resume(ResumeArgs),
    /// Replace the agent's own container; agents start this by themselves.
    #[command(hide = true)]
    HandOver(HandOverArgs),
}

/// Where the agent keeps its state and finds its settings.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// Directory of identity, journal and settings.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/holdfast-agent")]
    pub state_dir: PathBuf,
    /// Settings; default: config.toml in the state directory, which need not exist.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The Docker Engine, as unix:///path.
    #[arg(long, value_name = "URL", env = "DOCKER_HOST")]
    pub docker_host: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Socket to serve on; default: /run/holdfast/agent.sock.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Arguments of `join`: makes this host known to a controller.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// File with the join token; `-` reads it from standard input.
    #[arg(value_name = "TOKEN-FILE")]
    pub token_file: PathBuf,
    /// What the controller may do here: backup, restore, remove, exec, container, or
    /// an absolute path. May be repeated or separated by commas. Written to
    /// the settings; default: what is there, else backup and restore.
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub allow: Vec<String>,
}

/// Arguments of `hand-over`: goes on with an upgrade that stops the agent.
#[derive(Debug, Clone, Args)]
pub struct HandOverArgs {
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The Engine's unix socket.
    #[arg(long, value_name = "PATH")]
    pub docker_socket: PathBuf,
    pub job: JobId,
}

/// Arguments of `resume`: undoes what a dead agent left behind on this host.
#[derive(Debug, Clone, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub state: StateArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use support::secrets::{assert_all_are_files, promising};

    #[test]
    fn o13_what_promises_a_secret_takes_a_file_that_holds_it() {
        assert_all_are_files(&promising(&super::Cli::command()));
    }
}
