//! Where a rollout stands and what it does next. Pure: rows of children and
//! the time in, one move out.
//!
//! Each move is one that may be repeated: a child is made under a role of its
//! own, so whoever makes it again finds it.

use holdfast_proto::ids::JobId;

use crate::catalog::jobs::JobRecord;
use crate::model::job::parameters::RolloutParameters;
use crate::model::job::state::State;

/// Role of the child that upgrades a target. Kept in rows: it stays.
pub(super) fn upgrade_role(index: usize) -> String {
    format!("upgrade {index}")
}

/// Role of the child that undoes it.
pub(super) fn undo_role(index: usize) -> String {
    format!("undo {index}")
}

/// A child as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Child {
    id: JobId,
    state: State,
    ended_ms: i64,
}

/// Children by target.
#[derive(Debug, Clone)]
pub(super) struct Course {
    upgrades: Vec<Option<Child>>,
    undos: Vec<Option<Child>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin the upgrade of this target.
    Upgrade(usize),
    /// Begin to undo it.
    Undo(usize),
    /// Wait until one of these has ended.
    Await(Vec<JobId>),
    /// Wait until this time.
    Pause(i64),
    Done,
}

/// Containers by what became of them; those under way are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// And not undone.
    pub(super) upgraded: u32,
    pub(super) failed: u32,
    pub(super) undone: u32,
    pub(super) not_begun: u32,
}

impl Course {
    pub(super) fn of(rows: &[JobRecord], targets: usize) -> Self {
        let find = |role: String| {
            rows.iter().find(|row| row.role == role).map(|row| Child {
                id: row.id,
                state: row.state,
                ended_ms: row.ended_ms.unwrap_or_default(),
            })
        };
        Self {
            upgrades: (0..targets).map(|index| find(upgrade_role(index))).collect(),
            undos: (0..targets).map(|index| find(undo_role(index))).collect(),
        }
    }

    /// The job that upgraded a target.
    pub(super) fn upgrade(&self, index: usize) -> Option<JobId> {
        self.upgrades.get(index).copied().flatten().map(|child| child.id)
    }

    pub(super) fn under_way(&self) -> Vec<JobId> {
        running(self.upgrades.iter().chain(&self.undos))
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (upgrade, undo) in self.upgrades.iter().zip(&self.undos) {
            let undone = undo.is_some_and(|undo| undo.state == State::Succeeded);
            match upgrade {
                None => counts.not_begun += 1,
                Some(_) if undone => counts.undone += 1,
                Some(child) if child.state == State::Succeeded => counts.upgraded += 1,
                Some(child) if child.state.ended() => counts.failed += 1,
                Some(_) => {}
            }
        }
        counts
    }

    pub(super) fn next(&self, rollout: &RolloutParameters, now_ms: i64) -> Next {
        let batch = usize::try_from(rollout.batch.max(1)).unwrap_or(usize::MAX);
        // Before the next of a batch is begun as well, not at the end of the batch alone.
        if self.counts().failed > rollout.max_failures {
            return self.next_after_stop(rollout.undo, batch);
        }
        // The first batch that is not over decides. All is derived from the rows, so that a
        // controller that takes the job over comes to the same answer.
        let mut before_ms = None;
        for (number, members) in self.upgrades.chunks(batch).enumerate() {
            // From the end of the batch before, and only until this one has begun.
            if members.iter().flatten().count() == 0
                && let Some(ended_ms) = before_ms
            {
                let until = i64::from(rollout.pause_seconds).saturating_mul(1000).saturating_add(ended_ms);
                if now_ms < until {
                    return Next::Pause(until);
                }
            }
            if let Some(offset) = members.iter().position(Option::is_none) {
                return Next::Upgrade(number * batch + offset);
            }
            let running = running(members.iter());
            if !running.is_empty() {
                return Next::Await(running);
            }
            before_ms = members.iter().flatten().map(|child| child.ended_ms).max();
        }
        Next::Done
    }

    /// What is under way comes to its end; then the way back, newest first.
    fn next_after_stop(&self, undo: bool, batch: usize) -> Next {
        // An upgrade that is still under way may succeed, and then has to be undone first.
        let upgrading = running(self.upgrades.iter());
        if !upgrading.is_empty() {
            return Next::Await(upgrading);
        }
        let rolling_back = running(self.undos.iter());
        let due = self.upgrades.iter().zip(&self.undos).rposition(|(upgrade, undo)| {
            undo.is_none() && upgrade.is_some_and(|child| child.state == State::Succeeded)
        });
        match due {
            Some(index) if undo && rolling_back.len() < batch => Next::Undo(index),
            _ if !rolling_back.is_empty() => Next::Await(rolling_back),
            _ => Next::Done,
        }
    }
}

fn running<'c>(children: impl Iterator<Item = &'c Option<Child>>) -> Vec<JobId> {
    children.flatten().filter(|child| !child.state.ended()).map(|child| child.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(batch: u32, max_failures: u32, undo: bool) -> RolloutParameters {
        RolloutParameters { batch, max_failures, undo, pause_seconds: 10, ..RolloutParameters::default() }
    }

    fn child(state: State) -> Option<Child> {
        Some(Child { id: JobId::generate(), state, ended_ms: 1000 })
    }

    fn course(upgrades: &[Option<State>]) -> Course {
        Course {
            upgrades: upgrades.iter().map(|state| state.and_then(child)).collect(),
            undos: vec![None; upgrades.len()],
        }
    }

    const OK: Option<State> = Some(State::Succeeded);
    const BAD: Option<State> = Some(State::Failed);
    const ON: Option<State> = Some(State::Running);

    #[test]
    fn a_batch_is_begun_whole_and_awaited_whole_and_a_pause_follows() {
        let two = rollout(2, 0, false);
        assert_eq!(course(&[None, None, None]).next(&two, 0), Next::Upgrade(0));
        assert_eq!(course(&[ON, None, None]).next(&two, 0), Next::Upgrade(1));
        assert_eq!(course(&[OK, None, None]).next(&two, 0), Next::Upgrade(1));
        let waiting = course(&[OK, ON, None]);
        assert_eq!(waiting.next(&two, 0), Next::Await(waiting.under_way()));
        assert_eq!(course(&[OK, OK, None]).next(&two, 10_999), Next::Pause(11_000));
        assert_eq!(course(&[OK, OK, None]).next(&two, 11_000), Next::Upgrade(2));
        // Once a batch has begun there is no pause in it.
        assert_eq!(course(&[OK, OK, OK, None]).next(&two, 0), Next::Upgrade(3));
        assert_eq!(course(&[OK, OK, OK]).next(&two, 0), Next::Done);
        assert_eq!(course(&[]).next(&two, 0), Next::Done);
    }

    #[test]
    fn failures_beyond_the_limit_stop_it_and_the_way_back_is_the_newest_first() {
        let strict = rollout(1, 0, false);
        assert_eq!(course(&[OK, BAD, None]).next(&strict, 99_999), Next::Done);
        assert_eq!(course(&[OK, BAD, None]).next(&rollout(1, 1, false), 99_999), Next::Upgrade(2));
        // The limit is looked at within a batch as well.
        let beside = course(&[BAD, ON, None]);
        assert_eq!(beside.next(&rollout(3, 0, true), 0), Next::Await(beside.under_way()));
        let undo = rollout(1, 0, true);
        let mut stopped = course(&[OK, OK, BAD, None]);
        assert_eq!(stopped.next(&undo, 0), Next::Undo(1));
        stopped.undos[1] = child(State::Running);
        assert_eq!(stopped.next(&undo, 0), Next::Await(stopped.under_way()));
        assert_eq!(stopped.next(&rollout(2, 0, true), 0), Next::Undo(0));
        // One that cannot be undone does not keep the others.
        stopped.undos[1] = child(State::Failed);
        assert_eq!(stopped.next(&undo, 0), Next::Undo(0));
        stopped.undos[0] = child(State::Succeeded);
        assert_eq!(stopped.next(&undo, 0), Next::Done);
        let counts = Counts { upgraded: 1, failed: 1, undone: 1, not_begun: 1 };
        assert_eq!(stopped.counts(), counts);
    }
}
