//! Starting work by hand: everything that can be refused is refused before a
//! job exists.

use std::collections::BTreeMap;

use holdfast_archive::snapshot::SourceFacts;
use holdfast_archive::text::did_you_mean;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{
    self, InspectVolumeRequest, Job, JobKind, JobSource, JobState, SourceKind, StartBackupRequest,
    StartBackupResponse, StartPruneRequest, StartPruneResponse, StartRestoreRequest, StartRestoreResponse,
};
use tokio::time::timeout;
use tonic::Code;

use super::restore::target_text;
use super::{RequestError, names};
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::NewJob;
use crate::catalog::runs::RunJob;
use crate::catalog::sources::SourceRecord;
use crate::clock::now_ms;
use crate::coverage::matching::facts;
use crate::fleet::answer::unanswered;
use crate::fleet::inventory;
use crate::jobs::Jobs;
use crate::jobs::wire::{self, bytes};
use crate::model::job::parameters::{BackupParameters, Parameters, RestoreParameters, RestoreTarget};
use crate::policy::definition::pattern;
use crate::policy::{Consistency, NestedMounts, Patterns, TornPolicy};
use crate::repository::gc;
use holdfast_proto::ErrorCode;

/// Starts a backup of a policy, or of sources named by hand.
pub async fn backup(
    jobs: &Jobs,
    request: StartBackupRequest,
    actor: &str,
) -> Result<StartBackupResponse, RequestError> {
    let (policy, parameters, hosts) = if request.policy.is_empty() {
        let host = names::host(jobs.catalog(), &request.host).await?;
        (String::new(), by_hand(&request)?, vec![host])
    } else {
        by_policy(jobs, &request).await?
    };
    let mut warnings = Vec::new();
    for host in &hosts {
        if host.revoked_ms.is_some() {
            return Err(RequestError::new(
                ErrorCode::HostRevoked,
                format!("host `{}` is revoked", host.name),
            ));
        }
        look_at(jobs, host, &mut warnings).await;
        if policy.is_empty() {
            known_volumes(jobs, host, &parameters).await?;
        }
    }
    if !policy.is_empty() {
        policy_matches(jobs, &policy, &hosts).await?;
    }
    if request.plan_only {
        let mut planned = Vec::new();
        for host in &hosts {
            planned.push(plan(jobs, host, &policy, &parameters, actor).await?);
        }
        return Ok(StartBackupResponse { jobs: planned, warnings });
    }
    let run_jobs: Vec<RunJob> = hosts
        .iter()
        .map(|host| RunJob {
            job: NewJob {
                id: JobId::generate(),
                policy: policy.clone(),
                host: Some(host.id),
                actor: actor.to_owned(),
                parameters: Parameters::Backup(parameters.clone()),
                not_before_ms: 0,
            },
            overlap: None,
        })
        .collect();
    let run_policy = (!policy.is_empty()).then_some(policy.as_str());
    jobs.catalog().create_run(run_policy, None, &run_jobs, now_ms()).await?;
    let mut started = Vec::new();
    for RunJob { job, .. } in &run_jobs {
        started.push(begun(jobs, job.id, &format!("started by {actor}")).await?);
    }
    jobs.nudges().dispatcher.notify_one();
    Ok(StartBackupResponse { jobs: started, warnings })
}

type Chosen = (String, BackupParameters, Vec<HostRecord>);

async fn by_policy(jobs: &Jobs, request: &StartBackupRequest) -> Result<Chosen, RequestError> {
    if !request.volumes.is_empty() || !request.directories.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "a policy and sources by hand exclude each other",
        ));
    }
    let record = names::policy(jobs.catalog(), &request.policy).await?;
    let policy = record.policy;
    let all = jobs.catalog().hosts().await?;
    let mut hosts: Vec<HostRecord> = all.into_iter().filter(|host| policy.selects(host)).collect();
    if !request.host.is_empty() {
        let wanted = names::host(jobs.catalog(), &request.host).await?;
        hosts.retain(|host| host.id == wanted.id);
        if hosts.is_empty() {
            let message = format!("policy `{}` does not select host `{}`", policy.name, wanted.name);
            let hint = format!("holdfast policy explain {}", policy.name);
            return Err(RequestError::with_hint(ErrorCode::InvalidRequest, message, hint));
        }
    }
    if hosts.is_empty() {
        let hint = format!("holdfast policy explain {}", policy.name);
        return Err(RequestError::with_hint(
            ErrorCode::NothingMatches,
            format!("policy `{}` matches no host", policy.name),
            hint,
        ));
    }
    let mut parameters = BackupParameters::of_policy(&policy);
    parameters.allow_empty = request.allow_empty;
    if request.max_downtime_seconds > 0 {
        parameters.max_downtime_seconds = request.max_downtime_seconds;
    }
    if let Some(asked) = known_consistency(request.consistency)? {
        parameters.consistency = asked;
    }
    if let Some(asked) = nested_mounts(request)? {
        parameters.nested_mounts = asked;
    }
    Ok((policy.name, parameters, hosts))
}

/// `None`: nothing in particular is asked for.
pub(super) fn known_consistency(number: i32) -> Result<Option<Consistency>, RequestError> {
    v1::Consistency::try_from(number).map(wire::consistency).map_err(|_| {
        RequestError::new(ErrorCode::InvalidRequest, "an unknown consistency; none, pause and stop are known")
    })
}

fn nested_mounts(request: &StartBackupRequest) -> Result<Option<NestedMounts>, RequestError> {
    v1::NestedMounts::try_from(request.nested_mounts).map(wire::nested_mounts).map_err(|_| {
        RequestError::new(
            ErrorCode::InvalidRequest,
            "an unknown way with nested mounts; partial and leave-out are known",
        )
    })
}

fn by_hand(request: &StartBackupRequest) -> Result<BackupParameters, RequestError> {
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
    Ok(BackupParameters {
        volumes: request.volumes.clone(),
        directories: request.directories.clone(),
        consistency: known_consistency(request.consistency)?.unwrap_or_default(),
        torn: TornPolicy::Accept,
        nested_mounts: nested_mounts(request)?.unwrap_or_default(),
        max_downtime_seconds: request.max_downtime_seconds,
        allow_empty: request.allow_empty,
        ..BackupParameters::default()
    })
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

/// Refuses a volume that is named plainly and not there.
async fn known_volumes(
    jobs: &Jobs,
    host: &HostRecord,
    parameters: &BackupParameters,
) -> Result<(), RequestError> {
    let sources = jobs.catalog().sources(Some(host.id)).await?;
    let there: Vec<&str> = sources
        .iter()
        .filter(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none())
        .map(|source| source.name.as_str())
        .collect();
    let patterns = Patterns::parse(&parameters.volumes).unwrap_or_default();
    for name in patterns.plain_names() {
        if !there.contains(&name) {
            let near = did_you_mean(name, there.iter().copied());
            let hint = format!("holdfast volume ls --host {}", host.name);
            return Err(RequestError::with_hint(
                ErrorCode::VolumeUnknown,
                format!("volume `{name}` is not on host `{}`{near}", host.name),
                hint,
            ));
        }
    }
    let named: Vec<&str> = patterns.plain_names().collect();
    for glob in parameters.volumes.iter().filter(|glob| !named.contains(&glob.as_str())) {
        let alone = BackupParameters { volumes: vec![glob.clone()], ..parameters.clone() }.selector();
        let here = |source: &&SourceRecord| source.kind == SourceKind::Volume && source.gone_ms.is_none();
        if !sources.iter().filter(here).any(|source| alone.matches(facts(source))) {
            let hint = format!("holdfast volume ls --host {}", host.name);
            let message =
                format!("no volume on host `{}` matches `{glob}`; {}", host.name, what_there_is(&there));
            return Err(RequestError::with_hint(ErrorCode::NothingMatches, message, hint));
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

/// Volumes named in a refusal; more are counted.
const NAMED: usize = 10;

fn what_there_is(names: &[&str]) -> String {
    match names {
        [] => "there is no volume".to_owned(),
        [..] if names.len() <= NAMED => format!("there are: {}", names.join(", ")),
        [..] => format!("there are: {} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
    }
}

/// The job as it would be.
async fn plan(
    jobs: &Jobs,
    host: &HostRecord,
    policy: &str,
    parameters: &BackupParameters,
    actor: &str,
) -> Result<Job, RequestError> {
    let selector = parameters.selector();
    let sources = jobs.catalog().sources(Some(host.id)).await?;
    let volumes = sources
        .iter()
        .filter(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none())
        .filter(|source| selector.matches(facts(source)))
        .map(|source| JobSource {
            source_id: source.id.to_string(),
            name: source.name.clone(),
            kind: source.kind.into(),
            ..JobSource::default()
        });
    let directories = parameters.directories.iter().map(|path| JobSource {
        name: path.clone(),
        kind: SourceKind::Directory.into(),
        ..JobSource::default()
    });
    Ok(Job {
        kind: JobKind::Backup.into(),
        state: JobState::Unspecified.into(),
        host: host.name.clone(),
        policy: policy.to_owned(),
        actor: actor.to_owned(),
        sources: volumes.chain(directories).collect(),
        ..Job::default()
    })
}

pub(super) async fn begun(jobs: &Jobs, id: JobId, line: &str) -> Result<Job, RequestError> {
    jobs.log_event(id, line).await?;
    let record = jobs.catalog().job(id).await?;
    let record =
        record.ok_or_else(|| RequestError::new(ErrorCode::Internal, "the job just made is not there"))?;
    Ok(jobs.wire(&record).await?)
}

/// Starts a restore, or says what it would do.
pub async fn restore(
    jobs: &Jobs,
    request: StartRestoreRequest,
    actor: &str,
) -> Result<StartRestoreResponse, RequestError> {
    let StartRestoreRequest {
        snapshot,
        host,
        as_volume,
        directory,
        driver,
        options,
        devices,
        setuid,
        strict,
        paths,
        plan_only,
        salvage,
    } = request;
    let host = names::host(jobs.catalog(), &host).await?;
    let found = jobs.repository().resolve(&snapshot).await?;
    let body = jobs.repository().body(&found.id).await?;
    let target = match (as_volume.as_str(), directory.as_str()) {
        ("", "") => {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                "name a target: a new volume or a directory",
            ));
        }
        (name, "") => RestoreTarget::NewVolume {
            name: name.to_owned(),
            driver,
            options: options.into_iter().collect(),
            // The agent takes over those of the snapshot.
            labels: BTreeMap::new(),
        },
        ("", _) if !driver.is_empty() || !options.is_empty() => {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                "a driver and options are for a new volume",
            ));
        }
        ("", path) if path.starts_with('/') => RestoreTarget::Directory(path.to_owned()),
        ("", path) => {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                format!("`{path}` is no absolute path"),
            ));
        }
        _ => {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                "a new volume and a directory exclude each other",
            ));
        }
    };
    if let RestoreTarget::NewVolume { name, .. } = &target {
        volume_is_free(jobs, &host, name).await?;
    } else if !jobs.fleet().is_connected(host.id) {
        return Err(not_connected(&host));
    }
    let mut plan = vec![
        snapshot_line(&found, &body),
        format!("to {}, {}{}", host.name, target_text(&target), labels_note(&target, &body.source)),
        "afterwards the target is walked and compared with the snapshot".to_owned(),
    ];
    let not_applied = not_applied(&target, &body.source);
    plan.extend(not_applied.clone());
    if found.partial {
        plan.push(format!("the snapshot is PARTIAL: {}", body.problems.join("; ")));
    }
    if found.id.host != host.id && !(devices && setuid) {
        plan.push("from another host: device nodes and setuid bits are left out and listed".to_owned());
    }
    if !paths.is_empty() {
        let shown: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
        plan.push(format!("only {}", shown.join(", ")));
    }
    if salvage {
        plan.push("files of which the repository has lost something are left out and listed".to_owned());
    }
    if plan_only {
        return Ok(StartRestoreResponse { job: None, plan });
    }
    let parameters =
        RestoreParameters { snapshot: found.id.to_string(), target, devices, setuid, strict, salvage, paths };
    let job = NewJob {
        id: JobId::generate(),
        policy: String::new(),
        host: Some(host.id),
        actor: actor.to_owned(),
        parameters: Parameters::Restore(parameters),
        not_before_ms: 0,
    };
    jobs.catalog().create_job(&job, now_ms()).await?;
    let id = job.id;
    let job = begun(jobs, id, &format!("started by {actor}")).await?;
    if let Some(line) = not_applied {
        jobs.log_event(id, &line).await?;
    }
    jobs.nudges().dispatcher.notify_one();
    Ok(StartRestoreResponse { job: Some(job), plan })
}

fn snapshot_line(
    found: &crate::catalog::snapshots::SnapshotRecord,
    body: &holdfast_archive::snapshot::SnapshotBody,
) -> String {
    let at = chrono::DateTime::from_timestamp_millis(found.created_ms).unwrap_or_default();
    format!(
        "{}, snapshot {} of {} from {}: {}, {} files{}",
        found.source_name,
        found.id.number,
        at.format("%Y-%m-%d %H:%M UTC"),
        found.host_name,
        bytes(body.stats.size_bytes),
        body.stats.files,
        if found.partial { "" } else { ", complete" }
    )
}

/// Stands in a snapshot where its agent took a secret out.
const REMOVED: &str = "***";

fn labels_note(target: &RestoreTarget, source: &SourceFacts) -> String {
    match target {
        RestoreTarget::NewVolume { .. } if !source.labels.is_empty() => {
            let (removed, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
                source.labels.clone().into_iter().partition(|(_, value)| value.contains(REMOVED));
            let mut note = match kept.is_empty() {
                true => String::new(),
                false => format!(", labels restored: {}", settings_text(&kept)),
            };
            if !removed.is_empty() {
                let names: Vec<_> = removed.keys().map(|key| key.escape_debug().to_string()).collect();
                note.push_str(&format!(
                    ", labels NOT restored, because their values are secrets that stayed on their host: {}",
                    names.join(", ")
                ));
            }
            note
        }
        _ => String::new(),
    }
}

/// What a restore does not take over: the host a snapshot comes from wrote it,
/// and it can lead to any place of the host that would obey it.
fn not_applied(target: &RestoreTarget, source: &SourceFacts) -> Option<String> {
    let RestoreTarget::NewVolume { driver, options, .. } = target else { return None };
    let plain = matches!(source.driver.as_str(), "" | "local") && source.options.is_empty();
    if plain {
        return None;
    }
    let made = match (driver.as_str(), options.is_empty()) {
        ("" | "local", true) => {
            "the new volume is a plain local one (--driver and --opt give it other settings)"
        }
        _ => "the new volume has the settings given here",
    };
    let options = match source.driver.as_str() {
        _ if source.options.is_empty() => "none".to_owned(),
        "" | "local" => settings_text(&source.options),
        // What a plugin takes may be a password.
        _ => source.options.keys().map(|key| key.escape_debug().to_string()).collect::<Vec<_>>().join(", "),
    };
    Some(format!(
        "the snapshot's volume had driver {}, options {options}: NOT taken over, {made}",
        source.driver.escape_debug()
    ))
}

/// `key=value, ...`; a hostile host may have written them.
fn settings_text(settings: &BTreeMap<String, String>) -> String {
    let one = |(key, value): (&String, &String)| {
        let text: String = format!("{key}={value}").chars().take(200).collect();
        text.escape_debug().to_string()
    };
    settings.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn not_connected(host: &HostRecord) -> RequestError {
    RequestError::new(ErrorCode::HostNotConnected, format!("host `{}` is not connected", host.name))
}

/// Asks the host itself: the inventory may be minutes old.
async fn volume_is_free(jobs: &Jobs, host: &HostRecord, name: &str) -> Result<(), RequestError> {
    let channel = jobs.fleet().channel(host.id).ok_or_else(|| not_connected(host))?;
    let mut client = VolumeServiceClient::new(channel);
    let request = InspectVolumeRequest { name: name.to_owned(), with_usage: false };
    let answer = timeout(jobs.settings().call, client.inspect_volume(request)).await;
    match answer {
        Ok(Ok(found)) => {
            let volume = found.into_inner();
            let message = if volume.own.is_empty() {
                format!("volume `{name}` exists on host `{}`; nothing is overwritten", host.name)
            } else {
                format!(
                    "volume `{name}` on host `{}` is Holdfast's own, {}: nothing is restored into it; choose another volume",
                    host.name, volume.own
                )
            };
            Err(RequestError::new(ErrorCode::VolumeExists, message))
        }
        Ok(Err(status)) if status.code() == Code::NotFound => Ok(()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) if !jobs.fleet().is_connected(host.id) => Err(not_connected(host)),
        Err(_) => {
            let asked = format!("whether there is a volume `{name}` on `{}`", host.name);
            Err(unanswered(&asked, jobs.settings().call).into())
        }
    }
}

/// Starts a prune, or says what it would delete.
pub async fn prune(
    jobs: &Jobs,
    request: StartPruneRequest,
    actor: &str,
) -> Result<StartPruneResponse, RequestError> {
    if request.plan_only {
        let plan = gc::plan(jobs.repository()).await?;
        return Ok(StartPruneResponse { job: None, plan: Some(plan) });
    }
    let job = NewJob {
        id: JobId::generate(),
        policy: String::new(),
        host: None,
        actor: actor.to_owned(),
        parameters: Parameters::Prune {},
        not_before_ms: 0,
    };
    jobs.catalog().create_job(&job, now_ms()).await?;
    let job = begun(jobs, job.id, &format!("started by {actor}")).await?;
    jobs.nudges().dispatcher.notify_one();
    Ok(StartPruneResponse { job: Some(job), plan: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> StartBackupRequest {
        StartBackupRequest { host: "web-1".into(), volumes: vec!["db_*".into()], ..Default::default() }
    }

    #[test]
    fn a_backup_by_hand_is_checked_before_there_is_a_job() {
        let parameters = by_hand(&request()).expect("right");
        assert_eq!(parameters.consistency, Consistency::None);
        for bad in [
            StartBackupRequest { volumes: Vec::new(), ..request() },
            StartBackupRequest { volumes: vec!["[".into()], ..request() },
            StartBackupRequest { directories: vec!["srv".into()], ..request() },
            StartBackupRequest { directories: vec!["/srv/../etc".into()], ..request() },
            StartBackupRequest { consistency: 77, ..request() },
        ] {
            let refused = by_hand(&bad);
            assert!(
                matches!(refused, Err(RequestError::Refused { code: ErrorCode::InvalidRequest, .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn the_plan_names_the_target() {
        let target = RestoreTarget::NewVolume {
            name: "copy".into(),
            driver: "local".into(),
            options: Default::default(),
            labels: Default::default(),
        };
        let source = SourceFacts { labels: [("a".into(), "b".into())].into(), ..SourceFacts::default() };
        assert_eq!(
            format!("{}{}", target_text(&target), labels_note(&target, &source)),
            "new volume copy, labels restored: a=b"
        );
        assert_eq!(not_applied(&target, &source), None);
    }

    #[test]
    fn v01_the_plan_names_the_settings_that_are_not_taken_over() {
        let target = |driver: &str| RestoreTarget::NewVolume {
            name: "copy".into(),
            driver: driver.into(),
            options: Default::default(),
            labels: Default::default(),
        };
        let source = SourceFacts {
            driver: "local".into(),
            options: [("o".into(), "bind".into()), ("device".into(), "/etc\u{1b}".into())].into(),
            ..SourceFacts::default()
        };
        assert_eq!(
            not_applied(&target(""), &source).expect("a line"),
            "the snapshot's volume had driver local, options device=/etc\\u{1b}, o=bind: NOT taken over, \
             the new volume is a plain local one (--driver and --opt give it other settings)"
        );
        let source = SourceFacts { driver: "vieux/sshfs".into(), ..SourceFacts::default() };
        let line = not_applied(&target("nfs"), &source).expect("a line");
        assert!(line.contains("vieux/sshfs") && line.ends_with("the settings given here"), "{line}");
        assert_eq!(not_applied(&RestoreTarget::Directory("/srv".into()), &source), None);
    }
}
