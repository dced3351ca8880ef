//! Starting a restore by hand.

use std::collections::BTreeMap;

use holdfast_archive::snapshot::{SnapshotBody, SourceFacts};
use holdfast_proto::ErrorCode;
use tokio::time::timeout;

use super::{begun, new_job, not_connected};
use crate::catalog::hosts::HostRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::clock::now_ms;
use crate::fleet::answer::unanswered;
use crate::fleet::calls;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::job::parameters::{Parameters, RestoreParameters, RestoreTarget};
use crate::model::request::RestoreRequest;
use crate::operations::restore::target_text;
use crate::operations::{RequestError, names};
use holdfast_archive::text::bytes;

/// Stands in a snapshot where its agent took a secret out.
const REMOVED: &str = "***";

/// What was started, or would be.
#[derive(Debug, Clone)]
pub(crate) struct RestoreStart {
    /// `None`: it was only planned.
    pub job: Option<JobView>,
    /// What is done, in words, a line each.
    pub plan: Vec<String>,
}

/// Starts a restore, or says what it would do.
///
/// # Errors
/// The host or the snapshot is not known, a new volume's name is taken, the host
/// is not connected or does not answer, or the repository or the catalogue fails.
pub(crate) async fn restore(
    jobs: &Jobs,
    request: RestoreRequest,
    actor: &str,
) -> Result<RestoreStart, RequestError> {
    let RestoreRequest { host, restore, plan_only } = request;
    let host = names::host(jobs.catalog(), &host).await?;
    let found = jobs.repository().resolve(&restore.snapshot).await?;
    let body = jobs.repository().body(&found.id).await?;
    if let RestoreTarget::NewVolume { name, .. } = &restore.target {
        volume_is_free(jobs, &host, name).await?;
    } else if !jobs.fleet().is_connected(host.id) {
        return Err(not_connected(&host));
    }
    let plan = plan(&host, &found, &body, &restore);
    if plan_only {
        return Ok(RestoreStart { job: None, plan });
    }
    let not_applied = not_applied(&restore.target, &body.source);
    // The id, not what was asked for: "the newest" is another one in an hour.
    let restore = RestoreParameters { snapshot: found.id.to_string(), ..restore };
    let job = new_job(Some(host.id), Parameters::Restore(restore), actor);
    jobs.catalog().create_job(&job, now_ms()).await?;
    let view = begun(jobs, job.id, actor).await?;
    if let Some(line) = not_applied {
        jobs.log_event(job.id, &line).await?;
    }
    jobs.nudges().dispatcher.notify_one();
    Ok(RestoreStart { job: Some(view), plan })
}

fn plan(
    host: &HostRecord,
    found: &SnapshotRecord,
    body: &SnapshotBody,
    restore: &RestoreParameters,
) -> Vec<String> {
    let RestoreParameters { snapshot: _, target, devices, setuid, strict: _, salvage, paths } = restore;
    let mut plan = vec![
        snapshot_line(found, body),
        format!("to {}, {}{}", host.name, target_text(target), labels_note(target, &body.source)),
        "afterwards the target is walked and compared with the snapshot".to_owned(),
    ];
    plan.extend(not_applied(target, &body.source));
    if found.partial {
        plan.push(format!("the snapshot is PARTIAL: {}", body.problems.join("; ")));
    }
    if found.id.host != host.id && !(*devices && *setuid) {
        plan.push("from another host: device nodes and setuid bits are left out and listed".to_owned());
    }
    if !paths.is_empty() {
        let shown: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
        plan.push(format!("only {}", shown.join(", ")));
    }
    if *salvage {
        plan.push("files of which the repository has lost something are left out and listed".to_owned());
    }
    plan
}

fn snapshot_line(found: &SnapshotRecord, body: &SnapshotBody) -> String {
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

/// Asks the host itself: the inventory may be minutes old.
async fn volume_is_free(jobs: &Jobs, host: &HostRecord, name: &str) -> Result<(), RequestError> {
    let channel = jobs.fleet().channel(host.id).ok_or_else(|| not_connected(host))?;
    match timeout(jobs.settings().call, calls::volume(channel, name)).await {
        Ok(Ok(Some(volume))) => {
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
        Ok(Ok(None)) => Ok(()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) if !jobs.fleet().is_connected(host.id) => Err(not_connected(host)),
        Err(_) => {
            let asked = format!("whether there is a volume `{name}` on `{}`", host.name);
            Err(unanswered(&asked, jobs.settings().call).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
