//! Removing volumes nobody uses.
//!
//! The Engine's own prune is never called: on API 1.41 it takes named volumes
//! too, later only anonymous ones, and neither says beforehand what will go.
//! Here the candidates are chosen first and shown; then exactly those named are
//! removed, one by one, each looked at again before it goes. What was taken
//! into use meanwhile is kept and reported, and the Engine itself refuses a
//! volume that a container took in the last moment.

use std::collections::{BTreeMap, HashSet};

use crate::engine::{Engine, EngineError, EngineErrorKind, MountKind, Volume, VolumeName};
use crate::own::OwnPlaces;

/// Which volumes a prune is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct PruneRequest {
    pub labels: Vec<LabelFilter>,
    /// Named volumes as well as anonymous ones.
    pub include_named: bool,
    /// Only these; empty: all that fit.
    pub names: Vec<String>,
}

/// "key", or "key=value".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelFilter {
    key: String,
    value: Option<String>,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub volumes: Vec<Volume>,
    pub kept: Vec<Kept>,
}

/// A volume that was named and stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub name: String,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("no volume is named: list them with a dry run first, then name the ones to remove")]
    NothingNamed,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl LabelFilter {
    /// Reads "key" or "key=value".
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Self { key: text.to_owned(), value: None },
        }
    }

    /// Whether it is among these labels.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|found| self.value.as_ref().is_none_or(|wanted| wanted == found))
    }
}

/// Decides what would go: unused, of the kind and with the labels asked for.
/// Says of every volume that was named and stays why.
pub(crate) fn plan_prune(
    volumes: Vec<Volume>,
    used: &HashSet<String>,
    own: &OwnPlaces,
    request: &PruneRequest,
) -> Pruned {
    let mut plan = Pruned::default();
    for name in &request.names {
        if !volumes.iter().any(|volume| volume.name == *name) {
            plan.kept.push(Kept { name: name.clone(), reason: "there is no such volume".to_owned() });
        }
    }
    for volume in volumes {
        let named = request.names.contains(&volume.name);
        if !named && !request.names.is_empty() {
            continue;
        }
        match reason_to_keep(&volume, used, own, request) {
            None => plan.volumes.push(volume),
            Some(reason) if named => plan.kept.push(Kept { name: volume.name, reason }),
            Some(_) => {}
        }
    }
    plan
}

fn reason_to_keep(
    volume: &Volume,
    used: &HashSet<String>,
    own: &OwnPlaces,
    request: &PruneRequest,
) -> Option<String> {
    if used.contains(&volume.name) {
        return Some("a container uses it".to_owned());
    }
    if let Some(what) = own.volume(volume) {
        return Some(format!("it is Holdfast's own, {what}"));
    }
    if !request.include_named && !volume.is_anonymous() {
        return Some("it has a name, and only anonymous volumes were asked for".to_owned());
    }
    if let Some(label) = request.labels.iter().find(|label| !label.matches(&volume.labels)) {
        return Some(format!("it does not carry the label `{}`", label.key));
    }
    volume.name.parse::<VolumeName>().err().map(|error| error.to_string())
}

/// What a prune would remove now.
///
/// # Errors
/// When the Engine cannot be asked.
pub(crate) async fn look(
    engine: &Engine,
    own: &OwnPlaces,
    request: &PruneRequest,
) -> Result<Pruned, PruneError> {
    let volumes = engine.list_volumes().await?;
    Ok(plan_prune(volumes, &used_volumes(engine).await?, own, request))
}

/// Removes exactly the volumes named that still may go.
///
/// # Errors
/// `NothingNamed` without names. A volume that cannot be removed is no error:
/// it is kept and reported. An Engine that cannot be reached is one.
pub(crate) async fn apply_prune(
    engine: &Engine,
    own: &OwnPlaces,
    request: &PruneRequest,
) -> Result<Pruned, PruneError> {
    if request.names.is_empty() {
        return Err(PruneError::NothingNamed);
    }
    // Looked at again: what was shown may be minutes old. A container that takes one
    // between this look and its removal is met by the Engine, which refuses.
    let Pruned { volumes, mut kept } = look(engine, own, request).await?;
    let mut removed = Vec::new();
    for volume in volumes {
        let Ok(name) = volume.name.parse::<VolumeName>() else { continue };
        match engine.remove_volume(&name).await {
            Ok(()) => removed.push(volume),
            // All others would fail the same way, and be listed as if they were in use.
            Err(error) if error.kind() == EngineErrorKind::Unreachable => return Err(error.into()),
            Err(error) => kept.push(Kept { name: volume.name, reason: error.to_string() }),
        }
    }
    for volume in &removed {
        tracing::info!(volume.name = volume.name, volume.anonymous = volume.is_anonymous(), "volume pruned");
    }
    Ok(Pruned { volumes: removed, kept })
}

/// Names of the volumes any container mounts, holders included.
///
/// # Errors
/// When the Engine cannot list its containers.
pub(crate) async fn used_volumes(engine: &Engine) -> Result<HashSet<String>, EngineError> {
    let containers = engine.list_containers().await?;
    let mounts = containers.into_iter().flat_map(|container| container.mounts);
    Ok(mounts.filter(|mount| mount.kind == MountKind::Volume).map(|mount| mount.source).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::NewVolume;
    use crate::engine::testing::Scene;

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: "/x".into(),
            labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            options: BTreeMap::new(),
            scope: "local".to_owned(),
            created_at: String::new(),
        }
    }

    fn names(pruned: &Pruned) -> Vec<&str> {
        pruned.volumes.iter().map(|volume| volume.name.as_str()).collect()
    }

    #[test]
    fn named_and_used_volumes_stay_unless_asked_for() {
        let random = "ab".repeat(32);
        let volumes = vec![volume(&random, &[]), volume("data", &[("tier", "gold")]), volume("busy", &[])];
        let used = HashSet::from(["busy".to_owned()]);
        let mut request = PruneRequest::default();
        assert_eq!(
            names(&plan_prune(volumes.clone(), &used, &OwnPlaces::default(), &request)),
            [random.as_str()]
        );
        request.include_named = true;
        assert_eq!(
            names(&plan_prune(volumes.clone(), &used, &OwnPlaces::default(), &request)),
            [random.as_str(), "data"]
        );
        request.labels = vec![LabelFilter::parse("tier=gold")];
        assert_eq!(names(&plan_prune(volumes.clone(), &used, &OwnPlaces::default(), &request)), ["data"]);
        request.labels = vec![LabelFilter::parse("tier=silver")];
        assert!(plan_prune(volumes, &used, &OwnPlaces::default(), &request).volumes.is_empty());
        // A controller that is down at the moment still has its state.
        let own = vec![volume("state", &[("org.holdfast.role", "controller")])];
        let request = PruneRequest { include_named: true, ..PruneRequest::default() };
        assert!(plan_prune(own.clone(), &HashSet::new(), &OwnPlaces::default(), &request).volumes.is_empty());
        let request = PruneRequest { names: vec!["state".to_owned()], ..request };
        let kept = plan_prune(own, &HashSet::new(), &OwnPlaces::default(), &request).kept;
        assert!(kept[0].reason.contains("Holdfast's own"), "{}", kept[0].reason);
    }

    #[test]
    fn whatever_was_named_and_stays_is_reported_with_the_reason() {
        let volumes = vec![volume("data", &[]), volume("busy", &[]), volume("other", &[])];
        let request = PruneRequest {
            names: vec!["gone".to_owned(), "data".to_owned(), "busy".to_owned()],
            ..PruneRequest::default()
        };
        let plan = plan_prune(volumes, &HashSet::from(["busy".to_owned()]), &OwnPlaces::default(), &request);
        assert!(plan.volumes.is_empty());
        let kept: Vec<_> = plan.kept.iter().map(|kept| kept.name.as_str()).collect();
        assert_eq!(kept, ["gone", "data", "busy"]);
        assert!(plan.kept[1].reason.contains("anonymous"), "{:?}", plan.kept[1]);
    }

    #[tokio::test]
    async fn only_what_was_shown_and_is_still_unused_goes() {
        let Some(scene) = Scene::open().await else { return };
        let engine = &scene.engine;
        for suffix in ["a", "b", "c"] {
            let wanted = NewVolume {
                name: scene.volume_name(suffix),
                driver: "local".to_owned(),
                options: BTreeMap::new(),
                labels: BTreeMap::from([(scene.label(), "1".to_owned())]),
            };
            engine.create_volume(&wanted).await.unwrap();
        }
        let mut request = PruneRequest {
            labels: vec![LabelFilter::parse(&scene.label())],
            include_named: true,
            names: Vec::new(),
        };
        assert!(matches!(
            apply_prune(engine, &OwnPlaces::default(), &request).await.unwrap_err(),
            PruneError::NothingNamed
        ));
        let shown = look(engine, &OwnPlaces::default(), &request).await.unwrap();
        assert_eq!(names(&shown), [scene.name("a"), scene.name("b"), scene.name("c")]);

        // One is taken into use after it was shown, one is not named.
        let at = format!("{}:/data", scene.name("b"));
        scene.run_sleeper("user", &["-v", &at]).await;
        request.names = vec![scene.name("a"), scene.name("b")];
        let pruned = apply_prune(engine, &OwnPlaces::default(), &request).await.unwrap();
        assert_eq!(names(&pruned), [scene.name("a")]);
        assert_eq!(pruned.kept, [Kept { name: scene.name("b"), reason: "a container uses it".to_owned() }]);
        assert!(engine.inspect_volume(&scene.volume_name("c")).await.is_ok());
    }
}
