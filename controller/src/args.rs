//! The controller's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_archive::store::Location;

use crate::config::Crypto;
use crate::identity::name::Name;
use crate::model::caller::Role;
use crate::policy::LabelMatch;

/// Keeps the catalogue, runs the schedules, and is what agents dial.
#[derive(Debug, Parser)]
#[command(name = "holdfast-controller", version)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 4 something is missing or damaged (rebuild, \
reconcile, verify, audit verify); 6 the store refuses these credentials, or to write; 7 the store is out of reach."
)]
pub struct Cli {
    /// How log lines look; HOLDFAST_LOG says which are written (`info`).
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a state directory: CA, configuration, catalogue, first token; and
    /// the repository.
    Init(InitArgs),
    /// Make a state directory for a repository whose controller was lost: the
    /// catalogue comes from the bucket, and the lost controller's, should it
    /// come back, is refused. While something is missing nothing is deleted;
    /// `reconcile --accept-loss` gives it up.
    Rebuild(InitArgs),
    /// Compare the catalogue with the bucket and make it agree: ends the
    /// suspension of one that was put back from an old copy. The controller
    /// must not run. Exit code 4 if anything is missing or damaged; while
    /// something is missing, nothing is deleted.
    Reconcile(ReconcileArgs),
    /// Read the repository and look for damage; the controller may run. What
    /// is damaged is sent again by the next backups, where its host still has
    /// it. Exit code 4 if a snapshot needs, or until now needed, anything that
    /// is damaged.
    Verify(VerifyArgs),
    /// Serve until told to stop.
    Run(RunArgs),
    /// Operators' tokens, on the catalogue itself; the controller may run.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The record of who did what.
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// Where the controller keeps what it must not lose.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/holdfast-controller")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Where snapshots will live: s3://BUCKET/PREFIX or an absolute path.
    #[arg(long, value_name = "PLACE")]
    pub repository: Location,
    /// How snapshots are encrypted. `none`: not at all, whoever can read the
    /// store reads the data. Nothing else is built yet, so it has to be said.
    #[arg(long, value_enum)]
    pub crypto: Crypto,
    /// How hosts and operators will reach this controller, `host` or
    /// `host:port`; a name that can be moved is best, because hosts keep it. May
    /// be repeated [default: this machine's name and address].
    #[arg(long = "address", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Where `run` will listen.
    #[arg(long, value_name = "ADDRESS", default_value_t = crate::config::default_listen())]
    pub listen: SocketAddr,
    /// `https://host[:port]` of the S3 service; AWS without it.
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// File with access key and secret key.
    #[arg(long, value_name = "FILE")]
    pub s3_credentials_file: Option<PathBuf>,
    /// Profile in that file.
    #[arg(long, value_name = "NAME")]
    pub s3_profile: Option<String>,
    /// PEM certificates to trust for the S3 service instead of the machine's.
    #[arg(long, value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Let the endpoint be http:// on another machine: nothing on the way is
    /// encrypted then.
    #[arg(long)]
    pub s3_allow_http: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Give up what is missing, so that packs which no snapshot reaches are
    /// deleted again. Only what the run before has shown is given up.
    #[arg(long)]
    pub accept_loss: bool,
    /// Write repo.json again first, if the repository has lost it or it is
    /// damaged: as it was, and only where something lies that the catalogue
    /// knows.
    #[arg(long)]
    pub write_repo_json: bool,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Everything but the content of packs.
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// Instead of the configured address; port 0 takes any free one. What was
    /// bound is written to the file `listen` in the state directory.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make an operator's token, replacing the one of that name.
    Create(TokenCreateArgs),
    /// List operators: role, hosts, until when, and when last used.
    #[command(alias = "list")]
    Ls(StateArgs),
    /// Refuse an operator's token from now on.
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, Clone, Args)]
pub struct TokenCreateArgs {
    #[command(flatten)]
    pub state: StateArgs,
    /// The operator's name, as the audit record will show it.
    pub name: Name,
    /// viewer, operator, restorer (reads and replaces data) or admin.
    #[arg(long, value_name = "ROLE")]
    pub role: Role,
    /// Good only for hosts with this label, "key" or "key=value"; may be given
    /// more than once: all of them count.
    #[arg(long, value_name = "LABEL", value_parser = host_label)]
    pub hosts: Vec<LabelMatch>,
    /// Refused from then on: "90d", "12h" or "4w". Without it the token does
    /// not expire.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub expires: Option<Duration>,
    /// Write the token to this new file, readable by its owner only, instead
    /// of printing it.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn host_label(text: &str) -> Result<LabelMatch, String> {
    LabelMatch::parse(text).ok_or_else(|| format!("`{text}` is no label: key or key=value is"))
}

/// Hours, days or weeks.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: a number of hours, days or weeks is, as in 12h, 90d or 4w");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let hours: u64 = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 7 * 24,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if count == 0 {
        return Err("a token that has expired already is good for nothing".to_owned());
    }
    Ok(Duration::from_hours(hours * u64::from(count)))
}

#[derive(Debug, Clone, Args)]
pub struct TokenRevokeArgs {
    #[command(flatten)]
    pub state: StateArgs,
    pub name: Name,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Recompute the chain and name the first row that was changed or cut.
    Verify(StateArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use support::secrets::{assert_all_are_files, promising};

    #[test]
    fn v08_the_life_of_a_token_is_in_hours_days_or_weeks() {
        let hours = |text| super::lifetime(text).map(|time| time.as_secs() / 3600);
        assert_eq!([hours("12h"), hours("90d"), hours("4w")], [Ok(12), Ok(90 * 24), Ok(4 * 7 * 24)]);
        for text in ["", "d", "90", "0d", "-1d", "90 d", "9\u{e4}"] {
            assert!(hours(text).is_err(), "{text}");
        }
    }

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn init_wants_to_be_told_that_nothing_is_encrypted() {
        let line = ["holdfast-controller", "init", "--repository", "/srv/r"];
        assert!(Cli::try_parse_from(line).is_err());
        assert!(Cli::try_parse_from(line.into_iter().chain(["--crypto", "none"])).is_ok());
    }

    #[test]
    fn o13_what_promises_a_secret_takes_a_file_that_holds_it() {
        assert_all_are_files(&promising(&super::Cli::command()));
    }
}
