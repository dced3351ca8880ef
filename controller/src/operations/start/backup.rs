//! Starting a backup by hand.

use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;

use super::{begun, new_job};
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::NewJob;
use crate::catalog::runs::RunJob;
use crate::catalog::sources::SourceRecord;
use crate::clock::now_ms;
use crate::coverage::matching::facts;
use crate::fleet::inventory;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::job::PlannedBackup;
use crate::model::job::parameters::{BackupParameters, Parameters};
use crate::model::job::source::JobSource;
use crate::model::request::BackupRequest;
use crate::model::source::SourceKind;
use crate::operations::{RequestError, names};
use crate::policy::definition::pattern;
use crate::policy::{Patterns, Policy, TornPolicy};

/// Volumes named in a refusal; more are counted.
const NAMED: usize = 10;

/// What was started, or would be.
#[derive(Debug, Clone)]
pub(crate) struct BackupStart {
    pub jobs: BackupJobs,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// One job a host.
#[derive(Debug, Clone)]
pub(crate) enum BackupJobs {
    Planned(Vec<PlannedBackup>),
    Started(Vec<JobView>),
}

/// Starts a backup of a policy, or of sources named by hand.
///
/// # Errors
/// The policy, a host or a plainly named volume is not known, a host is revoked,
/// a glob or path is none, nothing matches, or the catalogue fails.
pub(crate) async fn backup(
    jobs: &Jobs,
    request: BackupRequest,
    actor: &str,
) -> Result<BackupStart, RequestError> {
    let (policy, parameters, hosts) = if request.policy.is_empty() {
        let host = names::host(jobs.catalog(), &request.host).await?;
        (String::new(), by_hand(&request)?, vec![host])
    } else {
        by_policy(jobs, &request).await?
    };
    // Looked at before anything is judged: a volume made a minute ago is there.
    let mut warnings = Vec::new();
    for host in &hosts {
        refuse_revoked(host)?;
        look_at(jobs, host, &mut warnings).await;
        if policy.is_empty() {
            known_volumes(jobs, host, &parameters).await?;
        }
    }
    if !policy.is_empty() {
        policy_matches(jobs, &policy, &hosts).await?;
    }
    let jobs = if request.plan_only {
        BackupJobs::Planned(plan(jobs, &policy, &parameters, &hosts, actor).await?)
    } else {
        BackupJobs::Started(start(jobs, &policy, &parameters, &hosts, actor).await?)
    };
    Ok(BackupStart { jobs, warnings })
}

fn refuse_revoked(host: &HostRecord) -> Result<(), RequestError> {
    if host.revoked_ms.is_none() {
        return Ok(());
    }
    Err(RequestError::new(ErrorCode::HostRevoked, format!("host `{}` is revoked", host.name)))
}

/// Makes a run with a job for each host: all of them, or none.
async fn start(
    jobs: &Jobs,
    policy: &str,
    parameters: &BackupParameters,
    hosts: &[HostRecord],
    actor: &str,
) -> Result<Vec<JobView>, RequestError> {
    let run_job = |host: &HostRecord| {
        let job = new_job(Some(host.id), Parameters::Backup(parameters.clone()), actor);
        RunJob { job: NewJob { policy: policy.to_owned(), ..job }, overlap: None }
    };
    let run_jobs: Vec<RunJob> = hosts.iter().map(run_job).collect();
    let run_policy = (!policy.is_empty()).then_some(policy);
    // Without a fire time: by hand as often as somebody likes, and no schedule is served by it.
    jobs.catalog().create_run(run_policy, None, &run_jobs, now_ms()).await?;
    let mut started = Vec::new();
    for RunJob { job, .. } in &run_jobs {
        started.push(begun(jobs, job.id, actor).await?);
    }
    jobs.nudges().dispatcher.notify_one();
    Ok(started)
}

type Chosen = (String, BackupParameters, Vec<HostRecord>);

async fn by_policy(jobs: &Jobs, request: &BackupRequest) -> Result<Chosen, RequestError> {
    if !request.volumes.is_empty() || !request.directories.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "a policy and sources by hand exclude each other",
        ));
    }
    let policy = names::policy(jobs.catalog(), &request.policy).await?.policy;
    let hosts = selected_hosts(jobs, &policy, &request.host).await?;
    // What is asked for comes before what the policy says, field by field.
    let mut parameters = BackupParameters::of_policy(&policy);
    parameters.allow_empty = request.allow_empty;
    if request.max_downtime_seconds > 0 {
        parameters.max_downtime_seconds = request.max_downtime_seconds;
    }
    parameters.consistency = request.consistency.unwrap_or(parameters.consistency);
    parameters.nested_mounts = request.nested_mounts.unwrap_or(parameters.nested_mounts);
    Ok((policy.name, parameters, hosts))
}

/// The hosts of a policy; of them the one called `only`, where that is not empty.
async fn selected_hosts(jobs: &Jobs, policy: &Policy, only: &str) -> Result<Vec<HostRecord>, RequestError> {
    let hint = || format!("holdfast policy explain {}", policy.name);
    let all = jobs.catalog().hosts().await?;
    let mut hosts: Vec<HostRecord> = all.into_iter().filter(|host| policy.selects(host)).collect();
    if !only.is_empty() {
        let wanted = names::host(jobs.catalog(), only).await?;
        hosts.retain(|host| host.id == wanted.id);
        if hosts.is_empty() {
            let message = format!("policy `{}` does not select host `{}`", policy.name, wanted.name);
            return Err(RequestError::with_hint(ErrorCode::InvalidRequest, message, hint()));
        }
    }
    if hosts.is_empty() {
        let message = format!("policy `{}` matches no host", policy.name);
        return Err(RequestError::with_hint(ErrorCode::NothingMatches, message, hint()));
    }
    Ok(hosts)
}

fn by_hand(request: &BackupRequest) -> Result<BackupParameters, RequestError> {
    refuse_malformed(request)?;
    Ok(BackupParameters {
        volumes: request.volumes.clone(),
        directories: request.directories.clone(),
        consistency: request.consistency.unwrap_or_default(),
        torn: TornPolicy::Accept,
        nested_mounts: request.nested_mounts.unwrap_or_default(),
        max_downtime_seconds: request.max_downtime_seconds,
        allow_empty: request.allow_empty,
        ..BackupParameters::default()
    })
}

/// Refuses sources by hand that no host could have.
fn refuse_malformed(request: &BackupRequest) -> Result<(), RequestError> {
    if request.volumes.is_empty() && request.directories.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "nothing to back up: name a policy, volumes (globs) or directories",
        ));
    }
    for glob in &request.volumes {
        if let Err(error) = pattern(glob) {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                format!("`{glob}` is no glob: {}", error.kind()),
            ));
        }
    }
    for path in &request.directories {
        if !path.starts_with('/') || path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                format!("`{path}` is no absolute path without `.` and `..`"),
            ));
        }
    }
    Ok(())
}

/// Brings the host's inventory up to date, or warns.
async fn look_at(jobs: &Jobs, host: &HostRecord, warnings: &mut Vec<String>) {
    let Some(channel) = jobs.fleet().channel(host.id) else {
        warnings.push(format!("host `{}` is not connected: its job waits for it", host.name));
        return;
    };
    if let Err(error) =
        inventory::refresh(jobs.catalog(), host.id, channel, jobs.settings().call, now_ms()).await
    {
        warnings.push(format!("host `{}`: {error}", host.name));
    }
}

/// Refuses a volume that is named plainly and not there, and a glob that matches none.
async fn known_volumes(
    jobs: &Jobs,
    host: &HostRecord,
    parameters: &BackupParameters,
) -> Result<(), RequestError> {
    let mut volumes = jobs.catalog().sources(Some(host.id)).await?;
    volumes.retain(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none());
    let there: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    let hint = || format!("holdfast volume ls --host {}", host.name);
    // A name that is misspelt gets the nearest one; a glob that matches nothing gets
    // the list.
    let patterns = Patterns::parse(&parameters.volumes).unwrap_or_default();
    for name in patterns.plain_names() {
        if !there.contains(&name) {
            let near = did_you_mean(name, there.iter().copied());
            let message = format!("volume `{name}` is not on host `{}`{near}", host.name);
            return Err(RequestError::with_hint(ErrorCode::VolumeUnknown, message, hint()));
        }
    }
    let named: Vec<&str> = patterns.plain_names().collect();
    for glob in parameters.volumes.iter().filter(|glob| !named.contains(&glob.as_str())) {
        let alone = BackupParameters { volumes: vec![glob.clone()], ..parameters.clone() }.selector();
        if !volumes.iter().any(|volume| alone.matches(facts(volume))) {
            let message =
                format!("no volume on host `{}` matches `{glob}`; {}", host.name, what_there_is(&there));
            return Err(RequestError::with_hint(ErrorCode::NothingMatches, message, hint()));
        }
    }
    Ok(())
}

/// Refuses a policy that matches nothing on any of its hosts. What a plain
/// name promises is missed by the job, and a host that is away may have more.
async fn policy_matches(jobs: &Jobs, policy: &str, hosts: &[HostRecord]) -> Result<(), RequestError> {
    if !hosts.iter().all(|host| jobs.fleet().is_connected(host.id)) {
        return Ok(());
    }
    let policy = names::policy(jobs.catalog(), policy).await?.policy;
    let sources = jobs.catalog().sources(None).await?;
    let found = policy.matches(hosts, &sources).iter().any(|host| !host.sources.is_empty());
    let ours = |source: &&SourceRecord| hosts.iter().any(|host| host.id == source.host);
    // What has vanished the job misses, and says so.
    let vanished = |source: &SourceRecord| {
        source.gone_ms.is_some() && source.retired_ms.is_none() && policy.wants(source)
    };
    if found || policy.volumes.promised().next().is_some() || sources.iter().filter(ours).any(vanished) {
        return Ok(());
    }
    let there: Vec<&str> = sources
        .iter()
        .filter(ours)
        .filter(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none())
        .map(|source| source.name.as_str())
        .collect();
    let on: Vec<String> = hosts.iter().map(|host| format!("`{}`", host.name)).collect();
    let message =
        format!("policy `{}` matches nothing on {}; {}", policy.name, on.join(", "), what_there_is(&there));
    Err(RequestError::with_hint(
        ErrorCode::NothingMatches,
        message,
        format!("holdfast policy explain {}", policy.name),
    ))
}

fn what_there_is(names: &[&str]) -> String {
    match names {
        [] => "there is no volume".to_owned(),
        [..] if names.len() <= NAMED => format!("there are: {}", names.join(", ")),
        [..] => format!("there are: {} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
    }
}

/// The jobs as they would be.
async fn plan(
    jobs: &Jobs,
    policy: &str,
    parameters: &BackupParameters,
    hosts: &[HostRecord],
    actor: &str,
) -> Result<Vec<PlannedBackup>, RequestError> {
    let mut planned = Vec::new();
    for host in hosts {
        planned.push(PlannedBackup {
            host: host.name.clone(),
            policy: policy.to_owned(),
            actor: actor.to_owned(),
            sources: planned_sources(jobs, host, parameters).await?,
        });
    }
    Ok(planned)
}

async fn planned_sources(
    jobs: &Jobs,
    host: &HostRecord,
    parameters: &BackupParameters,
) -> Result<Vec<JobSource>, RequestError> {
    let selector = parameters.selector();
    let sources = jobs.catalog().sources(Some(host.id)).await?;
    let volumes = sources
        .iter()
        .filter(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none())
        .filter(|source| selector.matches(facts(source)))
        .map(|source| JobSource {
            source_id: source.id.to_string(),
            name: source.name.clone(),
            kind: source.kind,
            ..JobSource::default()
        });
    let directories = parameters.directories.iter().map(|path| JobSource {
        name: path.clone(),
        kind: SourceKind::Directory,
        ..JobSource::default()
    });
    Ok(volumes.chain(directories).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Consistency;

    fn request() -> BackupRequest {
        BackupRequest { host: "web-1".into(), volumes: vec!["db_*".into()], ..Default::default() }
    }

    #[test]
    fn a_backup_by_hand_is_checked_before_there_is_a_job() {
        let parameters = by_hand(&request()).expect("right");
        assert_eq!(parameters.consistency, Consistency::None);
        for bad in [
            BackupRequest { volumes: Vec::new(), ..request() },
            BackupRequest { volumes: vec!["[".into()], ..request() },
            BackupRequest { directories: vec!["srv".into()], ..request() },
            BackupRequest { directories: vec!["/srv/../etc".into()], ..request() },
        ] {
            let refused = by_hand(&bad);
            assert!(
                matches!(refused, Err(RequestError::Refused { code: ErrorCode::InvalidRequest, .. })),
                "{refused:?}"
            );
        }
    }
}
