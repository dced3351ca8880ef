//! The agent's life: settings, then bind, then run, then drain.
//!
//! Cleanup actions of an earlier agent are tried before anything is served, so that
//! no new job meets a container that has yet to be started. An Engine that
//! does not answer stops nothing here: the agent stays reachable and says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdfast_archive::secret_file;
use holdfast_archive::text::causes;
use sd_notify::NotifyState;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::allow::Allow;
use crate::args::{HandOverArgs, JoinArgs, ResumeArgs, RunArgs, StateArgs};
use crate::config::{Config, write_allow};
use crate::engine::Engine;
use crate::instance;
use crate::journal::{self, Journal};
use crate::link::{self, ConnectionState, Identity, Link};
use crate::resume::{RecoveryWorker, describe};
use crate::services::{router, set_serving};
use crate::socket::Socket;
use crate::spec::Specs;
use crate::state::{AgentState, JOURNAL_TIMEOUT, make_state_dir};
use crate::upgrade::{self, Upgrades};

/// How long `resume` tries; the Engine may be starting just then.
const RESUME_LIMIT: Duration = Duration::from_secs(300);

/// How long jobs may take to end when the agent stops, which includes that
/// containers start again; what is left then is the journal's.
const JOBS_LIMIT: Duration = Duration::from_secs(60);

/// How long calls may take to end when the agent stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Serves until it is told to stop.
///
/// # Errors
/// When the settings are wrong, or the state directory or the socket cannot be
/// used.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let state = AgentState::open(Config::load(&args)?).await?;
    let socket = Socket::bind(&state.config.socket).await?;
    // From here on commands find it, and wait where an Engine is slow to answer.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the agent can be reached");
    }
    let mut tasks = Tasks::start(&state);
    match state.holders.sweep().await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "holder containers that the journal does not list were removed"),
        Err(error) => tracing::warn!(%error, "leftover holder containers could not be looked for"),
    }
    tasks.start_link(&state, args)?;
    let serving = serve(&state, socket);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        error = tasks.failure() => {
            // Without any of them the agent looks well and is not: nobody would
            // resume containers, or hear the controller. Jobs end as they do
            // on a signal, and the service manager starts another agent.
            tracing::error!(%error, "a task of the agent failed; the agent stops");
            state.stop.cancel();
            serving.await.and(Err(error).context("a task of the agent failed"))
        }
    };
    tasks.end().await?;
    served
}

/// What runs beside the calls for as long as the agent does.
#[derive(Debug, Default)]
struct Tasks {
    /// Needed until the last job has ended, and dropped with the agent: each of
    /// them may be cut off anywhere, as by a kill.
    endless: JoinSet<()>,
    /// End when the agent is told to stop, and are waited for.
    ending: JoinSet<()>,
}

impl Tasks {
    fn start(state: &AgentState) -> Self {
        let mut tasks = Self::default();
        tasks.endless.spawn(stop_on_signal(state.stop.clone()));
        tasks.endless.spawn(state.recovery.clone().run());
        tasks.endless.spawn(state.clocks.clone().run());
        tasks.endless.spawn(state.upgrades.clone().run_loop());
        tasks.ending.spawn(state.specs.clone().run(state.stop.clone()));
        tasks
    }

    /// Dials the controller of a host that has joined, now or later, and keeps
    /// at it.
    fn start_link(&mut self, state: &AgentState, args: RunArgs) -> anyhow::Result<()> {
        let link = Link::open(&state.config.state_dir)?;
        if !link.has_joined() {
            tracing::info!(
                "this host has not joined a controller; the socket is served, and `holdfast-agent join` is waited for"
            );
        }
        let (mut line, plane) = (link.line(), state.data_plane.clone());
        plane.send_replace(line.borrow_and_update().clone());
        self.ending.spawn(async move {
            // Ends with the link, which holds the sender.
            while line.changed().await.is_ok() {
                plane.send_replace(line.borrow_and_update().clone());
            }
        });
        let served = state.clone();
        let allow = state.config.allow.clone();
        let rights = move || take_rights(&allow, &args);
        self.ending.spawn(link.run(
            move || router(&served),
            rights,
            state.controller.clone(),
            state.stop.clone(),
        ));
        Ok(())
    }

    /// Waits for the first that fails. Those that end are no failure.
    async fn failure(&mut self) -> JoinError {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.endless.join_next() => ended,
                Some(ended) = self.ending.join_next() => ended,
                else => std::future::pending().await,
            };
            if let Err(error) = ended {
                return error;
            }
        }
    }

    /// Waits for those that end by themselves; the others are dropped.
    async fn end(mut self) -> Result<(), JoinError> {
        while let Some(ended) = self.ending.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Takes over what the host's file allows by now: `join` writes it before it
/// writes the identity.
fn take_rights(allow: &Allow, args: &RunArgs) -> anyhow::Result<()> {
    let written = Config::load(args)?.allow;
    if *allow != written {
        tracing::info!(allow = ?written.words(), "what this host allows has changed");
        allow.take_over(&written);
    }
    Ok(())
}

/// Writes down what the controller that a token names may do here, and makes
/// this host known to it. Gives what to tell the operator.
///
/// # Errors
/// When a word of what is allowed, or the token, is no good.
pub async fn join(args: JoinArgs) -> anyhow::Result<String> {
    let JoinArgs { state, token_file, allow } = args;
    let config = Config::load_state(&state)?;
    let allow = match allow.is_empty() {
        true => config.allow.clone(),
        false => Allow::parse(allow.iter().map(String::as_str))?,
    };
    let token = if token_file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        secret_file::read(&token_file)
            .with_context(|| format!("cannot use the join token in {}", token_file.display()))?
    };
    make_state_dir(&config.state_dir)?;
    let engine = Engine::open(&config.docker_socket).info().await.ok().map(|info| info.id);
    let instance = instance::open(&config.state_dir, engine.as_deref())
        .with_context(|| format!("cannot use the state directory {}", config.state_dir.display()))?;
    // First, and on disk: a token counts once, and a host that has joined must
    // never run with other rights than it was joined with.
    write_allow(&config.file, &allow).with_context(|| format!("cannot write {}", config.file.display()))?;
    let identity = link::join(&token, &config.state_dir, instance).await?;
    // Of a directory that no agent ever ran on there is nothing to be asked.
    let next = match journal::is_held(&config.state_dir).unwrap_or(false) {
        true => "the agent that runs here connects within seconds; nothing has to be restarted",
        false => "next: start the agent: systemctl enable --now holdfast-agent, or holdfast-agent run",
    };
    Ok(format!(
        "joined {} as {}\nallowed here: {}\npacks go {}\n{next}",
        identity.addresses.join(", "),
        identity.host_name,
        allow.words().join(", "),
        packs_go(&identity)
    ))
}

/// Where the packs of this host may go.
fn packs_go(identity: &Identity) -> String {
    match &identity.store {
        None => "through the controller only".to_owned(),
        Some(store) => format!("through the controller, or to this store and no other: {store}"),
    }
}

/// What `status` tells.
#[derive(Debug)]
pub struct HostState {
    /// Lines for the operator.
    pub text: String,
    /// Joined, an agent runs, and the Engine answers.
    pub well: bool,
}

/// Looks at this host without a controller and without its agent's help.
///
/// # Errors
/// When the settings or the identity cannot be read.
pub async fn status(args: &StateArgs) -> anyhow::Result<HostState> {
    let config = Config::load_state(args)?;
    let identity = Identity::load(&config.state_dir)?;
    let runs = journal::is_held(&config.state_dir).unwrap_or(false);
    let engine = Engine::open(&config.docker_socket).info().await;
    let controller = match &identity {
        None => {
            "none; join one: holdfast host token NAME there, holdfast-agent join TOKEN-FILE here".to_owned()
        }
        Some(identity) => {
            let until = identity
                .validity()
                .ok()
                .and_then(|(_, last)| chrono::DateTime::from_timestamp(last, 0))
                .map_or("its certificate cannot be read".to_owned(), |last| {
                    format!("certificate until {}", last.format("%Y-%m-%d %H:%M UTC"))
                });
            format!("{} knows it as {}, {until}", identity.addresses.join(", "), identity.host_name)
        }
    };
    let connection_state =
        (runs && identity.is_some()).then(|| ConnectionState::read(&config.state_dir)).flatten();
    let (connected, connection) = describe_connection(connection_state.as_ref());
    let agent = match runs {
        true => "runs".to_owned(),
        false => "does not run: systemctl start holdfast-agent, or holdfast-agent run".to_owned(),
    };
    let docker = match &engine {
        Ok(info) => info.version.clone(),
        Err(error) => format!("does not answer: {}", causes(error)),
    };
    let packs = identity.as_ref().map_or("-".to_owned(), packs_go);
    let text = format!(
        "controller  {controller}\nconnection  {connection}\nagent       {agent}\nengine      {docker}\nallows      {}\npacks go    {packs}\nstate       {}",
        config.allow.words().join(", "),
        config.state_dir.display()
    );
    Ok(HostState { text, well: identity.is_some() && runs && connected && engine.is_ok() })
}

/// Whether the controller is connected, and how that is said.
fn describe_connection(state: Option<&ConnectionState>) -> (bool, String) {
    let Some(ConnectionState { since_unix_ms, problem }) = state else {
        return (false, "none".to_owned());
    };
    let since = chrono::DateTime::from_timestamp_millis(*since_unix_ms).unwrap_or_default();
    let since = since.format("%Y-%m-%d %H:%M:%S UTC");
    match problem {
        None => (true, format!("since {since}")),
        Some(problem) => (false, format!("NONE since {since}: {problem}")),
    }
}

/// Forgets the controller. Gives what to tell the operator.
///
/// # Errors
/// When there is no controller to forget, or its file cannot be removed.
pub fn leave(args: &StateArgs) -> anyhow::Result<String> {
    let config = Config::load_state(args)?;
    let name = Identity::load(&config.state_dir)?.map(|identity| identity.host_name);
    anyhow::ensure!(
        Identity::remove(&config.state_dir)?,
        "this host has not joined a controller: {} holds no identity",
        config.state_dir.display()
    );
    Ok(format!(
        "left: an agent that runs here disconnects within seconds and serves its socket alone\n\
         the controller goes on to miss this host until it is given up there: holdfast host retire {}",
        name.as_deref().unwrap_or("NAME")
    ))
}

/// Carries out what the journal lists and ends. For the service manager, when the
/// agent has died, and for people: it needs no running agent and refuses to
/// work beside one.
///
/// # Errors
/// When no agent ever kept a journal there, an agent runs, or an action failed;
/// the journal keeps it.
pub async fn resume(args: ResumeArgs) -> anyhow::Result<String> {
    let config = Config::load_state(&args.state)?;
    let directory = config.state_dir.clone();
    // Whoever mistypes it while containers are paused must not believe it is done.
    anyhow::ensure!(
        Journal::is_in(&directory),
        "no agent has kept a journal in {}: is --state-dir right?",
        directory.display()
    );
    let journal = tokio::task::spawn_blocking(move || Journal::open(&directory, JOURNAL_TIMEOUT)).await??;
    let engine = Engine::open(&config.docker_socket);
    let id = engine.info().await.ok().map(|info| info.id);
    let instance = instance::open(&config.state_dir, id.as_deref())
        .with_context(|| format!("cannot use the state directory {}", config.state_dir.display()))?;
    let recovery = RecoveryWorker::new(Arc::new(journal), engine.clone(), instance);
    // Upgrades first: what they hold is quiesced on purpose, and goes back as a whole.
    let specs = Specs::new(&config.state_dir, engine.clone());
    let upgrades = Upgrades::open(
        &config.state_dir,
        upgrade::Parts::alone(engine.clone(), Some(recovery.clone()), specs),
    )?;
    let due: Vec<String> = recovery.listed().iter().map(describe).collect();
    let mut left = upgrades.recover(RESUME_LIMIT).await;
    left.extend(recovery.carry_out_all(RESUME_LIMIT).await.iter().map(describe));
    if left.is_empty() {
        return Ok(match due.is_empty() {
            true => "nothing was left to do".to_owned(),
            // How each ended is in the log: a container may be gone, or not start.
            false => format!("nothing is left to do; the list was: {}", due.join(", ")),
        });
    }
    anyhow::bail!("still to do: {}; the agent goes on when it is started", left.join(", "));
}

/// Goes on with an upgrade of the agent's own container, which stops the agent:
/// the agent starts this in a container beside it.
///
/// # Errors
/// When there is no such upgrade or it cannot be worked on; the Engine starts
/// this again then.
pub async fn hand_over(args: HandOverArgs) -> anyhow::Result<()> {
    let engine = Engine::open(&args.docker_socket);
    // No journal: the agent that waits to be replaced has it open.
    let upgrades = Upgrades::open(
        &args.state_dir,
        upgrade::Parts::alone(engine.clone(), None, Specs::new(&args.state_dir, engine)),
    )?;
    upgrades.help(args.job).await?;
    Ok(())
}

/// Serves the local socket; returns when the agent was told to stop and the
/// calls under way have ended or had their time.
///
/// # Errors
/// When the socket fails.
pub async fn serve(state: &AgentState, socket: Socket) -> anyhow::Result<()> {
    set_serving(state, ServingStatus::Serving).await;
    tracing::info!(
        socket = %socket.path().display(),
        instance.id = %state.instance,
        allow = ?state.config.allow.words(),
        "agent serves"
    );
    let path = socket.path().to_owned();
    let serving =
        router(state).serve_with_incoming_shutdown(socket.admitted(), state.stop.clone().cancelled_owned());
    let overdue = async {
        state.stop.cancelled().await;
        set_serving(state, ServingStatus::NotServing).await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    let served = async {
        tokio::select! {
            served = serving => served.with_context(|| format!("serving on {} failed", path.display())),
            () = overdue => {
                tracing::warn!("calls still under way are cut off");
                Ok(())
            }
        }
    };
    // Together: jobs that end tell it over calls that are still served.
    let (served, ()) = tokio::join!(served, end_jobs(state));
    served?;
    tracing::info!("agent stopped");
    Ok(())
}

async fn end_jobs(state: &AgentState) {
    state.stop.cancelled().await;
    if tokio::time::timeout(JOBS_LIMIT, state.snapshots.shut_down()).await.is_err() {
        tracing::warn!("jobs have not ended; what they leave to undo is in the journal");
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be listened for: the agent can only be killed");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to stop (SIGTERM)"),
        _ = interrupt.recv() => tracing::info!("told to stop (SIGINT)"),
    }
    stop.cancel();
}

#[cfg(test)]
mod tests;
