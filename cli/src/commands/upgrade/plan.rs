//! What an upgrade would do, as the commands of `upgrade` show it; `words` says it
//! to people.

mod words;

use std::collections::BTreeMap;

use holdfast_proto::v1::{PlanFleetUpgradeResponse, UpgradeChange, UpgradeLoss, UpgradePlan, UpgradeSource};
use serde::Serialize;

use super::super::source::kind_word;
use crate::error::Exit;
use crate::output::{Bytes, When};

#[derive(Serialize)]
pub(super) struct PlanView {
    /// Empty for a plan that is not kept.
    plan_id: String,
    valid_until: When,
    /// Empty at the host's own socket.
    host: String,
    fingerprint: String,
    container: String,
    container_id: String,
    container_labels: BTreeMap<String, String>,
    running: bool,
    from_image: String,
    from_image_id: String,
    to_image: String,
    to_image_id: String,
    to_digest: String,
    runnable: bool,
    refusals: Vec<String>,
    warnings: Vec<String>,
    stays: Vec<String>,
    changes: Vec<ChangeView>,
    stops: Vec<String>,
    expected_downtime_seconds: u32,
    losses: Vec<LossView>,
    sources: Vec<SourceView>,
    health: String,
    /// What the container may do beyond itself.
    powers: Vec<String>,
    #[serde(skip)]
    next: Next,
}

/// Which command comes after the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its own plan id.
    RunPlan,
    /// The same, at a controller.
    AskController,
    /// It is under way.
    Nothing,
}

#[derive(Serialize)]
struct ChangeView {
    what: String,
    from: String,
    to: String,
}

#[derive(Serialize)]
struct LossView {
    name: String,
    text: String,
    allowed: bool,
}

/// Writable data that is snapshotted and cloned.
#[derive(Serialize)]
pub(super) struct SourceView {
    kind: &'static str,
    name: String,
    target: String,
    size_bytes: Bytes,
    clone: String,
    free_bytes: Bytes,
}

// === conversions ===

impl From<UpgradeChange> for ChangeView {
    fn from(change: UpgradeChange) -> Self {
        let UpgradeChange { what, from, to } = change;
        Self { what, from, to }
    }
}

impl From<UpgradeLoss> for LossView {
    fn from(loss: UpgradeLoss) -> Self {
        let UpgradeLoss { name, text, allowed } = loss;
        Self { name, text, allowed }
    }
}

impl From<UpgradeSource> for SourceView {
    fn from(source: UpgradeSource) -> Self {
        let kind = kind_word(source.kind());
        let UpgradeSource { kind: _, name, target, size_bytes, clone, free_bytes } = source;
        Self { kind, name, target, size_bytes: Bytes(size_bytes), clone, free_bytes: Bytes(free_bytes) }
    }
}

impl From<PlanFleetUpgradeResponse> for PlanView {
    fn from(answer: PlanFleetUpgradeResponse) -> Self {
        let PlanFleetUpgradeResponse { plan_id, host, plan, valid_until_unix_ms } = answer;
        let valid_until = When(valid_until_unix_ms);
        Self { plan_id, valid_until, ..Self::new(host, plan.unwrap_or_default(), Next::RunPlan) }
    }
}

impl PlanView {
    pub(super) fn at_socket(plan: UpgradePlan) -> Self {
        Self::new(String::new(), plan, Next::AskController)
    }

    /// Of an upgrade that runs already.
    pub(super) fn started(host: String, plan: UpgradePlan) -> Self {
        Self::new(host, plan, Next::Nothing)
    }

    fn new(host: String, plan: UpgradePlan, next: Next) -> Self {
        // Every field is named, so that a new one is shown or left out on purpose.
        let UpgradePlan {
            fingerprint,
            container_id,
            container_name,
            running,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            to_digest,
            stays,
            changes,
            stops,
            expected_downtime_seconds,
            losses,
            sources,
            refusals,
            warnings,
            health,
            runnable,
            container_labels,
            powers,
        } = plan;
        Self {
            plan_id: String::new(),
            valid_until: When(0),
            host,
            fingerprint,
            container: container_name,
            container_id,
            container_labels: container_labels.into_iter().collect(),
            running,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            to_digest,
            runnable,
            refusals,
            warnings,
            stays,
            changes: changes.into_iter().map(ChangeView::from).collect(),
            stops,
            expected_downtime_seconds,
            losses: losses.into_iter().map(LossView::from).collect(),
            sources: sources.into_iter().map(SourceView::from).collect(),
            health,
            powers,
            next,
        }
    }

    /// A plan that cannot be run as it is needs the reader.
    pub(super) fn exit(&self) -> Exit {
        if self.runnable { Exit::Done } else { Exit::Attention }
    }
}
