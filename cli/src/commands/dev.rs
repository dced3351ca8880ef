//! `holdfast dev`: a controller and an agent on this machine that stay up.

use std::path::PathBuf;

use serde::Serialize;

use super::Env;
use crate::args::DevArgs;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Lines, Render};
use crate::stack::{Layout, Stack};

#[derive(Serialize)]
struct DevView {
    host: &'static str,
    controller: String,
    ca_file: PathBuf,
    token_file: PathBuf,
    agent_socket: PathBuf,
    repository: PathBuf,
    state_dir: PathBuf,
}

impl Render for DevView {
    fn lines(&self) -> Lines {
        Lines::of_text(&format!(
            "controller on {address}, this machine enrolled as {host}. In another terminal:\n\n  \
             export HOLDFAST_CONTROLLER={address}\n  export HOLDFAST_CA_FILE={ca}\n  export HOLDFAST_TOKEN_FILE={token}\n  \
             holdfast status\n  holdfast volume ls --host {host}\n  holdfast --socket {socket} volume ls\n\n\
             The repository is {repository}. Ctrl-C ends both.",
            address = self.controller,
            host = self.host,
            ca = self.ca_file.display(),
            token = self.token_file.display(),
            socket = self.agent_socket.display(),
            repository = self.repository.display(),
        ))
    }
}

const HOST: &str = "dev-host";

pub(super) async fn run(env: &Env, args: DevArgs) -> Result<Exit> {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::usage("the agent reads Docker's volumes, which only root may")
            .hint("sudo holdfast dev"));
    }
    // Removed when this function ends. With --state-dir it stays empty.
    let scratch = tempfile::Builder::new()
        .prefix("holdfast-dev-")
        .tempdir()
        .map_err(|error| CliError::io("the temporary directory", &error))?;
    let root = args.state_dir.unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&root).map_err(|error| CliError::io(&root.display().to_string(), &error))?;
    let mut stack = Stack::prepare(Layout::new(&root, args.demo.binaries, &args.demo.docker_host)?)?;
    let client = stack.start_controller().await?;
    stack.start_agent(&client, HOST).await?;
    let context = stack.layout.context()?;
    let view = DevView {
        host: HOST,
        controller: context.address,
        ca_file: context.ca_file,
        token_file: context.token_file,
        agent_socket: stack.layout.agent_socket(),
        repository: stack.layout.repository(),
        state_dir: root,
    };
    output::emit(env.format, &view);
    stack.until_ended().await
}
