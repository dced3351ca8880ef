//! The steps of an upgrade: one file each, with what it does and what undoes it.
//! Whether one is done already is read from the record, here.
//!
//! The order forward, and why: the new container exists before anything stops, so
//! that what cannot be made costs nothing; restart policies are off before the
//! stop, so that an Engine that restarts in the middle starts neither old nor new
//! by itself; the clone is whole and on disk before the new container may touch
//! the data; that it was started is on disk before it is started. Names change
//! hands only while both are quiesced.
//!
//! [`super::executor`] carries them out. A test kills the agent after each, by the
//! fail point it is named with, and within those that do more than one thing.
//! Another operation that replaces containers is another list of steps.

mod await_snapshot;
mod commit;
mod copy_live;
mod copy_quiesced;
mod create;
mod dependents;
mod keep;
mod look_again;
mod quiesce;
mod restore_policies;
mod start;
mod switch;
mod verify;

use super::UpgradeError;
use super::run::UpgradeRun;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Makes the new container beside the old one.
    Create,
    /// Makes most of the clone while the data is in use.
    CopyLive,
    /// Keeps everybody else on this host from quiescing containers, and refuses
    /// what has changed since the plan.
    LookAgain,
    /// Stops everything that uses the data.
    Quiesce,
    /// Makes the clone whole.
    CopyQuiesced,
    /// Waits until the caller has its snapshots of the quiesced data.
    AwaitSnapshot,
    /// Gives the new container the name of the old one.
    Switch,
    /// Starts the new container.
    Start,
    /// Waits until it has shown that it is well.
    Verify,
    /// Starts what depends on it, recreated where it names the old one by id.
    Dependents,
    /// From here on it only goes forward.
    Commit,
    /// Gives every container the restart policy it had.
    RestorePolicies,
    /// Makes stand-ins for old containers that compose would take for its own.
    StandIns,
    /// Ends the upgrade; what a rollback needs is kept for the grace period.
    Keep,
}

impl Step {
    /// All, in the order they are carried out.
    pub(super) const ALL: [Self; 14] = [
        Self::Create,
        Self::CopyLive,
        Self::LookAgain,
        Self::Quiesce,
        Self::CopyQuiesced,
        Self::AwaitSnapshot,
        Self::Switch,
        Self::Start,
        Self::Verify,
        Self::Dependents,
        Self::Commit,
        Self::RestorePolicies,
        Self::StandIns,
        Self::Keep,
    ];

    /// Those that leave something behind, in the order they are undone, each with
    /// the fail point it ends at. This is not the reverse order: the new containers
    /// are ended before the data goes back, and gone before the old ones can have
    /// their names; what an old container may have to be made of, and a clone that
    /// by now may be the data that is given up, go last.
    pub(super) const UNDO: [(Self, &'static str); 6] = [
        (Self::Start, "agent.upgrade.undo-start"),
        (Self::Create, "agent.upgrade.undo-create"),
        (Self::Switch, "agent.upgrade.undo-switch"),
        (Self::Quiesce, "agent.upgrade.undo-quiesce"),
        (Self::StandIns, "agent.upgrade.undo-stand-ins"),
        (Self::CopyLive, "agent.upgrade.undo-copy-live"),
    ];

    /// Where an upgrade of the agent's own container is handed over.
    pub(super) fn before_quiesce() -> &'static [Self] {
        const END: usize = Step::position(Step::Quiesce);
        &Self::ALL[..END]
    }

    /// What is carried out again after a crash, once it has begun to commit.
    pub(super) fn after_commit() -> &'static [Self] {
        const BEGIN: usize = Step::position(Step::Commit) + 1;
        &Self::ALL[BEGIN..]
    }

    const fn position(step: Self) -> usize {
        let mut index = 0;
        while Self::ALL[index] as usize != step as usize {
            index += 1;
        }
        index
    }

    /// Where a test kills the agent when the step is done.
    pub(super) fn fail_point(self) -> &'static str {
        match self {
            Self::Create => "agent.upgrade.create",
            Self::CopyLive => "agent.upgrade.copy-live",
            Self::LookAgain => "agent.upgrade.look-again",
            Self::Quiesce => "agent.upgrade.quiesce",
            Self::CopyQuiesced => "agent.upgrade.copy-quiesced",
            Self::AwaitSnapshot => "agent.upgrade.await-snapshot",
            Self::Switch => "agent.upgrade.switch",
            Self::Start => "agent.upgrade.start",
            Self::Verify => "agent.upgrade.verify",
            Self::Dependents => "agent.upgrade.dependents",
            Self::Commit => "agent.upgrade.commit",
            Self::RestorePolicies => "agent.upgrade.restore-policies",
            Self::StandIns => "agent.upgrade.stand-ins",
            Self::Keep => "agent.upgrade.keep",
        }
    }

    /// Nothing is left to do: a helper finds the first steps done by the agent,
    /// and what does not run is neither started nor waited for.
    pub(super) fn is_done(self, run: &UpgradeRun<'_>) -> bool {
        let record = &run.record;
        match self {
            Self::Create => create::is_done(record),
            Self::CopyLive | Self::CopyQuiesced => record.sources.is_empty(),
            Self::LookAgain | Self::AwaitSnapshot => record.is_handed_over(),
            Self::Start | Self::Verify => !record.target().was_running,
            Self::Dependents => record.members.len() == 1,
            // Looked at within: what a crash interrupts may be half done.
            Self::Quiesce
            | Self::Switch
            | Self::Commit
            | Self::RestorePolicies
            | Self::StandIns
            | Self::Keep => false,
        }
    }

    /// Carries it out. The record has what undoes it before it is begun.
    ///
    /// # Errors
    /// With why the upgrade does not go on, or was cancelled.
    pub(super) async fn run(self, run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
        match self {
            Self::Create => create::run(run).await,
            Self::CopyLive => copy_live::run(run).await,
            Self::LookAgain => look_again::run(run).await,
            Self::Quiesce => quiesce::run(run).await,
            Self::CopyQuiesced => copy_quiesced::run(run).await,
            Self::AwaitSnapshot => await_snapshot::run(run).await,
            Self::Switch => switch::run(run).await,
            Self::Start => start::run(run).await,
            Self::Verify => verify::run(run).await,
            Self::Dependents => dependents::run(run).await,
            Self::Commit => commit::run(run).await,
            Self::RestorePolicies => restore_policies::run(run).await,
            Self::StandIns => run.put_stand_ins().await,
            Self::Keep => keep::run(run).await,
        }
    }

    /// Undoes it, however much of it was done. What the other steps did goes with
    /// what these undo.
    ///
    /// # Errors
    /// When it has to be tried again.
    pub(super) async fn undo(self, run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
        match self {
            Self::Start => start::undo(run).await,
            Self::Create => create::undo(run).await,
            Self::Switch => switch::undo(run).await,
            Self::Quiesce => quiesce::undo(run).await,
            Self::StandIns => run.undo_stand_ins().await,
            Self::CopyLive => copy_live::undo(run).await,
            // The lock goes with the run.
            Self::LookAgain
            // The clone goes as a whole.
            | Self::CopyQuiesced
            // Nothing was changed.
            | Self::AwaitSnapshot | Self::Verify
            // Its containers are members like the others.
            | Self::Dependents
            // Undone on request alone, as parts of the steps above.
            | Self::Commit | Self::RestorePolicies | Self::Keep => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::failpoint::NAMES;

    #[test]
    fn every_step_and_every_way_back_has_a_fail_point_of_its_own() {
        let points: Vec<&str> = Step::ALL.iter().map(|step| step.fail_point()).collect();
        let undone = Step::UNDO.iter().map(|(_, point)| *point);
        let all: HashSet<&str> = points.iter().copied().chain(undone).collect();
        assert_eq!(all.len(), Step::ALL.len() + Step::UNDO.len());
        for point in all {
            assert!(NAMES.contains(&point), "{point} is not in the list of fail points");
        }
    }

    #[test]
    fn the_parts_of_the_list_meet_at_the_stop_and_at_the_commit() {
        assert_eq!(Step::before_quiesce().last(), Some(&Step::LookAgain));
        assert_eq!(Step::after_commit().first(), Some(&Step::RestorePolicies));
        let undone: HashSet<usize> = Step::UNDO.iter().map(|(step, _)| *step as usize).collect();
        assert_eq!(undone.len(), Step::UNDO.len(), "each is undone once");
    }
}
