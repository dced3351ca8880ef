//! Containers as the agent sees them, and what it does to them.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary as ListedContainer, HealthStatusEnum, HostConfig,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};

use super::holders::HOLDER_LABEL;
use super::mounts::{Mount, all_mounts, sorted};
use super::volumes::{is_plain_name, shorten};
use super::{CHANGE_LIMIT, Engine, EngineError, EngineErrorKind, LOOKUP_LIMIT};

/// How long the Engine waits after the stop signal where a container says
/// nothing else, in seconds.
const DEFAULT_STOP_SECONDS: u64 = 10;

/// What the Engine may take on top of a container's own stop timeout.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// How often a container that cannot be frozen is tried, and how far apart.
const PAUSE_TRIES: u32 = 5;
const PAUSE_PAUSE: Duration = Duration::from_millis(200);

/// How often a container is looked at while its health is awaited.
const HEALTH_POLL: Duration = Duration::from_millis(250);

/// A container in full, as inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// As it was named when the container was made.
    pub image: String,
    pub image_id: String,
    pub state: ContainerState,
    pub labels: BTreeMap<String, String>,
    /// By target, tmpfs included.
    pub mounts: Vec<Mount>,
    pub health: HealthState,
    /// As the Engine writes it. Changes whenever the container starts.
    pub started_at: String,
    /// As the Engine writes it; that of an earlier run while it runs.
    pub finished_at: String,
    pub exit_code: i64,
    /// Of its first process; 0 when there is none.
    pub pid: i64,
    /// Seconds between the stop signal and the kill; negative waits for ever.
    pub stop_timeout_seconds: Option<i64>,
    /// Removed by the Engine as soon as it stops.
    pub auto_remove: bool,
    /// "no", "always", "unless-stopped", "on-failure".
    pub restart_policy: String,
    /// Names or ids of containers it links to or shares volumes or namespaces
    /// with, so that they must run before it does.
    pub needs: Vec<String>,
    /// Name or id of the container whose network namespace it lives in.
    pub network_of: Option<String>,
}

/// A container as listed: no tmpfs mounts, no health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    pub id: String,
    pub name: String,
    pub image: String,
    pub state: ContainerState,
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A word this agent does not know.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// The container has no health check.
    NoCheck,
    Starting,
    Healthy,
    Unhealthy,
}

/// How waiting for a container's health ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthWait {
    Healthy,
    /// It runs and has no health check to wait for.
    NoCheck,
    Unhealthy,
    /// It does not run any more.
    Ended {
        exit_code: i64,
    },
    TimedOut,
}

impl ContainerState {
    /// The Engine's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }

    /// Whether its processes exist and so may write.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    fn from_word(word: &str) -> Self {
        match word {
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "removing" => Self::Removing,
            "exited" => Self::Exited,
            "dead" => Self::Dead,
            _ => Self::Unknown,
        }
    }
}

impl Container {
    /// Whether `name`, as settings of other containers give it, means this one.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.id == name || (name.len() >= 12 && self.id.starts_with(name))
    }

    /// Whether `other` links to it or shares volumes or namespaces with it.
    pub fn is_needed_by(&self, other: &Self) -> bool {
        other.needs.iter().any(|need| self.is_named(need))
    }

    /// Whether it is one that an agent made for itself.
    pub fn is_holder(&self) -> bool {
        self.labels.contains_key(HOLDER_LABEL)
    }
}

impl ContainerSummary {
    /// Whether it is one that an agent made for itself.
    pub fn is_holder(&self) -> bool {
        self.labels.contains_key(HOLDER_LABEL)
    }
}

impl Engine {
    /// Every container, running or not, by name.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn list_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let request = self.docker.list_containers(Some(options));
        let listed = self.call("list containers", LOOKUP_LIMIT, request).await?;
        let mut containers: Vec<_> = listed.into_iter().map(ContainerSummary::from).collect();
        containers.sort_by(|left, right| (&left.name, &left.id).cmp(&(&right.name, &right.id)));
        Ok(containers)
    }

    /// One container, by name or id.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn inspect_container(&self, id: &str) -> Result<Container, EngineError> {
        let (id, operation) = (checked(id)?, format!("inspect container `{}`", shorten(id)));
        let request = self.docker.inspect_container(id, None::<InspectContainerOptions>);
        Ok(self.call(&operation, LOOKUP_LIMIT, request).await?.into())
    }

    /// Freezes a running container's processes. On control groups of version 1
    /// the runtime gives up on a container whose processes are made and end all
    /// the time, or on a busy machine (runc: "unable to freeze"); a little later
    /// it succeeds, so that is asked for a few times.
    ///
    /// # Errors
    /// `Conflict` when it does not run or is paused already.
    pub async fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        let (id, operation) = (checked(id)?, format!("pause container `{}`", shorten(id)));
        let mut tries = 0;
        loop {
            let paused = self.call(&operation, CHANGE_LIMIT, self.docker.pause_container(id)).await;
            tries += 1;
            match paused {
                Err(error) if tries < PAUSE_TRIES && error.to_string().contains("unable to freeze") => {
                    tracing::warn!(%error, "a container could not be frozen; it is tried again");
                    tokio::time::sleep(PAUSE_PAUSE).await;
                }
                paused => return paused,
            }
        }
    }

    /// Thaws a paused container. One that is not paused (any more) is success:
    /// the Engine calls that a failure of its own.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        let (id, operation) = (checked(id)?, format!("unpause container `{}`", shorten(id)));
        let error = match self.call(&operation, CHANGE_LIMIT, self.docker.unpause_container(id)).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if matches!(error.kind(), EngineErrorKind::Failed | EngineErrorKind::Conflict)
            && self.inspect_container(id).await?.state != ContainerState::Paused
        {
            return Ok(());
        }
        Err(error)
    }

    /// Stops a container with its own signal and stop timeout, which
    /// `at_most` may shorten. One that is stopped already is success.
    ///
    /// # Errors
    /// `NotFound` when it is gone; `Timeout` when it did not end in time.
    pub async fn stop_container(
        &self,
        container: &Container,
        at_most: Option<Duration>,
    ) -> Result<(), EngineError> {
        let id = checked(&container.id)?;
        let own = match container.stop_timeout_seconds {
            None => Some(DEFAULT_STOP_SECONDS),
            // Negative: it may take as long as it wants.
            Some(seconds) => u64::try_from(seconds).ok(),
        };
        let allowed = match (own, at_most) {
            (Some(own), Some(most)) => Some(own.min(most.as_secs())),
            (own, most) => own.or(most.map(|most| most.as_secs())),
        };
        // Left out, the Engine applies the container's own.
        let shortened = allowed.filter(|_| allowed != own);
        self.stop_named(id, &container.name, shortened, allowed).await
    }

    /// Stops a container with its own signal, and kills it when it has not
    /// ended after `timeout`, whatever its own stop timeout is. One that is
    /// stopped already is success.
    ///
    /// # Errors
    /// As [`Engine::stop_container`].
    pub async fn stop_container_after(
        &self,
        container: &Container,
        timeout: Duration,
    ) -> Result<(), EngineError> {
        let seconds = Some(timeout.as_secs());
        self.stop_named(checked(&container.id)?, &container.name, seconds, seconds).await
    }

    async fn stop_named(
        &self,
        id: &str,
        name: &str,
        told_seconds: Option<u64>,
        allowed_seconds: Option<u64>,
    ) -> Result<(), EngineError> {
        let mut options = StopContainerOptionsBuilder::new();
        if let Some(seconds) = told_seconds {
            options = options.t(i32::try_from(seconds).unwrap_or(i32::MAX));
        }
        // A stop timeout of -1 lets the container take for ever. Something has to
        // end the call all the same.
        let limit = Duration::from_secs(allowed_seconds.unwrap_or(24 * 60 * 60)) + STOP_MARGIN;
        let operation = format!("stop container `{name}`");
        self.call(&operation, limit, self.docker.stop_container(id, Some(options.build()))).await
    }

    /// Starts a container. One that runs already is success.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        self.start_named(id, &shorten(id)).await
    }

    /// Starts exactly this container, whatever has its name by now. One that
    /// runs already is success.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn start_found(&self, container: &Container) -> Result<(), EngineError> {
        self.start_named(&container.id, &container.name).await
    }

    async fn start_named(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let (id, operation) = (checked(id)?, format!("start container `{name}`"));
        let request = self.docker.start_container(id, None::<StartContainerOptions>);
        self.call(&operation, CHANGE_LIMIT, request).await
    }

    /// Removes a container, killing it if need be, and keeps its volumes.
    /// One that is gone already is success.
    ///
    /// # Errors
    /// When the Engine cannot remove it.
    pub async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        match self.remove_container_with(id, true, false).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a container: also one that runs with `force`, and volumes that
    /// have no name of their own with `volumes`.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` when it runs.
    pub async fn remove_container_with(
        &self,
        id: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), EngineError> {
        self.remove_named(id, &shorten(id), force, volumes).await
    }

    /// Removes exactly this container, whatever has its name by now, as
    /// [`Engine::remove_container_with`] does.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Conflict` when it runs.
    pub async fn remove_found(
        &self,
        container: &Container,
        force: bool,
        volumes: bool,
    ) -> Result<(), EngineError> {
        self.remove_named(&container.id, &container.name, force, volumes).await
    }

    async fn remove_named(
        &self,
        id: &str,
        name: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let (id, operation) = (checked(id)?, format!("remove container `{name}`"));
        let options = RemoveContainerOptionsBuilder::new().force(force).v(volumes).build();
        self.call(&operation, CHANGE_LIMIT, self.docker.remove_container(id, Some(options))).await
    }

    /// Waits until a container's health check has an answer.
    ///
    /// # Errors
    /// `NotFound` when it is gone. Not being healthy is no error.
    pub async fn wait_healthy(&self, id: &str, within: Duration) -> Result<HealthWait, EngineError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let container = self.inspect_container(id).await?;
            let settled = match (container.state, container.health) {
                (ContainerState::Running, HealthState::Healthy) => Some(HealthWait::Healthy),
                (ContainerState::Running, HealthState::NoCheck) => Some(HealthWait::NoCheck),
                (ContainerState::Running, HealthState::Unhealthy) => Some(HealthWait::Unhealthy),
                (ContainerState::Exited | ContainerState::Dead | ContainerState::Removing, _) => {
                    Some(HealthWait::Ended { exit_code: container.exit_code })
                }
                _ => None,
            };
            if let Some(settled) = settled {
                return Ok(settled);
            }
            let next = tokio::time::Instant::now() + HEALTH_POLL;
            if next > deadline {
                return Ok(HealthWait::TimedOut);
            }
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Refuses what could leave its place in a path of the Engine's API.
pub(super) fn checked(id: &str) -> Result<&str, EngineError> {
    let plain = id.strip_prefix('/').unwrap_or(id);
    if is_plain_name(plain) {
        return Ok(plain);
    }
    let message = format!("`{}` cannot be the name or id of a container", shorten(id).escape_debug());
    Err(EngineError::new(EngineErrorKind::Invalid, message))
}

impl From<ListedContainer> for ContainerSummary {
    fn from(listed: ListedContainer) -> Self {
        // A container that others link to is listed under `/other/alias` as well.
        let name = listed.names.unwrap_or_default().into_iter().min_by_key(|name| name.matches('/').count());
        Self {
            id: listed.id.unwrap_or_default(),
            name: plain_container_name(name),
            image: listed.image.unwrap_or_default(),
            state: ContainerState::from_word(&word(listed.state)),
            labels: listed.labels.unwrap_or_default().into_iter().collect(),
            mounts: sorted(listed.mounts.unwrap_or_default().into_iter().map(Mount::from).collect()),
        }
    }
}

impl From<ContainerInspectResponse> for Container {
    fn from(inspected: ContainerInspectResponse) -> Self {
        let state = inspected.state.unwrap_or_default();
        let config = inspected.config.unwrap_or_default();
        let host = inspected.host_config.unwrap_or_default();
        let restart = host.restart_policy.as_ref().and_then(|policy| policy.name);
        Self {
            id: inspected.id.unwrap_or_default(),
            name: plain_container_name(inspected.name),
            image: config.image.unwrap_or_default(),
            image_id: inspected.image.unwrap_or_default(),
            state: ContainerState::from_word(&word(state.status)),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            mounts: all_mounts(inspected.mounts.unwrap_or_default(), &host),
            health: health(state.health.and_then(|health| health.status)),
            started_at: state.started_at.unwrap_or_default(),
            finished_at: state.finished_at.unwrap_or_default(),
            exit_code: state.exit_code.unwrap_or_default(),
            pid: state.pid.unwrap_or_default(),
            stop_timeout_seconds: config.stop_timeout,
            auto_remove: host.auto_remove.unwrap_or_default(),
            restart_policy: word(restart),
            needs: needs(&host),
            network_of: host.network_mode.as_deref().and_then(joined).map(str::to_owned),
        }
    }
}

/// The container named in a setting such as `container:db`.
fn joined(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

fn needs(host: &HostConfig) -> Vec<String> {
    let modes = [&host.network_mode, &host.pid_mode, &host.ipc_mode, &host.cgroup];
    let joined = modes.into_iter().flatten().filter_map(|mode| joined(mode)).map(str::to_owned);
    // `/db:/web/database` and `name[:ro]`.
    let links = host.links.iter().flatten().filter_map(|link| link.trim_start_matches('/').split(':').next());
    let volumes = host.volumes_from.iter().flatten().filter_map(|from| from.split(':').next());
    joined.chain(links.chain(volumes).map(str::to_owned)).collect()
}

fn health(status: Option<HealthStatusEnum>) -> HealthState {
    match status {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => HealthState::NoCheck,
        Some(HealthStatusEnum::STARTING) => HealthState::Starting,
        Some(HealthStatusEnum::HEALTHY) => HealthState::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => HealthState::Unhealthy,
    }
}

fn word(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn plain_container_name(name: Option<String>) -> String {
    let name = name.unwrap_or_default();
    name.strip_prefix('/').unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_needs_is_read_from_its_settings() {
        let host = HostConfig {
            network_mode: Some("container:net".to_owned()),
            links: Some(vec!["/db:/web/database".to_owned()]),
            volumes_from: Some(vec!["data:ro".to_owned(), "more".to_owned()]),
            ..Default::default()
        };
        assert_eq!(needs(&host), ["net", "db", "data", "more"]);
    }

    #[test]
    fn names_that_would_leave_their_place_in_a_path_are_refused() {
        for id in ["../volumes/x", "a/b", "", "-f", "a?force=1", "a%2f"] {
            assert_eq!(checked(id).unwrap_err().kind(), EngineErrorKind::Invalid, "{id}");
        }
        assert_eq!(checked("/web-1").unwrap(), "web-1");
    }
}
