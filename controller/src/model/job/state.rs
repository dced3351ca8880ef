//! The states of a job and the ways between them.
//!
//! A job that waits for its host stays `running`: whoever drives it holds it
//! by owner and generation, and only that is handed on. So there is no way
//! back to `queued`, and no state from which an ended job could start again.

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Queued,
    Running,
    Succeeded,
    /// Every source ended; some snapshots are partial.
    Partial,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 6] =
        [State::Queued, State::Running, State::Succeeded, State::Partial, State::Failed, State::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    pub fn ended(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Partial | Self::Failed | Self::Cancelled => true,
        }
    }

    /// Whether a job may go from here to there.
    pub fn may_become(self, next: State) -> bool {
        match (self, next) {
            (Self::Queued, Self::Running | Self::Cancelled | Self::Failed) => true,
            (Self::Running, next) => next.ended(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_an_ended_state_and_nothing_returns_to_queued() {
        for from in State::ALL {
            for to in State::ALL {
                if from.ended() || to == State::Queued {
                    assert!(!from.may_become(to), "{from:?} to {to:?}");
                }
            }
        }
        assert!(State::Queued.may_become(State::Running));
        assert!(!State::Queued.may_become(State::Succeeded));
        assert!(State::Running.may_become(State::Partial));
    }

    #[test]
    fn names_go_both_ways() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.as_str()), Some(state));
        }
    }
}
