//! What to do about a container that was, or may have been, paused or stopped.
//! Pure.
//!
//! The entry tells the container's start time: as it was right before the act,
//! and once the entry is confirmed, as it was right after. A restart policy may
//! start a container anew between the look and the act, so before confirmation
//! another start time does not say that somebody else is at work; only what
//! happened after the act can no longer have been under way does.
//!
//! While the act is open, "it runs" is no answer: the Engine carries on with a
//! stop whose caller died.

use crate::engine::{Container, ContainerState};
use crate::journal::{CleanupAction, QuiescedContainer};

use super::Attempt;
use super::act::{Outcome, act_limit};

const REMOVED: Attempt = Attempt::Left("it was removed meanwhile");
const GOING: Attempt = Attempt::Left("it is being removed");
const RESTARTING: Attempt = Attempt::Void("the Engine restarts it");
const STARTED: Attempt = Attempt::Void("someone else started it meanwhile");

/// Of a container that was or may be stopped. `Done` means: start it.
///
/// One that has ended after a stop the Engine confirmed is started whatever
/// became of it in between: it ran when the job came.
pub(super) fn stopped(quiesced: &QuiescedContainer, seen: Option<&Container>, outcome: Outcome) -> Attempt {
    let Some(container) = seen else { return REMOVED };
    let same_run = container.started_at == quiesced.started_at;
    let limit = act_limit(&CleanupAction::Start(quiesced.clone()));
    match (container.state, outcome) {
        (ContainerState::Removing | ContainerState::Dead, _) => GOING,
        (ContainerState::Unknown, _) => Attempt::NotYet,
        (ContainerState::Exited | ContainerState::Created, _)
            if outcome == Outcome::Confirmed
                || same_run
                || is_within(quiesced, &container.finished_at, limit) =>
        {
            Attempt::Done
        }
        // The states below say something only once the act is over.
        (_, Outcome::Open) => Attempt::NotYet,
        (ContainerState::Exited | ContainerState::Created, _) => {
            Attempt::Left("someone else started it meanwhile and it ended later")
        }
        (ContainerState::Restarting, _) => RESTARTING,
        (ContainerState::Paused, _) => Attempt::Left("someone else paused it"),
        (ContainerState::Running, _) if same_run => Attempt::Void("it was not stopped"),
        (ContainerState::Running, _) => STARTED,
    }
}

/// Of a container that was or may be paused. `Done` means: unpause it.
///
/// One that ended while it was paused was ended by somebody else.
pub(super) fn paused(quiesced: &QuiescedContainer, seen: Option<&Container>, outcome: Outcome) -> Attempt {
    let Some(container) = seen else { return REMOVED };
    let same_run = container.started_at == quiesced.started_at;
    let limit = act_limit(&CleanupAction::Unpause(quiesced.clone()));
    match (container.state, outcome) {
        (ContainerState::Removing | ContainerState::Dead, _) => GOING,
        (ContainerState::Unknown, _) => Attempt::NotYet,
        (ContainerState::Paused, _) if same_run => Attempt::Done,
        // The start time is that of after our pause: this pause is another one.
        (ContainerState::Paused, _) if quiesced.confirmed => {
            Attempt::Left("someone else restarted and paused it")
        }
        (ContainerState::Paused, Outcome::Confirmed) => Attempt::Done,
        (ContainerState::Paused, _) if is_within(quiesced, &container.started_at, limit) => Attempt::Done,
        (_, Outcome::Open) => Attempt::NotYet,
        (ContainerState::Paused, _) => Attempt::Left("someone else restarted and paused it"),
        (ContainerState::Exited | ContainerState::Created, _) => Attempt::Left("it ended meanwhile"),
        (ContainerState::Restarting, _) => RESTARTING,
        (ContainerState::Running, _) if same_run => Attempt::Void("it is not paused"),
        (ContainerState::Running, _) => STARTED,
    }
}

/// Whether the Engine's time lies before the end of the time in which the act
/// could take effect. Entries of older agents do not tell when they were written.
fn is_within(quiesced: &QuiescedContainer, engine_time: &str, limit: std::time::Duration) -> bool {
    let Ok(at) = chrono::DateTime::parse_from_rfc3339(engine_time) else { return false };
    let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let earliest = quiesced.written_unix_ms;
    earliest > 0 && (earliest..=earliest.saturating_add(limit_ms)).contains(&at.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::JobId;

    use super::*;
    use crate::engine::fake::container;

    /// 2026-11-24 10:00:00 UTC.
    const WRITTEN: i64 = 1_795_514_400_000;
    const BEFORE: &str = "2026-11-24T09:00:00Z";
    const DURING: &str = "2026-11-24T10:00:01Z";
    const LATER: &str = "2026-11-25T10:00:00Z";

    fn quiesced(confirmed: bool) -> QuiescedContainer {
        QuiescedContainer {
            job: JobId::generate(),
            container: "c".to_owned(),
            name: "c".to_owned(),
            started_at: BEFORE.to_owned(),
            stop_timeout_seconds: 10,
            written_unix_ms: WRITTEN,
            confirmed,
        }
    }

    fn seen(state: ContainerState, started_at: &str, finished_at: &str) -> Container {
        let mut container = container("c");
        container.state = state;
        container.started_at = started_at.to_owned();
        container.finished_at = finished_at.to_owned();
        container
    }

    #[test]
    fn h02_what_our_confirmed_stop_ended_is_started_whatever_its_start_time_says() {
        for started_at in [BEFORE, DURING, LATER] {
            let container = seen(ContainerState::Exited, started_at, LATER);
            assert_eq!(stopped(&quiesced(true), Some(&container), Outcome::Confirmed), Attempt::Done);
        }
    }

    #[test]
    fn h02_a_restart_between_the_look_and_a_stop_nobody_saw_the_end_of_is_ours() {
        let container = seen(ContainerState::Exited, DURING, "2026-11-24T10:00:11Z");
        for outcome in [Outcome::Open, Outcome::Over] {
            assert_eq!(stopped(&quiesced(false), Some(&container), outcome), Attempt::Done);
        }
        // Ended long after the stop could have done it: by somebody else.
        let container = seen(ContainerState::Exited, DURING, LATER);
        assert!(matches!(stopped(&quiesced(false), Some(&container), Outcome::Over), Attempt::Left(_)));
        let old = QuiescedContainer { written_unix_ms: 0, ..quiesced(false) };
        let container = seen(ContainerState::Exited, DURING, "2026-11-24T10:00:11Z");
        assert!(matches!(stopped(&old, Some(&container), Outcome::Over), Attempt::Left(_)));
    }

    #[test]
    fn h02_a_container_that_runs_is_no_answer_while_the_act_is_open() {
        for started_at in [BEFORE, DURING] {
            for state in [ContainerState::Running, ContainerState::Restarting] {
                let container = seen(state, started_at, BEFORE);
                assert_eq!(stopped(&quiesced(false), Some(&container), Outcome::Open), Attempt::NotYet);
                assert_eq!(paused(&quiesced(false), Some(&container), Outcome::Open), Attempt::NotYet);
                for judge in [stopped, paused] {
                    let judged = judge(&quiesced(false), Some(&container), Outcome::Over);
                    assert!(matches!(judged, Attempt::Void(_)), "{judged:?}");
                }
            }
        }
    }

    #[test]
    fn h02_our_own_pause_is_told_from_another_one() {
        let paused_at = |started_at| seen(ContainerState::Paused, started_at, BEFORE);
        // Restarted between the look and the pause.
        assert_eq!(paused(&quiesced(false), Some(&paused_at(DURING)), Outcome::Confirmed), Attempt::Done);
        assert_eq!(paused(&quiesced(false), Some(&paused_at(DURING)), Outcome::Over), Attempt::Done);
        assert_eq!(paused(&quiesced(true), Some(&paused_at(BEFORE)), Outcome::Confirmed), Attempt::Done);
        for (entry, outcome) in [(quiesced(true), Outcome::Confirmed), (quiesced(false), Outcome::Over)] {
            let judged = paused(&entry, Some(&paused_at(LATER)), outcome);
            assert!(matches!(judged, Attempt::Left(_)), "{judged:?}");
        }
    }

    #[test]
    fn d03_what_was_removed_or_ended_by_somebody_else_is_left_and_not_called_resumed() {
        for judge in [stopped, paused] {
            assert_eq!(judge(&quiesced(true), None, Outcome::Confirmed), REMOVED);
            let going = seen(ContainerState::Removing, BEFORE, LATER);
            assert_eq!(judge(&quiesced(true), Some(&going), Outcome::Confirmed), GOING);
        }
        let ended = seen(ContainerState::Exited, BEFORE, LATER);
        assert!(matches!(paused(&quiesced(true), Some(&ended), Outcome::Confirmed), Attempt::Left(_)));
    }
}
