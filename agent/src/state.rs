//! What all parts of a running agent share, and how it is opened.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdfast_proto::ids::InstanceId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::clocks::Clocks;
use crate::config::Config;
use crate::controller::Controller;
use crate::engine::Engine;
use crate::holder::Holders;
use crate::instance;
use crate::journal::Journal;
use crate::own::Own;
use crate::resume::RecoveryWorker;
use crate::session::{DataPlane, Line};
use crate::snapshot::{Parts, Snapshots, own_container};
use crate::spec::Specs;
use crate::upgrade::{self, Upgrades};

/// How long a predecessor may take to let go of the journal.
pub(crate) const JOURNAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a job repeats one call to a controller that does not answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// What all services of one agent share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentState {
    pub config: Arc<Config>,
    pub engine: Engine,
    pub journal: Arc<Journal>,
    /// Carries out what the journal lists; [`run`] starts it.
    pub recovery: RecoveryWorker,
    pub snapshots: Snapshots,
    /// Takes back what an earlier agent left half done; [`run`] starts it.
    pub upgrades: Upgrades,
    /// The connection of the data plane, while there is one; the link sets it.
    pub data_plane: Arc<watch::Sender<Option<Line>>>,
    pub holders: Holders,
    /// Settings of containers; [`run`] starts to keep them.
    pub specs: Specs,
    pub instance: InstanceId,
    /// Whose count of uptime [`run`] keeps.
    pub clocks: Clocks,
    pub controller: Controller,
    /// Knows what of Holdfast itself is on this host.
    pub own: Own,
    pub health: HealthReporter,
    /// Cancelled when the agent is to stop.
    pub stop: CancellationToken,
}

impl AgentState {
    /// Opens the state directory and, if it answers, the Engine.
    ///
    /// # Errors
    /// When the state directory cannot be used or another agent uses it.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        let directory = config.state_dir.clone();
        make_state_dir(&directory)?;
        // First: its lock keeps a second agent out of everything below.
        let journal = tokio::task::spawn_blocking({
            let directory = directory.clone();
            move || Journal::open(&directory, JOURNAL_TIMEOUT)
        })
        .await??;
        let journal = Arc::new(journal);
        let engine = Engine::open(&config.docker_socket);
        let id = match engine.info().await {
            Ok(info) => Some(info.id),
            Err(error) => {
                tracing::warn!(%error, "the Docker Engine does not answer; the agent goes on and asks again");
                None
            }
        };
        let instance = instance::open(&directory, id.as_deref())
            .with_context(|| format!("cannot use the state directory {}", directory.display()))?;
        // Before anything new is recorded: what is in the journal now is due.
        let recovery = RecoveryWorker::new(journal.clone(), engine.clone(), instance);
        let holders = Holders::new(engine.clone(), journal.clone(), instance);
        let specs = Specs::new(&directory, engine.clone());
        let controller = Controller::default();
        let own = Own::new(engine.clone(), own_container(), directory.clone(), controller.clone());
        let (data_plane, channel) = watch::channel(None);
        let snapshots = Snapshots::new(Parts {
            engine: engine.clone(),
            holders: holders.clone(),
            recovery: recovery.clone(),
            specs: specs.clone(),
            plane: DataPlane::new(channel, CALL_TIMEOUT),
            allow: config.allow.clone(),
            memory_bytes: config.memory_bytes,
            workers: config.workers,
            max_downtime: config.max_downtime,
            controller: controller.clone(),
            own: own.clone(),
        });
        let upgrades =
            Upgrades::open(&directory, upgrade_parts(&config, &engine, &recovery, &snapshots, &specs))?;
        Ok(Self {
            config: Arc::new(config),
            engine,
            journal,
            recovery,
            snapshots,
            upgrades,
            data_plane: Arc::new(data_plane),
            holders,
            specs,
            instance,
            clocks: Clocks::new(&directory),
            controller,
            own,
            health: HealthReporter::new(),
            stop: CancellationToken::new(),
        })
    }
}

/// Makes the state directory, or closes one that is there to everybody but its
/// owner: keys and settings of containers lie in it.
pub(crate) fn make_state_dir(directory: &Path) -> anyhow::Result<()> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mode = std::fs::metadata(directory)?.permissions().mode();
        if mode & 0o077 == 0 {
            return Ok(());
        }
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))
    };
    make().with_context(|| {
        format!("cannot make the state directory {} for its owner alone", directory.display())
    })
}

fn upgrade_parts(
    config: &Config,
    engine: &Engine,
    recovery: &RecoveryWorker,
    snapshots: &Snapshots,
    specs: &Specs,
) -> upgrade::Parts {
    upgrade::Parts {
        engine: engine.clone(),
        recovery: Some(recovery.clone()),
        specs: specs.clone(),
        allow: config.allow.clone(),
        registry: snapshots.registry(),
        quiesce_lock: snapshots.quiesce_lock(),
        own: own_container().map(|id| upgrade::Own {
            id,
            state_dir: config.state_dir.clone(),
            docker_socket: config.docker_socket.clone(),
        }),
    }
}
