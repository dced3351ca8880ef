//! Volumes as the agent sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};

use super::mounts::MountKind;
use super::{CHANGE_LIMIT, Container, Engine, EngineError, EngineErrorKind, LOOKUP_LIMIT};

/// Label the Engine puts on volumes it named itself (Docker 24 and newer).
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// A text that may be a volume's name: Docker's pattern, 255 bytes at most.
/// Names so checked are safe in paths of the Engine's API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(String);

/// A text that cannot be a volume's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` cannot be the name of a volume: a letter or digit, then letters, digits, `_`, `.` or `-`, 255 at most",
    text.escape_debug()
)]
pub struct InvalidVolumeName {
    text: String,
}

/// A volume the Engine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// As the Engine writes it; a plugin may allow more than [`VolumeName`].
    pub name: String,
    pub driver: String,
    /// Where the Engine says the data is; not everything is there all the time.
    pub mountpoint: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// As given at creation; may hold secrets of a network filesystem.
    pub options: BTreeMap<String, String>,
    pub scope: String,
    /// As the Engine writes it; empty where the driver does not say. On API 1.41
    /// the local driver reports the last change of the root directory here.
    pub created_at: String,
}

/// Settings of a volume to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    pub name: VolumeName,
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// What became of a [`NewVolume`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub volume: Volume,
    /// False: it was there already, with equal settings.
    pub created: bool,
}

impl VolumeName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = InvalidVolumeName;

    fn from_str(text: &str) -> Result<Self, InvalidVolumeName> {
        if is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidVolumeName { text: shorten(text) })
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Volume {
    /// Whether the Engine named it, not a person.
    pub fn is_anonymous(&self) -> bool {
        let random = self.name.len() == 64 && self.name.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.labels.contains_key(ANONYMOUS_LABEL) || (random && self.labels.is_empty())
    }

    /// Milliseconds since the Unix epoch; 0 where the driver does not say.
    pub fn created_unix_ms(&self) -> i64 {
        chrono::DateTime::parse_from_rfc3339(&self.created_at).map_or(0, |time| time.timestamp_millis())
    }

    /// How its settings differ from those asked for; none if they do not.
    fn difference_from(&self, wanted: &NewVolume) -> Option<String> {
        let plain = |driver: &str| driver.strip_suffix(":latest").unwrap_or(driver).to_owned();
        if plain(&self.driver) != plain(&wanted.driver) {
            return Some(format!("its driver is `{}`, not `{}`", self.driver, wanted.driver));
        }
        // Values of options are secrets at times: only their keys are named.
        let option =
            differing_key(&self.options, &wanted.options).map(|key| format!("its option `{key}` differs"));
        option.or_else(|| {
            differing_key(&self.labels, &wanted.labels).map(|key| format!("its label `{key}` differs"))
        })
    }
}

impl Engine {
    /// Every volume, by name.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn list_volumes(&self) -> Result<Vec<Volume>, EngineError> {
        let request = self.docker.list_volumes(None::<ListVolumesOptions>);
        let answer = self.call("list volumes", LOOKUP_LIMIT, request).await?;
        let mut volumes: Vec<Volume> =
            answer.volumes.unwrap_or_default().into_iter().map(Volume::from).collect();
        volumes.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(volumes)
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub async fn inspect_volume(&self, name: &VolumeName) -> Result<Volume, EngineError> {
        let operation = format!("inspect volume `{name}`");
        let volume = self.call(&operation, LOOKUP_LIMIT, self.docker.inspect_volume(name.as_str())).await?;
        Ok(volume.into())
    }

    /// Makes a volume, or finds one with equal settings. The Engine answers
    /// success for a name that is taken and ignores the settings asked for, so
    /// they are compared here, before and after.
    ///
    /// # Errors
    /// `Conflict` when the name is taken with other settings.
    pub async fn create_volume(&self, wanted: &NewVolume) -> Result<Created, EngineError> {
        match self.inspect_volume(&wanted.name).await {
            Ok(volume) => return found(volume, wanted, false),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let request = VolumeCreateRequest {
            name: Some(wanted.name.to_string()),
            driver: Some(wanted.driver.clone()),
            driver_opts: Some(wanted.options.clone().into_iter().collect()),
            labels: Some(wanted.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        let operation = format!("create volume `{}`", wanted.name);
        let volume = self.call(&operation, CHANGE_LIMIT, self.docker.create_volume(request)).await?;
        // Somebody else may have been faster.
        found(volume.into(), wanted, true)
    }

    /// Removes a volume no container uses.
    ///
    /// # Errors
    /// `Conflict` when a container uses it, `NotFound` when there is none.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), EngineError> {
        let operation = format!("remove volume `{name}`");
        let request = self.docker.remove_volume(name.as_str(), None::<RemoveVolumeOptions>);
        self.call(&operation, CHANGE_LIMIT, request).await
    }

    /// The containers that mount a volume, running or not, by name. Holder
    /// containers are the agent's own and are not among them.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn volume_users(&self, name: &VolumeName) -> Result<Vec<Container>, EngineError> {
        let mut users = Vec::new();
        for summary in self.list_containers().await? {
            let mounts_it =
                |mount: &super::Mount| mount.kind == MountKind::Volume && mount.source == name.as_str();
            if summary.is_holder() || !summary.mounts.iter().any(mounts_it) {
                continue;
            }
            match self.inspect_container(&summary.id).await {
                Ok(container) => users.push(container),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(users)
    }
}

impl From<bollard::models::Volume> for Volume {
    fn from(volume: bollard::models::Volume) -> Self {
        let bollard::models::Volume {
            name,
            driver,
            mountpoint,
            created_at,
            status: _,
            labels,
            scope,
            cluster_volume: _,
            options,
            usage_data: _,
        } = volume;
        Self {
            name,
            driver,
            mountpoint: mountpoint.into(),
            labels: labels.into_iter().collect(),
            options: options.into_iter().collect(),
            scope: scope.map(|scope| scope.to_string()).unwrap_or_default(),
            created_at: created_at.unwrap_or_default(),
        }
    }
}

/// Docker's pattern for names of volumes and containers.
pub(super) fn is_plain_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 255
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What of a refused text an error repeats.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn found(volume: Volume, wanted: &NewVolume, created: bool) -> Result<Created, EngineError> {
    match volume.difference_from(wanted) {
        None => Ok(Created { volume, created }),
        Some(difference) => Err(EngineError::new(
            EngineErrorKind::Conflict,
            format!("volume `{}` exists with other settings: {difference}", wanted.name),
        )),
    }
}

fn differing_key<'a>(
    left: &'a BTreeMap<String, String>,
    right: &'a BTreeMap<String, String>,
) -> Option<&'a str> {
    left.keys().chain(right.keys()).find(|&key| left.get(key) != right.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x18_names_outside_dockers_pattern_are_refused() {
        let long = "a".repeat(256);
        for text in ["../../etc", "-v", "$(id)", "a\nb", "", ".", "a/b", "a b", "é", long.as_str()] {
            assert!(text.parse::<VolumeName>().is_err(), "{text:?} was taken");
        }
        for text in ["a", "db_data", "9.x-y_z", "A".repeat(255).as_str()] {
            assert!(text.parse::<VolumeName>().is_ok(), "{text:?} was refused");
        }
        let error = "a\u{1b}[2J".parse::<VolumeName>().unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error:?} carries a control character");
    }

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: PathBuf::from("/x"),
            labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            options: BTreeMap::new(),
            scope: "local".to_owned(),
            created_at: "2026-11-22T02:00:00+01:00".to_owned(),
        }
    }

    #[test]
    fn a_volume_is_anonymous_by_label_or_by_a_bare_random_name() {
        let random = "0123456789abcdef".repeat(4);
        assert!(volume(&random, &[]).is_anonymous());
        assert!(volume(&random, &[(ANONYMOUS_LABEL, "")]).is_anonymous());
        assert!(!volume(&random, &[("owner", "me")]).is_anonymous());
        assert!(!volume("db_data", &[]).is_anonymous());
    }

    #[test]
    fn times_of_creation_are_read_with_their_zone() {
        assert_eq!(volume("a", &[]).created_unix_ms(), 1_795_309_200_000);
        assert_eq!(Volume { created_at: String::new(), ..volume("a", &[]) }.created_unix_ms(), 0);
    }

    #[test]
    fn a_difference_names_the_key_and_not_the_value() {
        let mut wanted = NewVolume {
            name: "a".parse().unwrap(),
            driver: "local".to_owned(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        assert_eq!(volume("a", &[]).difference_from(&wanted), None);
        wanted.options.insert("o".to_owned(), "password=hunter2".to_owned());
        let difference = volume("a", &[]).difference_from(&wanted).unwrap();
        assert_eq!(difference, "its option `o` differs");
    }
}
