//! `PolicyService`: apply, list, delete, explain.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures_util::Stream;
use holdfast_proto::v1::policy_service_server::PolicyService;
use holdfast_proto::v1::{self};
use holdfast_proto::v1::{
    ApplyPoliciesRequest, ApplyPoliciesResponse, DeletePolicyRequest, DeletePolicyResponse,
    ExplainPolicyRequest, ExplainPolicyResponse, FireTime, HostMatch, ListPoliciesRequest, PolicyChange,
    PolicyProblem,
};
use tonic::{Request, Response, Status};

use super::status_map::catalog_failed;
use crate::catalog::CatalogError;
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::JobFilter;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::catalog::sources::SourceRecord;
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::loops::retention::{committed, plan_sources};
use crate::model::job::state::State;
use crate::operations::names;
use crate::policy::{self, LabelMatch, Policy};
use crate::schedule::jitter::jitter;

/// Fire times shown when a policy is applied or explained.
const FIRES_SHOWN: usize = 5;
const MAX_FIRES: usize = 100;

/// Answers for policies.
#[derive(Debug, Clone)]
pub struct PolicyApi {
    jobs: Jobs,
}

/// What is known around a policy.
struct Surroundings {
    now: DateTime<Utc>,
    hosts: Vec<HostRecord>,
    sources: Vec<SourceRecord>,
}

impl PolicyApi {
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    async fn surroundings(&self) -> Result<Surroundings, CatalogError> {
        let catalog = self.jobs.catalog();
        Ok(Surroundings {
            now: DateTime::from_timestamp_millis(now_ms()).unwrap_or_default(),
            hosts: catalog.hosts().await?,
            sources: catalog.sources(None).await?,
        })
    }

    async fn apply(&self, request: ApplyPoliciesRequest) -> Result<ApplyPoliciesResponse, CatalogError> {
        let ApplyPoliciesRequest { files, dry_run, allow_forgetting } = request;
        let parsed = match read_files(&files) {
            Ok(parsed) => parsed,
            Err(problems) => return Ok(ApplyPoliciesResponse { changes: Vec::new(), problems }),
        };
        let catalog = self.jobs.catalog();
        let around = self.surroundings().await?;
        let known: BTreeMap<String, PolicyRecord> =
            catalog.policies().await?.into_iter().map(|r| (r.policy.name.clone(), r)).collect();
        let snapshots = committed(catalog).await?;
        // All files are judged before one is written: a directory is applied whole or not at all.
        let (mut changes, mut problems, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for (path, policy) in parsed {
            let before = known.get(&policy.name);
            problems.extend(
                forgetting(&policy, before, &snapshots)
                    .filter(|_| !allow_forgetting)
                    .map(|message| PolicyProblem { path: path.clone(), line: 0, column: 0, message }),
            );
            changes.push(change(&policy, before, &around));
            if before.is_none_or(|before| !same(&before.policy, &policy)) {
                // Under another schedule the times before now were never promised: they are not
                // missed.
                let restart = before.is_none_or(|before| schedule_differs(&before.policy, &policy));
                writes.push((policy, restart));
            }
        }
        if !problems.is_empty() {
            return Ok(ApplyPoliciesResponse { changes: Vec::new(), problems });
        }
        if !dry_run && !writes.is_empty() {
            catalog.put_policies(&writes, now_ms()).await?;
            self.jobs.nudges().scheduler.notify_one();
            self.jobs.nudges().retention.notify_one();
            self.jobs.nudges().export.notify_one();
        }
        Ok(ApplyPoliciesResponse { changes, problems: Vec::new() })
    }

    async fn encode(&self, record: &PolicyRecord) -> Result<v1::Policy, CatalogError> {
        let catalog = self.jobs.catalog();
        let now = now_ms();
        let Policy {
            name,
            enabled,
            timing,
            hosts,
            volumes,
            directories,
            consistency,
            torn: _,
            nested_mounts: _,
            max_downtime: _,
            overlap: _,
            keep_last,
            toml,
        } = &record.policy;
        let next = timing.as_ref().filter(|_| *enabled).and_then(|timing| {
            timing.schedule.next_after(DateTime::from_timestamp_millis(now).unwrap_or_default())
        });
        let filter = JobFilter {
            policy: Some(name.clone()),
            states: State::ALL.into_iter().filter(|state| state.ended()).collect(),
            limit: 1,
            ..JobFilter::default()
        };
        let last = catalog.jobs(&filter).await?.into_iter().next();
        let labels = |labels: &[LabelMatch]| labels.iter().map(LabelMatch::to_string).collect();
        Ok(v1::Policy {
            name: name.clone(),
            enabled: *enabled,
            cron: timing.as_ref().map(|timing| timing.schedule.cron.to_string()).unwrap_or_default(),
            time_zone: timing
                .as_ref()
                .map(|timing| timing.schedule.zone.name().to_owned())
                .unwrap_or_default(),
            host_labels: labels(&hosts.labels),
            hosts: hosts.names.texts(),
            volumes: volumes.include.texts(),
            volume_labels: labels(&volumes.labels),
            consistency: consistency.as_str().to_owned(),
            keep_last: keep_last.unwrap_or(0),
            next_fire_unix_ms: next.map_or(0, |fire| fire.at.timestamp_millis()),
            last_fire_unix_ms: catalog.last_fire(name, now).await?.unwrap_or(0),
            last_outcome: last.map(|job| job.state.as_str().to_owned()).unwrap_or_default(),
            toml: toml.clone(),
            directories: directories.clone(),
        })
    }

    async fn explain(
        &self,
        record: &PolicyRecord,
        count: usize,
    ) -> Result<ExplainPolicyResponse, CatalogError> {
        let around = self.surroundings().await?;
        let policy = &record.policy;
        let matches = policy.matches(&around.hosts, &around.sources);
        let mut warnings = policy.match_warnings(&matches, &around.hosts);
        warnings.extend(general_warnings(policy));
        let fires = policy.timing.iter().flat_map(|timing| {
            timing.schedule.fires_after(around.now).take(count).map(|fire| FireTime {
                unix_ms: fire.at.timestamp_millis(),
                local: timing.schedule.local_text(fire.at),
                note: timing.schedule.note_text(&fire),
            })
        });
        let hosts = matches.iter().map(|found| HostMatch {
            host: found.host.name.clone(),
            sources: found.sources.clone(),
            own: found.own.iter().map(|source| source.name.clone()).collect(),
            connected: self.jobs.fleet().is_connected(found.host.id),
            jitter_seconds: policy.timing.as_ref().map_or(0, |timing| {
                u32::try_from(jitter(&policy.name, found.host.id, timing.jitter).as_secs())
                    .unwrap_or(u32::MAX)
            }),
        });
        Ok(ExplainPolicyResponse {
            policy: Some(self.encode(record).await?),
            fires: fires.collect(),
            matches: hosts.collect(),
            keeps: policy.keeps(),
            warnings,
        })
    }
}

fn read_files(files: &[v1::PolicyFile]) -> Result<Vec<(String, Policy)>, Vec<PolicyProblem>> {
    let (mut parsed, mut problems) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for v1::PolicyFile { path, toml } in files {
        match policy::parse(toml) {
            Ok(policy) => {
                if !names.insert(policy.name.clone()) {
                    let message = format!("policy `{}` is in another of these files too", policy.name);
                    problems.push(PolicyProblem { path: path.clone(), line: 0, column: 0, message });
                }
                parsed.push((path.clone(), policy));
            }
            Err(found) => {
                problems.extend(found.into_iter().map(|policy::Problem { line, column, message }| {
                    PolicyProblem { path: path.clone(), line, column, message }
                }))
            }
        }
    }
    if files.is_empty() {
        let message = "no policy file was given".to_owned();
        problems.push(PolicyProblem { path: String::new(), line: 0, column: 0, message });
    }
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// Sources of which the edit would have more than half the snapshots
/// forgotten, as a sentence; `None` where there is none.
fn forgetting<'a>(
    policy: &'a Policy,
    before: Option<&PolicyRecord>,
    snapshots: &'a [SnapshotRecord],
) -> impl Iterator<Item = String> + use<'a> {
    // Retention that is already in force was agreed to.
    let changed = before.is_none_or(|before| before.policy.keep_last != policy.keep_last);
    let plans = match policy.keep_last.filter(|_| changed) {
        Some(keep_last) => plan_sources(&policy.name, keep_last, snapshots),
        None => Vec::new(),
    };
    let name = &policy.name;
    plans.into_iter().filter(|plan| plan.forgotten() * 2 > plan.decisions.len()).map(move |plan| {
        format!(
            "policy `{name}`: {} of the {} snapshots of {} on {} would be forgotten; \
             to have it so, apply with --allow-forgetting",
            plan.forgotten(),
            plan.decisions.len(),
            plan.source_name,
            plan.host_name
        )
    })
}

/// One that came back from the bucket disabled is not what its text says.
fn same(before: &Policy, after: &Policy) -> bool {
    before.toml == after.toml && before.enabled == after.enabled
}

fn schedule_differs(before: &Policy, after: &Policy) -> bool {
    let facts = |policy: &Policy| {
        policy
            .timing
            .as_ref()
            .map(|timing| (timing.schedule.cron.to_string(), timing.schedule.zone, timing.schedule.dst))
    };
    facts(before) != facts(after) || (!before.enabled && after.enabled)
}

fn change(policy: &Policy, before: Option<&PolicyRecord>, around: &Surroundings) -> PolicyChange {
    let word = match before {
        None => "created",
        Some(before) if same(&before.policy, policy) => "unchanged",
        Some(_) => "changed",
    };
    let matches = policy.matches(&around.hosts, &around.sources);
    let mut details = fire_details(policy, around.now);
    for found in matches.iter().filter(|found| !found.sources.is_empty()) {
        details.push(format!("matches {}: {}", found.host.name, shortened(&found.sources)));
    }
    details.push(format!("keeps {}", policy.keeps()));
    let mut warnings = policy.match_warnings(&matches, &around.hosts);
    warnings.extend(general_warnings(policy));
    PolicyChange { name: policy.name.clone(), change: word.to_owned(), details, warnings }
}

fn fire_details(policy: &Policy, now: DateTime<Utc>) -> Vec<String> {
    let Some(timing) = &policy.timing else { return vec!["fires only when run by hand".to_owned()] };
    let schedule = &timing.schedule;
    let mut details = vec![format!("fires {} {}", schedule.cron, schedule.zone.name())];
    for fire in schedule.fires_after(now).take(FIRES_SHOWN) {
        let note = schedule.note_text(&fire);
        let note = if note.is_empty() { note } else { format!(": {note}") };
        details.push(format!(
            "next {} ({} UTC){note}",
            schedule.local_text(fire.at),
            fire.at.format("%Y-%m-%d %H:%M:%S")
        ));
    }
    details
}

fn general_warnings(policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    if policy.timing.is_none() {
        warnings.push("no schedule: it runs only by hand".to_owned());
    }
    if !policy.enabled {
        warnings.push("disabled: it does not fire".to_owned());
    }
    warnings
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
        None => names.join(", "),
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    type ListPoliciesStream = Replies<v1::Policy>;

    async fn apply_policies(
        &self,
        request: Request<ApplyPoliciesRequest>,
    ) -> Result<Response<ApplyPoliciesResponse>, Status> {
        let applied = self.apply(request.into_inner()).await.map_err(|error| catalog_failed(&error))?;
        Ok(Response::new(applied))
    }

    async fn list_policies(
        &self,
        _request: Request<ListPoliciesRequest>,
    ) -> Result<Response<Self::ListPoliciesStream>, Status> {
        let records = self.jobs.catalog().policies().await.map_err(|error| catalog_failed(&error))?;
        let mut policies = Vec::new();
        for record in &records {
            policies.push(self.encode(record).await.map_err(|error| catalog_failed(&error)));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(policies))))
    }

    async fn delete_policy(
        &self,
        request: Request<DeletePolicyRequest>,
    ) -> Result<Response<DeletePolicyResponse>, Status> {
        let name = request.into_inner().name;
        let catalog = self.jobs.catalog();
        names::policy(catalog, &name).await?;
        catalog.delete_policy(&name).await.map_err(|error| catalog_failed(&error))?;
        Ok(Response::new(DeletePolicyResponse {}))
    }

    async fn explain_policy(
        &self,
        request: Request<ExplainPolicyRequest>,
    ) -> Result<Response<ExplainPolicyResponse>, Status> {
        let ExplainPolicyRequest { name, count } = request.into_inner();
        let record = names::policy(self.jobs.catalog(), &name).await?;
        let count = match count as usize {
            0 => FIRES_SHOWN,
            count => count.min(MAX_FIRES),
        };
        let explained = self.explain(&record, count).await.map_err(|error| catalog_failed(&error))?;
        Ok(Response::new(explained))
    }
}

#[cfg(test)]
mod tests;
