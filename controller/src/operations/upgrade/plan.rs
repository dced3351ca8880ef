//! The plan of an upgrade: asked for on the host, judged, and held against the
//! one that was shown before.

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use tonic::Code;

use crate::catalog::Catalog;
use crate::catalog::upgrades::PlanRecord;
use crate::clock::now_ms;
use crate::fleet::answer::plain;
use crate::fleet::calls;
use crate::model::job::parameters::UpgradeParameters;
use crate::model::upgrade::{UpgradePlan, UpgradeRequest};
use crate::operations::host::connected;
use crate::operations::{Failure, JobRun};

/// A plan can be run for a day.
pub(crate) const VALID_MS: i64 = 24 * 3_600_000;

/// Times a host is asked for a plan before that is the job's failure.
const MAX_ASKED: u32 = 3;

/// Why a plan is not run: an error code, a sentence, the next command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    pub hint: String,
}

/// What forbids the plan, if anything does.
pub(crate) fn refusal(plan: &UpgradePlan) -> Option<Refusal> {
    let name = &plan.container_name;
    if !plan.refusals.is_empty() {
        let message = format!("container `{name}` cannot be upgraded: {}", plan.refusals.join("; "));
        return Some(Refusal { code: ErrorCode::UpgradeRefused, message, hint: String::new() });
    }
    let lost: Vec<_> = plan.losses.iter().filter(|loss| !loss.allowed).collect();
    if !lost.is_empty() {
        let texts: Vec<String> = lost.iter().map(|loss| format!("{}: {}", loss.name, loss.text)).collect();
        let message = format!("upgrading `{name}` would lose data: {}", texts.join("; "));
        let allow: Vec<String> = lost.iter().map(|loss| format!("--allow-loss {}", loss.name)).collect();
        let hint = format!("save it first, or allow it by name: {}", allow.join(" "));
        return Some(Refusal { code: ErrorCode::UpgradeLosesData, message, hint });
    }
    (!plan.runnable).then(|| Refusal {
        code: ErrorCode::UpgradeRefused,
        message: format!("the host says that container `{name}` cannot be upgraded, and not why"),
        hint: "the agent's log has the cause".to_owned(),
    })
}

/// That the world is not as the plan shown has it; what of it, as far as the
/// two plans tell. `None`: the plan holds.
pub(crate) fn changed(shown: &UpgradePlan, now: &UpgradePlan) -> Option<Refusal> {
    if shown.fingerprint == now.fingerprint {
        return None;
    }
    let differences = differences(shown, now);
    let what = if differences.is_empty() {
        "nothing that the plan shows, but something it depends on".to_owned()
    } else {
        differences.join("; ")
    };
    Some(Refusal {
        code: ErrorCode::PlanChanged,
        message: format!("the world has changed since the plan: {what}"),
        hint: format!("holdfast upgrade plan {}", now.container_name),
    })
}

fn differences(shown: &UpgradePlan, now: &UpgradePlan) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: &str, was: String, is: String| {
        if was != is {
            let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
            found.push(format!("{what} was {}, is {}", none(was), none(is)));
        }
    };
    let running = |plan: &UpgradePlan| if plan.running { "running" } else { "not running" }.to_owned();
    let names = |names: Vec<&str>| names.join(", ");
    differs("the container", shown.container_id.clone(), now.container_id.clone());
    differs("its name", shown.container_name.clone(), now.container_name.clone());
    differs("it", running(shown), running(now));
    differs("the image it runs", shown.from_image_id.clone(), now.from_image_id.clone());
    differs("the new image", shown.to_image.clone(), now.to_image.clone());
    differs("the new image's id", shown.to_image_id.clone(), now.to_image_id.clone());
    let sources =
        |plan: &UpgradePlan| names(plan.sources.iter().map(|source| source.name.as_str()).collect());
    differs("its data", sources(shown), sources(now));
    differs("what stops", shown.stops.join(", "), now.stops.join(", "));
    let losses = |plan: &UpgradePlan| names(plan.losses.iter().map(|loss| loss.name.as_str()).collect());
    differs("what is lost", losses(shown), losses(now));
    let changes =
        |plan: &UpgradePlan| names(plan.changes.iter().map(|change| change.what.as_str()).collect());
    differs("what the new image changes", changes(shown), changes(now));
    differs("what forbids it", shown.refusals.join("; "), now.refusals.join("; "));
    found
}

/// The plan this job runs: as it was written down, or made now.
pub(super) async fn of_job(
    run: &JobRun,
    host: HostId,
    upgrade: &UpgradeParameters,
) -> Result<UpgradePlan, Failure> {
    let (catalog, id) = (run.jobs.catalog(), run.job.id.to_string());
    if let Some(kept) = catalog.upgrade_plan(&id).await? {
        return Ok(kept.plan);
    }
    run.cancelled()?;
    let shown = shown_plan(catalog, &upgrade.plan_id).await?;
    run.step("asking the host what the upgrade would do").await?;
    let request = UpgradeRequest {
        container: upgrade.container.clone(),
        image: upgrade.image.clone(),
        // What was shown was fetched then; a newer one is another plan.
        pull: upgrade.pull && shown.is_none(),
        options: upgrade.options.clone(),
    };
    let plan = ask_patiently(run, host, &request).await?;
    let refused = shown.and_then(|shown| changed(&shown, &plan)).or_else(|| refusal(&plan));
    if let Some(refused) = refused {
        return Err(before_any_change(refused));
    }
    // Before the snapshot: what is snapshotted and what is run are of the same plan.
    let record = PlanRecord { id, host, request, plan, created_ms: now_ms(), actor: run.job.actor.clone() };
    catalog.put_upgrade_plan(&record).await?;
    Ok(record.plan)
}

/// The plan that somebody saw and agreed to; `None`: nobody was shown one.
async fn shown_plan(catalog: &Catalog, id: &str) -> Result<Option<UpgradePlan>, Failure> {
    if id.is_empty() {
        return Ok(None);
    }
    // Not one made now in its place: that is not what was agreed to.
    match catalog.upgrade_plan(id).await? {
        Some(kept) => Ok(Some(kept.plan)),
        None => Err(Failure::failed(ErrorCode::PlanUnknown, format!("plan {id} is not kept any more"))),
    }
}

fn before_any_change(Refusal { code, message, hint }: Refusal) -> Failure {
    let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
    Failure::failed(code, format!("nothing was changed: {message}{hint}"))
}

async fn ask_patiently(run: &JobRun, host: HostId, request: &UpgradeRequest) -> Result<UpgradePlan, Failure> {
    let settings = run.jobs.settings();
    let mut failed_attempts = 0;
    loop {
        let channel = connected(run, host, settings.host_gone).await?;
        let asked = tokio::select! {
            () = run.cancel.cancelled() => return Err(Failure::Cancelled),
            asked = calls::plan_upgrade(channel, request.clone(), settings.fetch) => asked,
        };
        let status = match asked {
            Ok(plan) => return Ok(plan),
            Err(status) => status,
        };
        failed_attempts += 1;
        let passing = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        if !passing || failed_attempts >= MAX_ASKED {
            let message = format!("the host made no plan: {}", plain(&status));
            return Err(Failure::answered(&status, ErrorCode::AgentRefused, message));
        }
        tokio::select! {
            () = run.cancel.cancelled() => return Err(Failure::Cancelled),
            () = tokio::time::sleep(settings.retry_pause(failed_attempts)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::upgrade::UpgradeLoss;

    fn plan() -> UpgradePlan {
        UpgradePlan {
            fingerprint: "1".into(),
            container_id: "aa".into(),
            container_name: "db".into(),
            running: true,
            from_image_id: "sha256:1".into(),
            to_image_id: "sha256:2".into(),
            runnable: true,
            ..UpgradePlan::default()
        }
    }

    #[test]
    fn a_plan_is_refused_with_every_reason_and_the_way_around_it() {
        assert_eq!(refusal(&plan()), None);
        let forbidden = UpgradePlan {
            refusals: vec!["it is a swarm task".into(), "there is no space".into()],
            runnable: false,
            ..plan()
        };
        let refused = refusal(&forbidden).expect("refused");
        assert_eq!(
            refused.message,
            "container `db` cannot be upgraded: it is a swarm task; there is no space"
        );
        let loss = |name: &str, allowed| UpgradeLoss { name: name.into(), text: "3 files".into(), allowed };
        let losing = UpgradePlan {
            losses: vec![loss("tmpfs:/run", true), loss("writable-layer", false)],
            runnable: false,
            ..plan()
        };
        let refused = refusal(&losing).expect("refused");
        assert_eq!(refused.message, "upgrading `db` would lose data: writable-layer: 3 files");
        assert!(refused.hint.ends_with("--allow-loss writable-layer"), "{}", refused.hint);
        assert!(refusal(&UpgradePlan { runnable: false, ..plan() }).is_some());
    }

    #[test]
    fn a_changed_world_is_named() {
        assert_eq!(changed(&plan(), &plan()), None);
        let now =
            UpgradePlan { fingerprint: "2".into(), to_image_id: "sha256:3".into(), running: false, ..plan() };
        assert_eq!(
            changed(&plan(), &now).expect("changed").message,
            "the world has changed since the plan: it was running, is not running; \
             the new image's id was sha256:2, is sha256:3"
        );
        let unseen = UpgradePlan { fingerprint: "3".into(), ..plan() };
        assert!(changed(&plan(), &unseen).expect("changed").message.ends_with("something it depends on"));
    }
}
