//! What a job was asked to do, as its row keeps it.
//!
//! A backup keeps the selection, not the sources: they are looked up when it
//! starts, so that a volume made a minute before the fire is in it. The
//! selection is copied from the policy at fire time; editing the policy does
//! not change a job that waits.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_archive::ids::{HostId, SnapshotId};
use holdfast_proto::v1::{
    Consistency, JobKind, NestedMounts, PlanUpgradeRequest, SourceKind, TornPolicy, UpgradeOptions,
    UpgradeSource,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::policy::{LabelMatch, Patterns, Policy, VolumeSelector};

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
    /// Numbers of the wire's enumerations.
    pub consistency: i32,
    pub torn: i32,
    #[serde(default)]
    pub nested_mounts: i32,
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

/// What to upgrade to, and how. The wire's message of options is kept as it
/// is encoded: it is the agent's to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeParameters {
    /// Name or id.
    pub container: String,
    /// Empty: the reference the container was made with.
    pub image: String,
    pub pull: bool,
    /// Protobuf holdfast.v1.UpgradeOptions, hexadecimal.
    pub options: String,
    /// The plan that is to be run; empty: one is made when the job starts.
    pub plan_id: String,
    /// Of the snapshot before; a number of the wire's enumeration.
    pub consistency: i32,
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

impl UpgradeParameters {
    pub fn new(request: &PlanUpgradeRequest, plan_id: &str, consistency: Consistency) -> Self {
        let PlanUpgradeRequest { container, image, pull, options } = request;
        let options = options.clone().unwrap_or_default().encode_to_vec();
        Self {
            container: container.clone(),
            image: image.clone(),
            pull: *pull,
            options: options.iter().map(|byte| format!("{byte:02x}")).collect(),
            plan_id: plan_id.to_owned(),
            consistency: consistency.into(),
        }
    }

    /// `None`: it was not written by this.
    pub fn options(&self) -> Option<UpgradeOptions> {
        let digits = self.options.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> =
            digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
        UpgradeOptions::decode(bytes?.as_slice()).ok()
    }

    pub fn consistency(&self) -> Consistency {
        match Consistency::try_from(self.consistency) {
            Ok(Consistency::Unspecified) | Err(_) => Consistency::Pause,
            Ok(given) => given,
        }
    }
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
            consistency: policy.consistency.into(),
            torn: policy.torn.into(),
            nested_mounts: policy.nested_mounts.into(),
            max_downtime_seconds: seconds(policy.max_downtime),
            allow_empty: false,
        }
    }

    /// Exactly these sources; what is special in a glob is not in a name.
    pub fn of_sources(sources: &[UpgradeSource], consistency: Consistency, allow_empty: bool) -> Self {
        let named = |kind| sources.iter().filter(move |source| source.kind() == kind);
        Self {
            volumes: named(SourceKind::Volume).map(|source| globset::escape(&source.name)).collect(),
            directories: named(SourceKind::Directory).map(|source| source.name.clone()).collect(),
            consistency: consistency.into(),
            torn: TornPolicy::Accept.into(),
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

    pub fn consistency(&self) -> Consistency {
        Consistency::try_from(self.consistency).unwrap_or(Consistency::None)
    }

    pub fn nested_mounts(&self) -> NestedMounts {
        NestedMounts::try_from(self.nested_mounts).unwrap_or(NestedMounts::Partial)
    }

    pub fn torn(&self) -> TornPolicy {
        TornPolicy::try_from(self.torn).unwrap_or(TornPolicy::Accept)
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PlanUpgradeRequest {
        PlanUpgradeRequest {
            container: "db".into(),
            image: "postgres:16.4".into(),
            pull: true,
            options: Some(UpgradeOptions {
                steady_seconds: 7,
                allow_loss: vec!["tmpfs:/run".into()],
                ..UpgradeOptions::default()
            }),
        }
    }

    #[test]
    fn options_come_back_as_they_were_given() {
        let upgrade = UpgradeParameters::new(&request(), "", Consistency::Unspecified);
        assert_eq!(upgrade.options(), request().options);
        assert_eq!(upgrade.consistency(), Consistency::Pause);
        assert_eq!(UpgradeParameters::default().options(), Some(UpgradeOptions::default()));
        let broken = UpgradeParameters { options: "0".into(), ..UpgradeParameters::default() };
        assert_eq!(broken.options(), None);
    }

    #[test]
    fn sources_by_name_match_themselves_alone() {
        let source = |kind: SourceKind, name: &str| UpgradeSource {
            kind: kind.into(),
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

    #[test]
    fn parameters_survive_their_row() {
        let policy =
            crate::policy::parse(include_str!("../../../../deploy/examples/policy.toml")).expect("right");
        for parameters in [
            Parameters::Backup(BackupParameters::of_policy(&policy)),
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
            Parameters::Upgrade(UpgradeParameters::new(&request(), "p", Consistency::Stop)),
            Parameters::Rollback(RollbackParameters {
                upgrade: "u".into(),
                container: "db".into(),
                without_snapshot: true,
            }),
            Parameters::Rollout(RolloutParameters {
                targets: vec![RolloutPlace { host: HostId::generate(), container: "web".into() }],
                upgrade: UpgradeParameters::new(&request(), "", Consistency::Unspecified),
                batch: 2,
                max_failures: 1,
                pause_seconds: 300,
                undo: true,
                left_out: vec!["host `b` is not connected".into()],
            }),
        ] {
            let text = serde_json::to_string(&parameters).expect("JSON");
            assert_eq!(serde_json::from_str::<Parameters>(&text).expect("reads"), parameters, "{text}");
        }
    }
}
