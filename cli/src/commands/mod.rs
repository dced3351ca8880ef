//! One file a noun. A command parses its input into a request, makes its
//! calls and gives a struct to `output`.
//!
//! `main` calls [`run`] and nothing else. A command may read files that it was
//! given by name, talk to a controller or an agent through `client`, and to a
//! repository through `archive` (`repo`); it prints through `output` alone.

mod apply;
mod audit;
mod backup;
mod container;
mod context;
mod demo;
mod dev;
mod host;
mod job;
mod mount;
mod policy;
mod repo;
mod restore;
mod snapshot;
mod source;
mod status;
mod upgrade;
mod volume;

use std::future::Future;
use std::time::Duration;

use clap::CommandFactory as _;
use tonic::{Request, Status};

use crate::args::{Cli, Command, GlobalArgs, HostArg, OutputFormat, RepoCommand};
use crate::client::{self, Client};
use crate::config::Config;
use crate::error::{CliError, ErrorCode, Exit, Result};
use crate::output;

/// What every command may use.
pub struct Env {
    pub global: GlobalArgs,
    pub format: OutputFormat,
}

impl Env {
    /// Connects to what the flags and contexts say.
    async fn client(&self) -> Result<Client> {
        Client::connect(&Config::load()?.target(&self.global)?).await
    }

    /// At an agent's socket there is no controller.
    fn at_socket(&self) -> bool {
        self.global.socket.is_some()
    }

    /// The host of an agent's call, settled before anything is dialled.
    fn host<'a>(&self, arg: &'a HostArg) -> Result<Option<&'a str>> {
        client::check_host(self.at_socket(), arg.host.as_deref())?;
        Ok(arg.host.as_deref())
    }
}

/// Longest a single answer may take; streams have no such limit.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest an answer may take that waits for an image to arrive, a container to
/// stop or a clone of its data to be deleted.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs a command to its end.
///
/// # Errors
/// What the command came to: its code is how the program ends.
pub fn run(cli: Cli) -> Result<Exit> {
    let env = Env { format: cli.global.output, global: cli.global };
    match cli.command {
        // Neither configuration nor a controller is needed for these, nor may their absence matter.
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
            output::Content::new().write(&script).map_err(|error| CliError::io("standard output", &error))?;
            Ok(Exit::Done)
        }
        Command::Man { directory } => {
            clap_mangen::generate_to(Cli::command(), &directory)
                .map_err(|error| CliError::io(&directory.display().to_string(), &error))?;
            Ok(Exit::Done)
        }
        Command::Context(command) => context::run(&env, command),
        command => {
            // Made before the command is given away: what an interrupt means depends on what was
            // begun.
            let left = left_behind(&command);
            runtime()?.block_on(async {
                tokio::select! {
                    result = dispatch(&env, command) => result,
                    // The command is dropped where it stands. What it started on a controller goes
                    // on there; what it started here ends with its guards.
                    () = interrupted() => left,
                }
            })
        }
    }
}

/// How a command ends that is told to stop, and what goes on without it.
fn left_behind(command: &Command) -> Result<Exit> {
    let interrupted = |message: &str| CliError::new(ErrorCode::Interrupted, message);
    match command {
        // This is how it ends: both processes go with it.
        Command::Dev(_) => Ok(Exit::Done),
        Command::Demo(_) => Err(interrupted("interrupted; what the demo made is removed")),
        Command::Repo(command) if !matches!(command, RepoCommand::Prune { .. }) => {
            Err(interrupted("interrupted; the repository is as it was"))
        }
        Command::Backup(_)
        | Command::Restore(_)
        | Command::Upgrade(_)
        | Command::Job(_)
        | Command::Repo(_) => {
            Err(interrupted("interrupted; a job that was started goes on").hint("holdfast job ls --active"))
        }
        _ => Err(interrupted("interrupted")),
    }
}

async fn dispatch(env: &Env, command: Command) -> Result<Exit> {
    match command {
        Command::Host(command) => host::run(env, command).await,
        Command::Source(command) => source::run(env, command).await,
        Command::Volume(command) => volume::run(env, command).await,
        Command::Mount(command) => mount::run(env, command).await,
        Command::Container(command) => container::run(env, command).await,
        Command::Upgrade(command) => upgrade::run(env, command).await,
        Command::Policy(command) => policy::run(env, command).await,
        Command::Backup(command) => backup::run(env, command).await,
        Command::Snapshot(command) => snapshot::run(env, command).await,
        Command::Restore(command) => restore::run(env, command).await,
        Command::Job(command) => job::run(env, command).await,
        Command::Repo(command) => repo::run(env, command).await,
        Command::Audit(command) => audit::run(env, command).await,
        Command::Apply(args) => apply::run(env, args).await,
        Command::Status(args) => status::run(env, args).await,
        Command::Demo(args) => demo::run(env, args).await,
        Command::Dev(args) => dev::run(env, args).await,
        Command::Completion { .. } | Command::Man { .. } | Command::Context(_) => Ok(Exit::Done),
    }
}

/// Ctrl-C, or the polite end that service managers ask for.
async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            // Without the handler the signal ends the process as it always does.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        // Calls are few at a time; what works hard has threads of its own.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::io("starting threads", &error))
}

/// Gives a request its deadline.
fn within<T>(message: T) -> Request<T> {
    deadline(message, CALL_TIMEOUT)
}

/// Like [`within`], for what may take its time.
fn within_long<T>(message: T) -> Request<T> {
    deadline(message, LONG_CALL_TIMEOUT)
}

fn deadline<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Everything a short stream has to say.
async fn collect<T>(
    stream: impl Future<Output = std::result::Result<tonic::Response<tonic::Streaming<T>>, Status>>,
) -> Result<Vec<T>> {
    let mut stream = stream.await?.into_inner();
    let mut items = Vec::new();
    while let Some(item) = stream.message().await? {
        items.push(item);
    }
    Ok(items)
}

/// `a=1, b=2` in the order of the names.
fn labels(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key}={value}") })
        .collect::<Vec<_>>()
        .join(", ")
}

/// The beginning of an anonymous volume's 64 digits, which say nothing to a
/// person. What is shorter, or no such name, stays.
fn short(name: &str) -> String {
    // Not by index: the twelfth byte may lie inside a character.
    match name.get(..12) {
        Some(digits) if name.len() > 12 => format!("{digits}…"),
        _ => name.to_owned(),
    }
}

/// "1 host", "2 hosts".
fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
