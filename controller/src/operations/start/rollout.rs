//! Starting a rollout: which containers, and whether each could be upgraded.

use futures_util::StreamExt as _;
use holdfast_proto::ErrorCode;
use tonic::transport::Channel;

use super::start_job;
use crate::catalog::hosts::HostRecord;
use crate::fleet::answer::plain;
use crate::fleet::calls;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::caller::Caller;
use crate::model::container::Container;
use crate::model::job::parameters::{Parameters, RolloutParameters, RolloutPlace, UpgradeParameters};
use crate::model::request::RolloutRequest;
use crate::model::upgrade::{RolloutTarget, UpgradePlan, UpgradeRequest};
use crate::operations::RequestError;
use crate::operations::upgrade::{plan, powers};
use crate::policy::LabelMatch;

/// Hosts asked, and plans made, at the same time.
const CONCURRENT: usize = 8;

/// In the names of containers that an upgrade keeps or makes beside the one
/// it is about; they bear the same labels.
const BESIDE: [&str; 2] = [".holdfast-old-", ".holdfast-new-"];

/// What was started, or would be.
#[derive(Debug, Clone)]
pub(crate) struct RolloutStart {
    /// `None`: it was only planned.
    pub job: Option<JobView>,
    pub targets: Vec<RolloutTarget>,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// A container that was found, and what can be done with it.
#[derive(Debug, Clone)]
struct Found {
    place: RolloutPlace,
    target: RolloutTarget,
    /// It runs the image already.
    done: bool,
    /// `None`: there is none.
    plan: Option<UpgradePlan>,
}

/// Starts a rollout, or says what it would do.
///
/// # Errors
/// No labels are given or one is none, nothing matches, an image is not the
/// caller's to choose, more containers cannot be upgraded than may fail, or the
/// catalogue fails.
pub(crate) async fn rollout(
    jobs: &Jobs,
    request: RolloutRequest,
    caller: &Caller,
) -> Result<RolloutStart, RequestError> {
    if !request.upgrade.container.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "a rollout chooses containers by their labels, not by name",
        ));
    }
    if request.selectors.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "no labels of containers are given: a rollout is never about all",
        ));
    }
    let (selectors, host_labels) = (labels(&request.selectors)?, labels(&request.host_labels)?);
    let mut warnings = Vec::new();
    let found = resolve(jobs, &selectors, &host_labels, &request.upgrade, &mut warnings).await?;
    if let Some((target, why)) = beyond(caller, &found) {
        return Err(RequestError::new(ErrorCode::RoleTooLow, format!("{}: {why}", text(target))));
    }
    // What was not asked is part of how the job ends; what needs nothing is not.
    let left_out = warnings.clone();
    for done in found.iter().filter(|found| found.done) {
        warnings.push(format!("{}: left out, it {}", text(&done.target), done.target.refusal));
    }
    let targets: Vec<RolloutTarget> = found.iter().map(|found| found.target.clone()).collect();
    if request.plan_only {
        return Ok(RolloutStart { job: None, targets, warnings });
    }
    let parameters = parameters(request, &found, left_out)?;
    let job = start_job(jobs, None, Parameters::Rollout(parameters), &caller.actor()).await?;
    Ok(RolloutStart { job: Some(job), targets, warnings })
}

/// What the job is to do, unless more is refused beforehand than may fail.
fn parameters(
    request: RolloutRequest,
    found: &[Found],
    left_out: Vec<String>,
) -> Result<RolloutParameters, RequestError> {
    let RolloutRequest { upgrade, consistency, batch, max_failures, pause_seconds, undo, .. } = request;
    let (due, refused) = sorted(found)?;
    if u32::try_from(refused.len()).unwrap_or(u32::MAX) > max_failures {
        let reasons: Vec<String> =
            refused.iter().map(|target| format!("{}: {}", text(target), target.refusal)).collect();
        let count = format!("{} of {} containers cannot be upgraded", refused.len(), due.len());
        let message = format!("{count}, and {max_failures} failures are allowed: {}", reasons.join("; "));
        return Err(RequestError::with_hint(
            ErrorCode::UpgradeRefused,
            message,
            "the same command with --plan shows each",
        ));
    }
    Ok(RolloutParameters {
        targets: due,
        // Fetched by now: all get the same image.
        upgrade: UpgradeParameters::of(&UpgradeRequest { pull: false, ..upgrade }, "", consistency),
        batch: batch.max(1),
        max_failures,
        pause_seconds,
        undo,
        left_out,
    })
}

fn labels(texts: &[String]) -> Result<Vec<LabelMatch>, RequestError> {
    let parse = |text: &String| {
        LabelMatch::parse(text).ok_or_else(|| {
            RequestError::new(ErrorCode::InvalidLabel, format!("`{text}` is no label: key or key=value is"))
        })
    };
    texts.iter().map(parse).collect()
}

fn text(target: &RolloutTarget) -> String {
    format!("{} on {}", target.container, target.host)
}

/// The first that would get an image which is not the caller's to give it.
fn beyond<'a>(caller: &Caller, found: &'a [Found]) -> Option<(&'a RolloutTarget, String)> {
    found.iter().find_map(|found| Some((&found.target, powers::beyond(caller, found.plan.as_ref()?)?)))
}

/// What is to be done, and of that what will be refused.
fn sorted(found: &[Found]) -> Result<(Vec<RolloutPlace>, Vec<&RolloutTarget>), RequestError> {
    let due: Vec<&Found> = found.iter().filter(|found| !found.done).collect();
    if due.is_empty() {
        let message = format!("all {} containers that match run this image already", found.len());
        // They were found: there is nothing to do.
        return Err(RequestError::new(ErrorCode::NotNow, message));
    }
    let refused = due.iter().map(|found| &found.target).filter(|target| !target.refusal.is_empty()).collect();
    Ok((due.iter().map(|found| found.place.clone()).collect(), refused))
}

/// The containers that match, by host and name.
async fn resolve(
    jobs: &Jobs,
    selectors: &[LabelMatch],
    host_labels: &[LabelMatch],
    upgrade: &UpgradeRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<Found>, RequestError> {
    let mut hosts = jobs.catalog().hosts().await?;
    hosts.retain(|host| {
        host.revoked_ms.is_none() && host_labels.iter().all(|label| label.matches(&host.labels))
    });
    if hosts.is_empty() {
        return Err(RequestError::with_hint(
            ErrorCode::NothingMatches,
            "no host bears these labels",
            "holdfast host ls",
        ));
    }
    // Every host is asked for its containers, several at a time; one that cannot be
    // asked is named and left out.
    let mut listed = Vec::new();
    for host in &hosts {
        let Some(channel) = jobs.fleet().channel(host.id) else {
            warnings.push(format!("host `{}` is not connected: its containers are left out", host.name));
            continue;
        };
        listed.push(async move {
            let texts: Vec<String> = selectors.iter().map(LabelMatch::to_string).collect();
            (host, channel.clone(), calls::list_containers(channel, &texts, jobs.settings().call).await)
        });
    }
    let mut answers: Vec<_> = futures_util::stream::iter(listed).buffer_unordered(CONCURRENT).collect().await;
    answers.sort_by(|(a, ..), (b, ..)| a.name.cmp(&b.name));
    // Then every container for its plan.
    let mut plans = Vec::new();
    for (host, channel, answer) in answers {
        let containers = match answer {
            Ok(containers) => containers,
            Err(status) => {
                let why = plain(&status);
                warnings.push(format!("host `{}`: its containers are left out: {why}", host.name));
                continue;
            }
        };
        for container in matching(containers, selectors) {
            plans.push(look_at(jobs, host, channel.clone(), container, upgrade));
        }
    }
    if plans.is_empty() {
        let texts: Vec<String> = selectors.iter().map(|label| format!("`{label}`")).collect();
        let mut message = format!("no container bears {}", texts.join(" and "));
        if !warnings.is_empty() {
            message.push_str(&format!(" ({})", warnings.join("; ")));
        }
        return Err(RequestError::with_hint(
            ErrorCode::NothingMatches,
            message,
            "holdfast container ls --host HOST",
        ));
    }
    // In order: the rollout goes by it.
    Ok(futures_util::stream::iter(plans).buffered(CONCURRENT).collect().await)
}

fn matching(containers: Vec<Container>, selectors: &[LabelMatch]) -> Vec<Container> {
    let mut matching: Vec<Container> = containers
        .into_iter()
        .filter(|container| !BESIDE.iter().any(|part| container.name.contains(part)))
        .filter(|container| selectors.iter().all(|label| label.matches(&container.labels)))
        .collect();
    matching.sort_by(|a, b| a.name.cmp(&b.name));
    matching
}

/// Asks for the plan of one container.
async fn look_at(
    jobs: &Jobs,
    host: &HostRecord,
    channel: Channel,
    container: Container,
    upgrade: &UpgradeRequest,
) -> Found {
    let request = UpgradeRequest { container: container.name.clone(), ..upgrade.clone() };
    let asked = calls::plan_upgrade(channel, request, jobs.settings().fetch).await;
    let (refusal, done) = match &asked {
        Ok(plan) if !plan.to_image_id.is_empty() && plan.to_image_id == plan.from_image_id => {
            ("runs this image already".to_owned(), true)
        }
        Ok(plan) => match plan::refusal(plan) {
            Some(refused) if refused.hint.is_empty() => (refused.message, false),
            Some(refused) => (format!("{} ({})", refused.message, refused.hint), false),
            None => (String::new(), false),
        },
        // A host that gives no plan is a target that is refused, and no end of the whole request.
        Err(status) => (plain(status).to_owned(), false),
    };
    Found {
        place: RolloutPlace { host: host.id, container: container.name.clone() },
        target: RolloutTarget {
            host: host.name.clone(),
            container: container.name,
            image: container.image,
            refusal,
        },
        done,
        plan: asked.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upgrade_keeps_beside_is_no_target() {
        let container = |name: &str| Container {
            name: name.into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Container::default()
        };
        let listed = vec![
            container("web-2"),
            container("web-1"),
            container("web-1.holdfast-old-abc123"),
            container("web-3.holdfast-new-abc123"),
            Container { name: "other".into(), ..Container::default() },
        ];
        let selectors = [LabelMatch::parse("app=web").expect("a label")];
        let names: Vec<String> = matching(listed, &selectors).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["web-1", "web-2"]);
    }
}
