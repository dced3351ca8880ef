//! The only code that names the Docker client library.
//!
//! Everything here speaks in the agent's own types ([`Volume`],
//! [`Container`], [`Mount`]) and one error, so that the rest of the agent
//! neither sees optional fields of generated stubs nor status codes. An
//! [`Engine`] is a cheap handle that holds no connection; every call has a
//! deadline, and an Engine that restarts is simply asked again.
//!
//! Every part of the agent may call it. It decides nothing: who may be stopped or
//! removed is settled by its callers.
//!
//! Events are not used: state comes from list and inspect, which cannot be
//! missed or repeated.

mod containers;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod holders;
mod images;
mod mounts;
mod paths;
mod probe;
mod raw;
mod role;
#[cfg(test)]
pub(crate) mod testing;
mod transport;
mod volumes;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;

pub(crate) use self::containers::{Container, ContainerState, ContainerSummary, HealthState, HealthWait};
pub(crate) use self::error::{EngineError, EngineErrorKind};
pub(crate) use self::holders::HOLDER_LABEL;
pub(crate) use self::holders::HolderSpec;
pub(crate) use self::mounts::{Mount, MountKind};
pub(crate) use self::paths::PathKind;
pub(crate) use self::raw::{CreatedContainer, PathChange, PathChangeKind};
pub(crate) use self::role::ROLE_LABEL;
pub(crate) use self::role::Role;
use self::transport::{NEWEST_MINOR, OLDEST_MINOR, PinnedVersion, Transport};
pub(crate) use self::volumes::{InvalidVolumeName, NewVolume, Volume, VolumeName};

/// How long the Engine may take for a call that only looks something up.
const LOOKUP_LIMIT: Duration = Duration::from_secs(30);

/// How long the Engine may take for a call that changes something: volume
/// drivers mount network filesystems inside these.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// A handle on one Docker Engine. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    socket: Arc<Path>,
    pinned: PinnedVersion,
    longest: Duration,
}

/// Facts about the Engine and the machine it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    pub id: String,
    pub name: String,
    pub version: String,
    /// Newest API version the Engine speaks.
    pub api_version: String,
    /// The API version this agent puts on the wire.
    pub api_version_used: String,
    pub operating_system: String,
    pub kernel_version: String,
    pub architecture: String,
    pub storage_driver: String,
    pub data_root: PathBuf,
    pub cgroup_version: String,
    pub rootless: bool,
    pub userns_remap: bool,
}

impl Engine {
    /// A handle on the Engine that listens on `socket`. Nothing is connected
    /// to yet: an Engine that is down is reported by the calls.
    pub fn open(socket: &Path) -> Self {
        let pinned = PinnedVersion::default();
        let transport = Transport::new(socket.to_owned(), pinned.clone());
        // Deadlines are set per call below; the library's own only bounds the
        // head of an answer and must not be the shorter one.
        let docker = Docker::connect_with_custom_transport(
            move |request| transport.clone().send(request),
            Some("http://docker"),
            24 * 60 * 60,
            bollard::API_DEFAULT_VERSION,
        )
        .expect("a custom transport connects to nothing and cannot fail");
        Self { docker, socket: socket.into(), pinned, longest: Duration::MAX }
    }

    /// The same Engine with no call allowed to take longer than `longest`.
    #[must_use]
    pub fn with_limit(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// The Engine's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks the Engine what it is. Also finds out its API version anew.
    ///
    /// # Errors
    /// When the Engine cannot be reached or speaks no common API version.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.pinned.doubt();
        let version = self.call("say its version", LOOKUP_LIMIT, self.docker.version()).await?;
        let info = self.call("say its facts", LOOKUP_LIMIT, self.docker.info()).await?;
        let security = info.security_options.unwrap_or_default();
        let has = |name: &str| security.iter().any(|option| option.split(',').any(|part| part == name));
        Ok(EngineInfo {
            id: info.id.unwrap_or_default(),
            name: info.name.unwrap_or_default(),
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            api_version_used: self.pinned.minor().map(|minor| format!("1.{minor}")).unwrap_or_default(),
            operating_system: info.operating_system.unwrap_or_default(),
            kernel_version: info.kernel_version.unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            storage_driver: info.driver.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default().into(),
            cgroup_version: info.cgroup_version.map(|version| version.to_string()).unwrap_or_default(),
            rootless: has("name=rootless"),
            userns_remap: has("name=userns"),
        })
    }

    /// Runs one request under a deadline, with the API version known.
    async fn call<T>(
        &self,
        operation: &str,
        limit: Duration,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        let limit = limit.min(self.longest);
        let answer = tokio::time::timeout(limit, async {
            if !self.pinned.is_current() {
                self.negotiate().await?;
            }
            request.await.map_err(|error| EngineError::from_bollard(operation, &self.socket, error))
        })
        .await
        .unwrap_or_else(|_| Err(EngineError::timeout(operation, limit.as_secs().max(1))));
        if let Err(error) = &answer
            && matches!(error.kind(), EngineErrorKind::Unreachable | EngineErrorKind::Unsupported)
        {
            // It may come back as another version.
            self.pinned.doubt();
        }
        answer
    }

    async fn negotiate(&self) -> Result<(), EngineError> {
        let version = self
            .docker
            .version()
            .await
            .map_err(|error| EngineError::from_bollard("say its API version", &self.socket, error))?;
        let newest = version.api_version.unwrap_or_default();
        let oldest = version.min_api_version.unwrap_or_default();
        self.pinned.set(choose_minor(&newest, &oldest)?);
        Ok(())
    }
}

/// The API version both sides speak: the newest.
fn choose_minor(newest: &str, oldest: &str) -> Result<u32, EngineError> {
    let minor = |version: &str| version.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    let refuse = |message: String| Err(EngineError::new(EngineErrorKind::Unsupported, message));
    let Some(newest_minor) = minor(newest) else {
        return refuse(format!("the Engine speaks API `{newest}`, which is not a version this agent knows"));
    };
    if newest_minor < OLDEST_MINOR {
        return refuse(format!(
            "the Engine speaks API {newest}, but 1.{OLDEST_MINOR} is needed: upgrade Docker to 20.10 or newer"
        ));
    }
    if minor(oldest).is_some_and(|oldest_minor| oldest_minor > NEWEST_MINOR) {
        return refuse(format!(
            "the Engine speaks API {oldest} at the oldest, but this agent knows 1.{NEWEST_MINOR} at most: upgrade the agent"
        ));
    }
    Ok(newest_minor.min(NEWEST_MINOR))
}

#[cfg(test)]
mod tests;
