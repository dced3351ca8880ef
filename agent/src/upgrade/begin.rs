//! The record of an upgrade before anything is done: who takes part, what each is
//! recreated from, and what it is called meanwhile.

use std::collections::HashMap;

use serde_json::Value;

use crate::clone;
use crate::spec::{Spec, Specs};

use super::RunRequest;
use super::error::BeginError;
use super::plan::Planned;
use super::plan::stops::recreated;
use super::record::{Member, NEW_INFIX, OLD_INFIX, Record, Recreation, Source};

/// What is known before anything is done.
pub(super) fn record(request: &RunRequest, planned: &Planned, recreations: &HashMap<String, Spec>) -> Record {
    let suffix = suffix(&request.job.to_string());
    let members = planned.stops.iter().map(|container| {
        // Dependents keep the image they run. Only the container that is upgraded gets another one.
        let spec = if container.id == planned.old.id {
            Some((planned.spec.clone(), planned.to_image.clone(), planned.to_image_id.clone()))
        } else {
            let spec = recreations.get(&container.id);
            spec.map(|spec| (spec.clone(), spec.image.clone(), spec.image_id.clone()))
        };
        Member {
            id: container.id.clone(),
            name: container.name.clone(),
            was_running: container.state.is_live(),
            restart_policy: Value::Null,
            touched: false,
            recreation: spec.map(|(spec, image, image_id)| Recreation {
                spec,
                image,
                image_id,
                temporary_name: format!("{}{NEW_INFIX}{suffix}", container.name),
                aside_name: format!("{}{OLD_INFIX}{suffix}", container.name),
                new_id: String::new(),
                own_volumes: Vec::new(),
                started: false,
                stand_in: None,
            }),
            former_ids: Vec::new(),
        }
    });
    let sources = planned.sources.iter().map(|source| Source {
        kind: source.kind(),
        name: source.name.to_string(),
        target: source.target.clone(),
        path: source.path.clone(),
        clone: clone::clone_path(&source.path, request.job),
        size_bytes: source.size_bytes,
        means: source.means,
        identities: None,
    });
    let mut record = Record::new(request.job, members.collect(), request.plan.options.clone());
    record.sources = sources.collect();
    record.from_image = planned.old.image.clone();
    record.from_image_id = planned.old.image_id.clone();
    record.to_image = planned.to_image.clone();
    record.to_image_id = planned.to_image_id.clone();
    record
}

/// The specs of dependents that name the old container, or another such
/// dependent, by its id: in a namespace mode, in volumes-from or in a link.
pub(super) async fn recreations(
    specs: &Specs,
    planned: &Planned,
) -> Result<HashMap<String, Spec>, BeginError> {
    let others = planned.stops.iter().filter(|stop| stop.id != planned.old.id).collect();
    let mut recreations = HashMap::new();
    for container in recreated(others, &planned.old) {
        let spec = specs.read(&container.id).await;
        let dependent = |source| BeginError::Dependent { container: container.name.clone(), source };
        let mut spec = spec.map_err(dependent)?;
        // Its tag may mean another image by now: it is not what is upgraded.
        let meant = specs.engine().inspect_image_json(&spec.image).await;
        if !meant.is_ok_and(|image| image["Id"].as_str() == Some(spec.image_id.as_str())) {
            spec.image.clone_from(&spec.image_id);
        }
        recreations.insert(container.id.clone(), spec);
    }
    Ok(recreations)
}

/// The last letters of an id are its random ones.
pub(super) fn suffix(job: &str) -> String {
    job[job.len().saturating_sub(6)..].to_lowercase()
}
