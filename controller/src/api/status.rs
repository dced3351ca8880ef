//! `StatusService`: the fleet's coverage in one answer.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use holdfast_proto::v1::status_service_server::StatusService;
use holdfast_proto::v1::{
    GetStatusRequest, GetStatusResponse, HostStatus, LoopStatus, OwnSource, RepositoryStatus, StatusProblem,
};
use tonic::{Request, Response, Status};

use super::scope::shown_hosts;
use super::status_map::catalog_failed;
use crate::catalog::CatalogError;
use crate::catalog::snapshots::SnapshotFilter;
use crate::catalog::sources::SourceRecord;
use crate::catalog::usage::Alarm;
use crate::clock::now_ms;
use crate::coverage::{Coverage, Facts, HostCoverage, Problem, ProblemKind, UPGRADE_NEWS_MS, ago, coverage};
use crate::jobs::Jobs;
use crate::loops::{self, Cause, Failing, Statuses};
use crate::model::caller::Caller;
use crate::quota::day_of;
use crate::repository::{self, Remedy, RepositoryError};
use holdfast_archive::text::causes;

/// Answers for the fleet.
#[derive(Debug, Clone)]
pub struct StatusApi {
    jobs: Jobs,
    loops: Statuses,
}

impl StatusApi {
    pub fn new(jobs: Jobs, loops: Statuses) -> Self {
        Self { jobs, loops }
    }

    async fn facts(&self) -> Result<Facts, CatalogError> {
        let catalog = self.jobs.catalog();
        let now_ms = now_ms();
        Ok(Facts {
            now_ms,
            hosts: catalog.hosts().await?,
            connected: self.jobs.fleet().connected(),
            awaited: catalog.awaited_hosts().await?,
            binds: catalog.binds(None).await?,
            sources: catalog.sources(None).await?,
            policies: catalog.policies().await?,
            snapshots: catalog.snapshots(&SnapshotFilter::default()).await?,
            latest_backups: catalog.latest_backups(now_ms).await?,
            ended_upgrades: catalog.ended_upgrades(now_ms - UPGRADE_NEWS_MS).await?,
            damaged: catalog.damaged_by_host().await?,
        })
    }

    async fn answer(&self) -> Result<GetStatusResponse, CatalogError> {
        let facts = self.facts().await?;
        let Coverage { hosts, problems } = coverage(&facts);
        let (repository, remedy) = self.repository().await?;
        let mut problems: Vec<StatusProblem> = problems.into_iter().map(problem).collect();
        let repository_problem = repository_problem(&repository, remedy);
        problems.extend(self.loop_problems(&repository.location, repository_problem.is_some()));
        problems.extend(repository_problem);
        problems.extend(self.alarms(&facts).await?);
        let own = own_sources(&facts);
        Ok(GetStatusResponse {
            hosts: host_lines(hosts, &facts),
            problems,
            repository: Some(repository),
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            loops: self.loops.all().into_iter().map(loop_status).collect(),
            own,
        })
    }

    /// Of loops that keep failing; `repository_told`: what is wrong with the
    /// repository is among the problems already.
    fn loop_problems(&self, location: &str, repository_told: bool) -> Vec<StatusProblem> {
        let failing = self.loops.failing().into_iter().filter(|failing| match failing.cause {
            // What is behind these is told once, and better.
            Cause::Suspended | Cause::Unreachable | Cause::Damaged => !repository_told,
            Cause::Full | Cause::Refused | Cause::Catalog | Cause::Other => true,
        });
        failing.map(|failing| loop_problem(&failing, location)).collect()
    }

    /// What hosts were refused yesterday and today.
    async fn alarms(&self, facts: &Facts) -> Result<Vec<StatusProblem>, CatalogError> {
        let alarms = self.jobs.catalog().alarms(day_of(facts.now_ms) - 1).await?;
        let name = |host: HostId| {
            let known = facts.hosts.iter().find(|known| known.id == host);
            known.map_or_else(|| host.to_string(), |known| known.name.clone())
        };
        Ok(alarms.into_iter().map(|alarm| quota_problem(name(alarm.host), &alarm)).collect())
    }

    async fn repository(&self) -> Result<(RepositoryStatus, Remedy), CatalogError> {
        match self.jobs.repository().status().await {
            Ok(status) => Ok(repository_status(status)),
            Err(RepositoryError::Catalog(error)) => Err(error),
            Err(error) => {
                let status = RepositoryStatus { problem: causes(&error), ..RepositoryStatus::default() };
                Ok((status, Remedy::None))
            }
        }
    }
}

fn host_lines(lines: Vec<HostCoverage>, facts: &Facts) -> Vec<HostStatus> {
    let seen = last_seen(facts);
    let line = |line: HostCoverage| {
        let (engine_version, last_seen_ms) = seen.get(line.host.as_str()).cloned().unwrap_or_default();
        host_status(line, engine_version, last_seen_ms)
    };
    lines.into_iter().map(line).collect()
}

/// By name of the host: the version of its Engine, and when it was last seen.
fn last_seen(facts: &Facts) -> BTreeMap<&str, (String, i64)> {
    let hosts = facts.hosts.iter().map(|host| {
        let engine = host.agent.as_ref().and_then(|agent| agent.engine.as_ref());
        let version = engine.map(|engine| engine.version.clone()).unwrap_or_default();
        (host.name.as_str(), (version, host.last_seen_ms.unwrap_or(0)))
    });
    hosts.collect()
}

fn repository_status(status: repository::RepositoryStatus) -> (RepositoryStatus, Remedy) {
    let repository::RepositoryStatus {
        id,
        location,
        snapshots,
        packs,
        stored_bytes,
        commit_number,
        suspended,
        collection_off,
        remedy,
        problem,
    } = status;
    let status = RepositoryStatus {
        id,
        location,
        reachable: problem.is_empty(),
        problem,
        snapshots,
        packs,
        stored_bytes,
        commit_number,
        suspended,
        collection_off,
    };
    (status, remedy)
}

/// What is there and never backed up: left out of the counts, it is named.
fn own_sources(facts: &Facts) -> Vec<OwnSource> {
    let hosts = facts.hosts.iter().filter(|host| host.retired_ms.is_none());
    let own = hosts.flat_map(|host| {
        let here = move |source: &&SourceRecord| {
            source.host == host.id && source.gone_ms.is_none() && !source.own.is_empty()
        };
        facts.sources.iter().filter(here).map(|source| OwnSource {
            host: host.name.clone(),
            source: source.name.clone(),
            what: source.own.clone(),
        })
    });
    own.collect()
}

fn host_status(line: HostCoverage, engine_version: String, last_seen_unix_ms: i64) -> HostStatus {
    let HostCoverage { host, connected, sources, protected, overdue, missing, last_backup_ms } = line;
    HostStatus {
        host,
        engine_version,
        connected,
        last_seen_unix_ms,
        sources,
        protected_sources: protected,
        overdue_sources: overdue,
        last_backup_unix_ms: last_backup_ms,
        missing_sources: missing,
    }
}

fn loop_status(status: loops::LoopStatus) -> LoopStatus {
    let loops::LoopStatus { name, last_run_ms, last_result } = status;
    LoopStatus { name: name.to_owned(), last_run_unix_ms: last_run_ms, last_result }
}

fn problem(problem: Problem) -> StatusProblem {
    let Problem { kind, host, source, message, hint } = problem;
    StatusProblem { kind: kind.as_str().to_owned(), host, source, message, hint }
}

fn repository_problem(status: &RepositoryStatus, remedy: Remedy) -> Option<StatusProblem> {
    let (kind, message) = if !status.reachable {
        (ProblemKind::Repository, format!("the repository cannot be reached: {}", status.problem))
    } else if !status.suspended.is_empty() {
        (ProblemKind::Repository, format!("the repository is suspended: {}", status.suspended))
    } else if !status.collection_off.is_empty() {
        (
            ProblemKind::CollectionOff,
            format!("backups go on and nothing is deleted: {}", status.collection_off),
        )
    } else {
        return None;
    };
    Some(StatusProblem {
        kind: kind.as_str().to_owned(),
        host: String::new(),
        source: String::new(),
        message,
        hint: hint(remedy, &status.location),
    })
}

fn hint(remedy: Remedy, location: &str) -> String {
    const STOPPED: &str = "on the controller's machine, with the controller stopped: ";
    match remedy {
        Remedy::None => "the controller's log has the cause".to_owned(),
        Remedy::BringBack => format!(
            "see that the repository is at {location} again: is its disk mounted? If repo.json alone is lost, \
             {STOPPED}holdfast-controller reconcile --write-repo-json"
        ),
        Remedy::WriteInfo => format!("{STOPPED}holdfast-controller reconcile --write-repo-json"),
        Remedy::OneController => {
            "a repository has one controller: stop this one, or take the repository back with \
             holdfast-controller rebuild --state-dir NEW-DIRECTORY"
                .to_owned()
        }
        Remedy::Reconcile => format!("{STOPPED}holdfast-controller reconcile"),
        Remedy::AcceptLoss => format!(
            "{STOPPED}holdfast-controller reconcile lists what is missing and ends this once backups have sent \
             it again; holdfast-controller reconcile --accept-loss gives up what was listed"
        ),
    }
}

/// A loop of the controller that has failed for a while.
fn loop_problem(failing: &Failing, location: &str) -> StatusProblem {
    let left = left_undone(failing.name);
    let Failing { name, error, passes, .. } = failing;
    let times = if *passes == 1 { "once".to_owned() } else { format!("{passes} times in a row") };
    let lasted = ago(i64::try_from(failing.lasted().as_millis()).unwrap_or(i64::MAX));
    let message = format!("the controller's loop `{name}` failed {times}, for {lasted} now: {left}: {error}");
    StatusProblem {
        kind: ProblemKind::LoopFailing.as_str().to_owned(),
        message,
        hint: loop_hint(failing.cause, location),
        ..StatusProblem::default()
    }
}

/// What does not happen while a loop fails.
fn left_undone(name: &str) -> &'static str {
    match name {
        "scheduler" => "no policy fires",
        "dispatcher" => "no job is started",
        "retention" => "no snapshot is forgotten by a policy's retention",
        "repository" => "commits that were cut off are not finished",
        "gc" => "nothing is deleted, and the repository grows",
        "inventory" => "volumes and containers that are new are not seen",
        "export" => "a controller that is rebuilt from the repository would know older hosts and policies",
        "history" => "old jobs and records stay",
        _ => "its work is not done",
    }
}

fn loop_hint(cause: Cause, location: &str) -> String {
    match cause {
        Cause::Full => format!("make room at {location}, or forget snapshots and run: holdfast repo prune"),
        Cause::Refused => format!(
            "see that the controller's user may write to {location}, and that it is not mounted read-only; then: \
             holdfast repo check --repository {location}"
        ),
        Cause::Damaged => "on the controller's machine: holdfast-controller verify".to_owned(),
        Cause::Catalog => {
            "on the controller's machine: is the disk of its state directory full or read-only? df -h; \
             journalctl -u holdfast-controller"
                .to_owned()
        }
        Cause::Suspended | Cause::Unreachable | Cause::Other => {
            "the loop tries again by itself; every failure is in: journalctl -u holdfast-controller"
                .to_owned()
        }
    }
}

fn quota_problem(host: String, alarm: &Alarm) -> StatusProblem {
    let times = if alarm.times == 1 { "once".to_owned() } else { format!("{} times", alarm.times) };
    StatusProblem {
        kind: ProblemKind::Quota.as_str().to_owned(),
        source: String::new(),
        message: format!("refused {times} in a day: {}", alarm.reason),
        hint: if alarm.reason.contains("quota") {
            format!("find out what runs on {host}; if it is right, raise [quotas] in config.toml")
        } else {
            format!("find out what runs on {host}: this bound is fixed, and what is over it is not looked at")
        },
        host,
    }
}

#[tonic::async_trait]
impl StatusService for StatusApi {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let mut answer = self.answer().await.map_err(|error| catalog_failed(&error))?;
        let shown = shown_hosts(self.jobs.catalog(), &Caller::of(&request)).await;
        if let Some(shown) = shown.map_err(|error| catalog_failed(&error))? {
            let is_shown = |name: &String| shown.values().any(|host| host == name);
            answer.hosts.retain(|line| is_shown(&line.host));
            // What is nobody's is everybody's: the repository, a policy.
            answer.problems.retain(|problem| problem.host.is_empty() || is_shown(&problem.host));
        }
        Ok(Response::new(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h01_what_is_switched_off_says_why_and_which_command_ends_it() {
        let of = |suspended: &str, collection_off: &str, remedy| {
            let status = RepositoryStatus {
                reachable: true,
                suspended: suspended.to_owned(),
                collection_off: collection_off.to_owned(),
                ..RepositoryStatus::default()
            };
            repository_problem(&status, remedy).expect("a problem")
        };
        let lossy = of("", "2 snapshots are not whole", Remedy::AcceptLoss);
        assert_eq!(lossy.kind, "collection-off");
        assert!(
            lossy.message.contains("backups go on") && lossy.message.contains("2 snapshots"),
            "{lossy:?}"
        );
        assert!(lossy.hint.contains("holdfast-controller reconcile --accept-loss"), "{lossy:?}");
        let cut_off = of("", "a reconciliation was begun", Remedy::Reconcile);
        assert!(cut_off.hint.ends_with("holdfast-controller reconcile"), "{cut_off:?}");
        let behind = of("the catalogue is an old copy", "", Remedy::Reconcile);
        assert_eq!((behind.kind.as_str(), behind.message.contains("an old copy")), ("repository", true));
        assert!(of("another's", "", Remedy::OneController).hint.contains("holdfast-controller rebuild"));
        let sound = RepositoryStatus { reachable: true, ..RepositoryStatus::default() };
        assert_eq!(repository_problem(&sound, Remedy::None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_keeps_failing_is_a_problem_with_the_cause_and_a_command() {
        let statuses = Statuses::default();
        for _ in 0..2 {
            statuses.failed("gc", Cause::Refused, "could not write: Read-only file system".to_owned());
            tokio::time::advance(std::time::Duration::from_mins(15)).await;
        }
        let problems: Vec<StatusProblem> =
            statuses.failing().iter().map(|failing| loop_problem(failing, "/srv/r")).collect();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!(problem.kind, "loop-failing");
        for part in ["`gc`", "2 times in a row", "30 min", "nothing is deleted", "Read-only file system"] {
            assert!(problem.message.contains(part), "{part}: {problem:?}");
        }
        assert!(problem.hint.contains("holdfast repo check --repository /srv/r"), "{problem:?}");
    }

    #[test]
    fn what_is_over_a_bound_is_no_matter_of_quotas() {
        let alarm = |reason: &str| {
            let alarm = Alarm { host: HostId::generate(), day: 1, times: 2, reason: reason.to_owned() };
            quota_problem("web-1".to_owned(), &alarm).hint
        };
        assert!(alarm("it came to its quota packs_per_day = 2").contains("[quotas]"));
        assert!(!alarm("its mounts were not taken over: too many").contains("[quotas]"));
    }
}
