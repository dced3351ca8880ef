//! What a job was asked to do, as its row keeps it.
//!
//! A backup keeps the selection, not the sources: they are looked up when it
//! starts, so that a volume made a minute before the fire is in it. The
//! selection is copied from the policy at fire time; editing the policy does
//! not change a job that waits.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_archive::ids::{HostId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::kind::JobKind;
use crate::model::source::SourceKind;
use crate::model::upgrade::{UpgradeOptions, UpgradeRequest, UpgradeSource};
use crate::policy::{Consistency, LabelMatch, NestedMounts, Patterns, Policy, TornPolicy, VolumeSelector};

/// By kind of job. The JSON is kept in the catalogue: names stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Parameters {
    Backup(BackupParameters),
    Restore(RestoreParameters),
    Prune {},
    Upgrade(UpgradeParameters),
    Rollback(RollbackParameters),
    Rollout(RolloutParameters),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupParameters {
    pub volumes: Vec<String>,
    pub exclude: Vec<String>,
    pub volume_labels: Vec<String>,
    pub directories: Vec<String>,
    pub consistency: Consistency,
    pub torn: TornPolicy,
    #[serde(default)]
    pub nested_mounts: NestedMounts,
    pub max_downtime_seconds: u32,
    pub allow_empty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreParameters {
    /// Text of a snapshot id.
    pub snapshot: String,
    pub target: RestoreTarget,
    pub devices: bool,
    pub setuid: bool,
    pub strict: bool,
    #[serde(default)]
    pub salvage: bool,
    pub paths: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreTarget {
    NewVolume {
        name: String,
        driver: String,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    },
    Directory(String),
}

/// What to upgrade to, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeParameters {
    /// Name or id.
    pub container: String,
    /// Empty: the reference the container was made with.
    pub image: String,
    pub pull: bool,
    pub options: UpgradeOptions,
    /// The plan that is to be run; empty: one is made when the job starts.
    pub plan_id: String,
    /// Of the snapshot before.
    pub consistency: Consistency,
}

impl UpgradeParameters {
    /// What a job makes of a request. Quiesced by pausing unless something else is
    /// asked for.
    pub fn of(request: &UpgradeRequest, plan_id: &str, consistency: Option<Consistency>) -> Self {
        let UpgradeRequest { container, image, pull, options } = request.clone();
        Self {
            container,
            image,
            pull,
            options,
            plan_id: plan_id.to_owned(),
            consistency: consistency.unwrap_or(Consistency::Pause),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackParameters {
    /// Job id of the upgrade that is undone.
    pub upgrade: String,
    /// Name, for people.
    pub container: String,
    pub without_snapshot: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutParameters {
    /// In order; resolved once, when the rollout was started.
    pub targets: Vec<RolloutPlace>,
    /// For each of them; the container is left out.
    pub upgrade: UpgradeParameters,
    /// Containers at once, from 1.
    pub batch: u32,
    pub max_failures: u32,
    pub pause_seconds: u32,
    pub undo: bool,
    /// A sentence for each host that could not be asked for its containers:
    /// what runs there is as it was.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// A container of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPlace {
    pub host: HostId,
    pub container: String,
}

impl Parameters {
    /// The container the job is about; empty where it is about none or many.
    pub fn container(&self) -> &str {
        match self {
            Self::Upgrade(upgrade) => &upgrade.container,
            Self::Rollback(rollback) => &rollback.container,
            Self::Backup(_) | Self::Restore(_) | Self::Prune {} | Self::Rollout(_) => "",
        }
    }

    pub fn kind(&self) -> JobKind {
        match self {
            Self::Backup(_) => JobKind::Backup,
            Self::Restore(_) => JobKind::Restore,
            Self::Prune {} => JobKind::Prune,
            Self::Upgrade(_) => JobKind::Upgrade,
            Self::Rollback(_) => JobKind::Rollback,
            Self::Rollout(_) => JobKind::Rollout,
        }
    }
}

impl RestoreParameters {
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        self.snapshot.parse().ok()
    }
}

impl BackupParameters {
    pub fn of_policy(policy: &Policy) -> Self {
        Self {
            volumes: policy.volumes.include.texts(),
            exclude: policy.volumes.exclude.texts(),
            volume_labels: policy.volumes.labels.iter().map(LabelMatch::to_string).collect(),
            directories: policy.directories.clone(),
            consistency: policy.consistency,
            torn: policy.torn,
            nested_mounts: policy.nested_mounts,
            max_downtime_seconds: seconds(policy.max_downtime),
            allow_empty: false,
        }
    }

    /// Exactly these sources; what is special in a glob is not in a name.
    pub fn of_sources(sources: &[UpgradeSource], consistency: Consistency, allow_empty: bool) -> Self {
        let named = |kind| sources.iter().filter(move |source| source.kind == Some(kind));
        Self {
            volumes: named(SourceKind::Volume).map(|source| globset::escape(&source.name)).collect(),
            directories: named(SourceKind::Directory).map(|source| source.name.clone()).collect(),
            consistency,
            torn: TornPolicy::Accept,
            allow_empty,
            ..Self::default()
        }
    }

    /// A pattern that does not parse matches nothing: they were all checked
    /// when the policy or request came in.
    pub fn selector(&self) -> VolumeSelector {
        VolumeSelector {
            include: Patterns::parse(&self.volumes).unwrap_or_default(),
            exclude: Patterns::parse(&self.exclude).unwrap_or_default(),
            labels: self.volume_labels.iter().filter_map(|text| LabelMatch::parse(text)).collect(),
        }
    }

    /// Whether both select the same volumes of a host.
    pub fn selects_like(&self, other: &Self) -> bool {
        let selection =
            |backup: &Self| (backup.volumes.clone(), backup.exclude.clone(), backup.volume_labels.clone());
        selection(self) == selection(other)
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::upgrade::Probe;

    #[test]
    fn an_upgrade_pauses_unless_something_else_is_asked_for() {
        let of = |consistency| UpgradeParameters::of(&UpgradeRequest::default(), "", consistency).consistency;
        assert_eq!((of(None), of(Some(Consistency::Stop))), (Consistency::Pause, Consistency::Stop));
    }

    #[test]
    fn sources_by_name_match_themselves_alone() {
        let source = |kind: SourceKind, name: &str| UpgradeSource {
            kind: Some(kind),
            name: name.into(),
            ..UpgradeSource::default()
        };
        let sources = [source(SourceKind::Volume, "a[b]*"), source(SourceKind::Directory, "/srv/a*")];
        let backup = BackupParameters::of_sources(&sources, Consistency::None, true);
        assert_eq!(backup.directories, ["/srv/a*"]);
        let selector = backup.selector();
        assert!(selector.include.matches("a[b]*"));
        assert!(!selector.include.matches("ab") && !selector.include.matches("a[b]x"));
    }

    /// Parameters of every kind, as rows of the first version have them.
    const GOLDEN: &str = include_str!("golden/parameters-1.json");

    fn upgrade() -> UpgradeParameters {
        UpgradeParameters {
            container: "db".into(),
            image: "postgres:16.4".into(),
            pull: true,
            options: UpgradeOptions {
                steady_seconds: 7,
                probe: Some(Probe::Http { port: 8080, path: "/health".into() }),
                allow_loss: vec!["tmpfs:/run".into()],
                ..UpgradeOptions::default()
            },
            plan_id: "p".into(),
            consistency: Consistency::Stop,
        }
    }

    fn of_every_kind() -> Vec<Parameters> {
        let host = "01JCZ5Y3T8RZ0QK3T2M4V6W8XA".parse().expect("an id");
        vec![
            Parameters::Backup(BackupParameters {
                volumes: vec!["*".into()],
                exclude: vec!["cache-*".into()],
                volume_labels: vec!["backup=yes".into()],
                directories: vec!["/srv/uploads".into()],
                max_downtime_seconds: 300,
                allow_empty: true,
                ..BackupParameters::default()
            }),
            Parameters::Backup(BackupParameters {
                consistency: Consistency::Pause,
                torn: TornPolicy::Fail,
                nested_mounts: NestedMounts::LeaveOut,
                ..BackupParameters::default()
            }),
            Parameters::Restore(RestoreParameters {
                snapshot: "x".into(),
                target: RestoreTarget::Directory("/srv".into()),
                devices: true,
                setuid: false,
                strict: true,
                salvage: true,
                paths: vec![b"a\xff".to_vec()],
            }),
            Parameters::Prune {},
            Parameters::Upgrade(upgrade()),
            Parameters::Rollback(RollbackParameters {
                upgrade: "u".into(),
                container: "db".into(),
                without_snapshot: true,
            }),
            Parameters::Rollout(RolloutParameters {
                targets: vec![RolloutPlace { host, container: "web".into() }],
                upgrade: UpgradeParameters {
                    options: UpgradeOptions {
                        probe: Some(Probe::Command(vec!["pg_isready".into()])),
                        ..UpgradeOptions::default()
                    },
                    ..upgrade()
                },
                batch: 2,
                max_failures: 1,
                pause_seconds: 300,
                undo: true,
                left_out: vec!["host `b` is not connected".into()],
            }),
        ]
    }

    /// A controller that is upgraded reads the rows of the one before. Who
    /// changes what is written adds a file, and goes on to read this one.
    #[test]
    fn rows_are_read_and_written_as_they_ever_were() {
        let rows: Vec<serde_json::Value> = serde_json::from_str(GOLDEN).expect("JSON");
        let read: Vec<Parameters> =
            rows.iter().map(|row| serde_json::from_value(row.clone()).expect("reads")).collect();
        assert_eq!(read, of_every_kind());
        let written = serde_json::to_value(of_every_kind()).expect("JSON");
        assert_eq!(written, serde_json::Value::Array(rows));
    }
}
