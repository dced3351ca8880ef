//! A restore on one host: the agent makes the target, writes, and walks it
//! again against the manifest. Whether that went well is its last event.

use holdfast_proto::ErrorCode;

use super::agent::AgentJob;
use super::{Failure, JobRun};
use crate::catalog::jobs::Ending;
use crate::model::event::{AgentEvent, RestoreEvent};
use crate::model::job::parameters::{RestoreParameters, RestoreTarget};
use crate::model::job::restore::RestoreFinished;
use crate::model::job::state::State;
use crate::model::work::Work;
use holdfast_archive::text::{bytes, millis};

/// What is left where even salvaging fails: the list of the files is lost.
const UNSALVAGEABLE: &str = "its list of files is lost, so nothing of it can be salvaged: restore another snapshot \
    (holdfast snapshot ls), or back up the source where it still has the content (holdfast backup run) and try again";

/// How many names of what is lost one line has, and how long each may be.
const NAMED: usize = 5;
const NAME_CHARS: usize = 200;

/// Has the agent restore, and follows it to the end.
///
/// # Errors
/// The host does not come or its agent gives up, the job is cancelled or
/// another's by now, or the catalogue fails.
pub(crate) async fn run(run: &mut JobRun, restore: &RestoreParameters) -> Result<Ending, Failure> {
    let host =
        run.job.host.ok_or_else(|| Failure::failed(ErrorCode::Internal, "a restore job without a host"))?;
    run.step(&format!("restoring to {}", target_text(&restore.target))).await?;
    let mut agent = AgentJob::new(run, host, Work::Restore(restore.clone()));
    let finished = loop {
        let AgentEvent::Restore(event) = agent.next().await? else { continue };
        match event {
            RestoreEvent::Progress(progress) => {
                agent.run().jobs.progress().restore_progress(agent.run().job.id, progress);
            }
            RestoreEvent::Finished(finished) if ErrorCode::Shutdown.is(&finished.error_code) => {
                agent.again_after_shutdown().await?;
            }
            RestoreEvent::Finished(finished) => break finished,
            RestoreEvent::Unknown => {}
        }
    };
    // Of what was removed again, or never written, counts would read like a success.
    if finished.ok || finished.differences > 0 {
        run.log_event(&finished_line(&finished)).await?;
    }
    let host = run.jobs.host_name(host).await?;
    Ok(ending(finished, restore, &host))
}

/// The target in words.
pub(crate) fn target_text(target: &RestoreTarget) -> String {
    match target {
        RestoreTarget::NewVolume { name, driver, options, .. } => {
            let mut settings = Vec::new();
            if !matches!(driver.as_str(), "" | "local") {
                settings.push(format!("driver {driver}"));
            }
            // Their values may be secrets of a network file system.
            settings.extend(options.keys().map(|key| format!("option {key}")));
            match settings.is_empty() {
                true => format!("new volume {name}"),
                false => format!("new volume {name} ({})", settings.join(", ")),
            }
        }
        RestoreTarget::Directory(path) => format!("directory {path}"),
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
    if finished.lost > 0 {
        line.push_str(&format!(", {} lost: {}", finished.lost, first_lost(finished)));
    }
    line
}

/// The first of what is lost, for one line.
fn first_lost(finished: &RestoreFinished) -> String {
    let mut named: Vec<String> =
        finished.lost_list.iter().take(NAMED).map(|what| what.chars().take(NAME_CHARS).collect()).collect();
    if finished.lost > named.len() as u64 {
        named.push("and more".to_owned());
    }
    named.join(", ")
}

/// The command that restores what this job could not, but for what is lost.
fn salvage_command(restore: &RestoreParameters, host: &str) -> String {
    let (verb, to, target) = match &restore.target {
        RestoreTarget::NewVolume { name, .. } => ("volume", "--as", name),
        RestoreTarget::Directory(path) => ("files", "--to", path),
    };
    let mut words = vec!["holdfast restore".to_owned(), verb.to_owned(), quoted(&restore.snapshot)];
    words.extend(restore.paths.iter().map(|path| quoted(&String::from_utf8_lossy(path))));
    words.extend(["--host".to_owned(), quoted(host), to.to_owned(), quoted(target)]);
    if let RestoreTarget::NewVolume { driver, options, .. } = &restore.target {
        if !matches!(driver.as_str(), "" | "local") {
            words.extend(["--driver".to_owned(), quoted(driver)]);
        }
        // Values may be secrets.
        words.extend(options.keys().flat_map(|key| ["--opt".to_owned(), format!("{}=…", quoted(key))]));
    }
    let options = [
        (restore.devices, "--devices"),
        (restore.setuid, "--setuid"),
        (restore.strict, "--strict"),
        (true, "--salvage"),
    ];
    words.extend(options.iter().filter(|(set, _)| *set).map(|(_, option)| (*option).to_owned()));
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@#:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn ending(finished: RestoreFinished, restore: &RestoreParameters, host: &str) -> Ending {
    let (state, code, error) = if finished.cancelled {
        (State::Cancelled, ErrorCode::Cancelled.as_str().to_owned(), "cancelled on request".to_owned())
    } else if finished.ok && finished.differences == 0 && finished.lost == 0 {
        (State::Succeeded, String::new(), String::new())
    } else if finished.ok && finished.differences == 0 {
        let (count, first) = (finished.lost, first_lost(&finished));
        let error = format!(
            "everything else is restored and verified; the repository has lost {count} files or pages of the \
             manifest: {first}"
        );
        (State::Partial, ErrorCode::NotWhole.as_str().to_owned(), error)
    } else if ErrorCode::Damaged.is(&finished.error_code) && !restore.salvage {
        let command = salvage_command(restore, host);
        let error = format!("{}; everything else comes back with: {command}", finished.error);
        (State::Failed, ErrorCode::Damaged.as_str().to_owned(), error)
    } else if ErrorCode::Damaged.is(&finished.error_code) {
        let error = format!("{}; {UNSALVAGEABLE}", finished.error);
        (State::Failed, ErrorCode::Damaged.as_str().to_owned(), error)
    } else if finished.error.is_empty() {
        let first = finished.difference_list.first().cloned().unwrap_or_default();
        let error =
            format!("the target differs from the snapshot in {} places: {first}", finished.differences);
        (State::Failed, ErrorCode::Differs.as_str().to_owned(), error)
    } else {
        (State::Failed, finished.error_code.clone(), finished.error.clone())
    };
    Ending { state, error_code: code, error, result: finished.into() }
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
        let end = ending(finished.clone(), &parameters(), "web-1");
        assert_eq!((end.state, end.error_code.as_str()), (State::Failed, "differs"));
        assert!(end.error.ends_with("2 places: a/b: content"));
        let whole = RestoreFinished { differences: 0, ..finished };
        assert_eq!(ending(whole, &parameters(), "web-1").state, State::Succeeded);
    }

    fn parameters() -> RestoreParameters {
        RestoreParameters {
            snapshot: "h/s/7".into(),
            target: RestoreTarget::NewVolume {
                name: "copy".into(),
                driver: "local".into(),
                options: Default::default(),
                labels: Default::default(),
            },
            devices: true,
            setuid: false,
            strict: false,
            salvage: false,
            paths: Vec::new(),
        }
    }

    #[test]
    fn h05_a_refusal_for_damage_names_the_command_that_salvages() {
        let damaged = || RestoreFinished {
            error_code: "damaged".into(),
            error: "content of a/b cannot be read".into(),
            ..RestoreFinished::default()
        };
        let end = ending(damaged(), &parameters(), "web-1");
        assert_eq!((end.state, end.error_code.as_str()), (State::Failed, "damaged"));
        let command = "holdfast restore volume h/s/7 --host web-1 --as copy --devices --salvage";
        assert!(end.error.starts_with("content of a/b") && end.error.ends_with(command), "{}", end.error);
        let files = RestoreParameters {
            target: RestoreTarget::Directory("/srv/it's here".into()),
            paths: vec![b"a b".to_vec(), b"c".to_vec()],
            devices: false,
            ..parameters()
        };
        let command = r"holdfast restore files h/s/7 'a b' c --host web-1 --to '/srv/it'\''s here' --salvage";
        let end = ending(damaged(), &files, "web-1");
        assert!(end.error.ends_with(command), "{}", end.error);
        let elsewhere = RestoreParameters {
            target: RestoreTarget::NewVolume {
                name: "copy".into(),
                driver: "nas".into(),
                options: [("password".to_owned(), "hidden".to_owned())].into(),
                labels: Default::default(),
            },
            ..parameters()
        };
        let end = ending(damaged(), &elsewhere, "web-1");
        assert!(end.error.contains("--as copy --driver nas --opt password=… --devices"), "{}", end.error);
        // Where it was tried, it is not advised.
        let end = ending(damaged(), &RestoreParameters { salvage: true, ..parameters() }, "web-1");
        assert!(!end.error.contains("--salvage"), "{}", end.error);
        assert!(end.error.contains("holdfast snapshot ls"), "{}", end.error);
    }

    #[test]
    fn h05_what_was_salvaged_is_partial_and_says_what_is_lost_in_few_words() {
        let finished = RestoreFinished {
            ok: true,
            files: 3,
            lost: 200,
            lost_list: (0..100).map(|n| format!("{n}-{}", "x".repeat(1000))).collect(),
            ..RestoreFinished::default()
        };
        let line = finished_line(&finished);
        assert!(line.contains("200 lost: 0-x") && line.ends_with("and more") && line.len() < 1200, "{line}");
        let end = ending(finished, &RestoreParameters { salvage: true, ..parameters() }, "web-1");
        assert_eq!((end.state, end.error_code.as_str()), (State::Partial, "not-whole"));
        assert!(end.error.contains("lost 200") && end.error.len() < 1300, "{}", end.error);
        assert_eq!(end.result.restore.expect("kept").lost_list.len(), 100);
    }
}
