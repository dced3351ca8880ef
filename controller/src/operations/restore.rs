//! A restore on one host: the agent makes the target, writes, and walks it
//! again against the manifest. Whether that went well is its last event.

use holdfast_proto::v1::restore_event::Event;
use holdfast_proto::v1::restore_snapshot_request::Target;
use holdfast_proto::v1::{self, NewVolume, RestoreFinished, RestoreSnapshotRequest};

use super::agent::{AgentJob, Happening, SHUTDOWN, Work};
use super::{Driving, Failure};
use crate::catalog::jobs::Ending;
use crate::jobs::parameters::{RestoreParameters, RestoreTarget};
use crate::jobs::state::State;
use crate::jobs::wire::{bytes, millis};

pub async fn run(driving: &mut Driving, restore: &RestoreParameters) -> Result<Ending, Failure> {
    let host = driving.job.host.ok_or_else(|| Failure::failed("internal", "a restore job without a host"))?;
    driving.step(&format!("restoring to {}", target_text(&restore.target))).await?;
    let request = RestoreSnapshotRequest {
        job_id: driving.job.id.to_string(),
        generation: 0,
        snapshot_id: restore.snapshot.clone(),
        target: Some(target(&restore.target)),
        devices: restore.devices,
        setuid: restore.setuid,
        strict: restore.strict,
        paths: restore.paths.clone(),
    };
    let mut agent = AgentJob::new(driving, host, Work::Restore(request));
    let finished = loop {
        let Happening::Restore(event) = agent.next().await? else { continue };
        match event.event {
            Some(Event::Progress(progress)) => {
                agent.driving().jobs.board().restore_progress(agent.driving().job.id, progress);
            }
            Some(Event::Finished(finished)) if finished.error_code == SHUTDOWN => {
                agent.again_after_shutdown().await?;
            }
            Some(Event::Finished(finished)) => break finished,
            None => {}
        }
    };
    driving.tell(&finished_line(&finished)).await?;
    Ok(ending(finished))
}

/// The target in words.
pub fn target_text(target: &RestoreTarget) -> String {
    match target {
        RestoreTarget::NewVolume { name, driver, .. } if driver.is_empty() || driver == "local" => {
            format!("new volume {name}")
        }
        RestoreTarget::NewVolume { name, driver, .. } => format!("new volume {name} (driver {driver})"),
        RestoreTarget::Directory(path) => format!("directory {path}"),
    }
}

fn target(target: &RestoreTarget) -> Target {
    match target.clone() {
        RestoreTarget::NewVolume { name, driver, options, labels } => Target::NewVolume(NewVolume {
            name,
            driver,
            options: options.into_iter().collect(),
            labels: labels.into_iter().collect(),
        }),
        RestoreTarget::Directory(path) => Target::Directory(path),
    }
}

fn finished_line(finished: &RestoreFinished) -> String {
    let mut line = format!(
        "{} files, {} in {}, {} differences from the snapshot",
        finished.files,
        bytes(finished.bytes),
        millis(finished.duration_ms),
        finished.differences
    );
    if finished.left_out > 0 {
        line.push_str(&format!(", {} left out", finished.left_out));
    }
    line
}

fn ending(finished: RestoreFinished) -> Ending {
    let (state, code, error) = if finished.cancelled {
        (State::Cancelled, "cancelled".to_owned(), "cancelled on request".to_owned())
    } else if finished.ok && finished.differences == 0 {
        (State::Succeeded, String::new(), String::new())
    } else if finished.error.is_empty() {
        let first = finished.difference_list.first().cloned().unwrap_or_default();
        let error =
            format!("the target differs from the snapshot in {} places: {first}", finished.differences);
        (State::Failed, "differences".to_owned(), error)
    } else {
        (State::Failed, finished.error_code.clone(), finished.error.clone())
    };
    let result = v1::Job { restore: Some(finished), ..v1::Job::default() };
    Ending { state, error_code: code, error, result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_with_a_difference_is_not_a_success() {
        let finished = RestoreFinished {
            ok: true,
            differences: 2,
            difference_list: vec!["a/b: content".into()],
            ..RestoreFinished::default()
        };
        let end = ending(finished.clone());
        assert_eq!((end.state, end.error_code.as_str()), (State::Failed, "differences"));
        assert!(end.error.ends_with("2 places: a/b: content"));
        assert_eq!(ending(RestoreFinished { differences: 0, ..finished }).state, State::Succeeded);
    }
}
