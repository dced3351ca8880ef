//! What has to be in order when a test of a fleet is over, whatever the test was
//! about: the invariants of CASES.md that can be asked of any fleet.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::snapshots::Snapshots;
use super::{Fleet, Host};
use crate::{invariant, wait};

/// What a test leaves on purpose.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    damage: AtomicBool,
    unsettled: AtomicBool,
}

impl Fleet {
    /// The test ends with a repository that is damaged, or another controller's:
    /// it is not looked at in the end.
    pub fn leaves_damage(&self) {
        self.leaves.damage.store(true, Relaxed);
    }

    /// The test ends in the middle of something: neither jobs nor hosts are
    /// looked at in the end.
    pub fn leaves_unsettled(&self) {
        self.leaves.unsettled.store(true, Relaxed);
    }

    /// Panics unless every job ends, no host has anything left to undo (I6), every
    /// snapshot that was acknowledged is listed (I2), the catalogue and the bucket
    /// agree (I3, I10), and every snapshot is whole (I1). Asks nothing of what the
    /// test has stopped: a controller that is down, a host whose agent is.
    pub(super) fn assert_in_order(&mut self) {
        if !self.is_answering() {
            return;
        }
        let all_agents_run = self.hosts.iter_mut().all(Host::agent_runs);
        if !self.leaves.unsettled.load(Relaxed) {
            if all_agents_run {
                self.wait_idle(60);
            }
            self.hosts.iter_mut().for_each(Host::assert_nothing_to_undo);
        }
        if !self.leaves.damage.load(Relaxed) {
            if all_agents_run && !self.leaves.unsettled.load(Relaxed) {
                let look = || self.snapshots_told_listed_and_stored().map(Snapshots::but_for_pruned);
                // A schedule may begin the next backup between two of the looks.
                let found = wait::settles(20, look, Snapshots::agree);
                match found {
                    Ok(_) => {}
                    Err(Ok(found)) => found.assert_agreement("the test"),
                    Err(Err(said)) => panic!("the snapshots cannot be listed: {said:?}"),
                }
            }
            self.assert_whole();
        }
    }
}

impl Host {
    /// Waits until the journal is empty and no holder is there (I6). Where the
    /// agent or the Engine is down, the next agent has that to do.
    fn assert_nothing_to_undo(&mut self) {
        if !self.agent_runs() || self.engine.try_docker(["version"]).is_err() {
            return;
        }
        let left = || {
            let mut left = self.journal();
            left.extend(
                self.engine
                    .try_docker(["ps", "-aq", "--filter", "name=holdfast-holder"])?
                    .lines()
                    .map(str::to_owned),
            );
            Ok::<_, String>(left)
        };
        let found = wait::settles(30, left, |left| left.is_empty());
        invariant!("I6", found.is_ok(), "{}: left when the test was over: {found:?}", self.name);
    }

    /// Everything in the agent's journal, an action each: what has to be undone.
    pub fn journal(&self) -> Vec<String> {
        let folder = std::fs::read_dir(self.state_dir().join("journal")).into_iter().flatten().flatten();
        // Gone between the listing and the reading: it was carried out.
        folder
            .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
            .filter(|text| !text.is_empty())
            .collect()
    }
}
