//! `holdfast host`, and the option that names one.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::key_value;

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
