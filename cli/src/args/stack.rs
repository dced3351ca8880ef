//! `holdfast demo` and `holdfast dev`, as types.

use std::path::PathBuf;

use clap::Args;

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
