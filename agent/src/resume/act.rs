//! What is known of a pause or stop that was asked of the Engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::CleanupAction;

/// What an Engine may take beyond a container's stop timeout, and for a pause.
/// After its SIGKILL an Engine waits 10 s, kills once more and waits again,
/// because a process that is in uninterruptible sleep does not end by a signal.
const ACT_MARGIN: Duration = Duration::from_mins(1);

/// How the pause or stop that a journal entry is about went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The Engine may still be at it.
    Open,
    /// The Engine answered that it is done.
    Confirmed,
    /// It is over, and nobody knows whether it took effect.
    Over,
}

/// One pause or stop under way. Whoever waits for the Engine's answer shares
/// it with whoever resumes the container. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Act {
    begun: Instant,
    answer: Arc<Mutex<Option<Outcome>>>,
}

impl Act {
    /// One that begins now, or one that a process which died had begun.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), answer: Arc::default() }
    }

    /// For what is no pause or stop: there is nothing to wait for.
    pub fn over() -> Self {
        Self { begun: Instant::now(), answer: Arc::new(Mutex::new(Some(Outcome::Over))) }
    }

    pub fn answered(&self, outcome: Outcome) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// What is known by now. Without an answer it counts as over once no
    /// Engine can still be at it.
    pub fn outcome(&self, action: &CleanupAction) -> Outcome {
        self.outcome_after(action, self.begun.elapsed())
    }

    fn outcome_after(&self, action: &CleanupAction, elapsed: Duration) -> Outcome {
        let answer = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            // The journal counts before memory: after a restart it is all there is.
            _ if is_confirmed(action) => Outcome::Confirmed,
            Some(outcome) => outcome,
            None if elapsed > act_limit(action) => Outcome::Over,
            None => Outcome::Open,
        }
    }

    /// For how long it can still be open.
    pub fn open_for(&self, action: &CleanupAction) -> Duration {
        match self.outcome(action) {
            Outcome::Open => act_limit(action).saturating_sub(self.begun.elapsed()),
            Outcome::Confirmed | Outcome::Over => Duration::ZERO,
        }
    }
}

fn is_confirmed(action: &CleanupAction) -> bool {
    matches!(action, CleanupAction::Start(container) | CleanupAction::Unpause(container) if container.confirmed)
}

/// How long after it was begun an act may still take effect.
pub(super) fn act_limit(action: &CleanupAction) -> Duration {
    match action {
        CleanupAction::Start(container) => {
            Duration::from_secs(container.stop_timeout_seconds.into()) + ACT_MARGIN
        }
        _ => ACT_MARGIN,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::JobId;

    use super::*;
    use crate::journal::QuiescedContainer;

    fn stop(timeout_seconds: u32, confirmed: bool) -> CleanupAction {
        CleanupAction::Start(QuiescedContainer {
            job: JobId::generate(),
            container: "c".to_owned(),
            name: "c".to_owned(),
            started_at: String::new(),
            stop_timeout_seconds: timeout_seconds,
            written_unix_ms: 0,
            confirmed,
        })
    }

    #[test]
    fn h02_a_stop_without_an_answer_is_open_for_longer_than_an_engine_waits() {
        let (act, action) = (Act::begin(), stop(20, false));
        let after = |seconds| act.outcome_after(&action, Duration::from_secs(seconds));
        assert_eq!((after(0), after(20 + 30), after(20 + 61)), (Outcome::Open, Outcome::Open, Outcome::Over));
        let open_for = act.open_for(&action);
        assert!(open_for > Duration::from_secs(20 + 30) && open_for <= Duration::from_secs(20 + 60));
    }

    #[test]
    fn an_answer_is_seen_by_everyone_who_shares_the_act() {
        let (act, action) = (Act::begin(), stop(20, false));
        let shared = act.clone();
        act.answered(Outcome::Confirmed);
        assert_eq!((shared.outcome(&action), shared.open_for(&action)), (Outcome::Confirmed, Duration::ZERO));
        assert_eq!(Act::begin().outcome(&stop(20, true)), Outcome::Confirmed, "as the journal says");
        assert_eq!(Act::over().outcome(&action), Outcome::Over);
    }
}
