//! Old and new change names.

use crate::failpoint::failpoint;
use crate::upgrade::UpgradeError;
use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    run.enter(State::Switching, "the new container takes the name and starts").await?;
    let last = run.record.members.len() - 1;
    run.set_aside(last).await?;
    failpoint("agent.upgrade.old-renamed");
    run.take_name(last).await
}

/// The upgraded one first: who names it finds by its name the old one.
pub(super) async fn undo(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for index in (0..run.record.members.len()).rev() {
        // The name is not free where the new one could not be removed.
        if run.problems.is_removed(index) {
            let named = run.give_name_back(index).await;
            let name = run.record.members[index].name.clone();
            run.problems.note(&name, named);
        }
    }
    Ok(())
}
