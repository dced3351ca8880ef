//! Every container has the restart policy it had. Idempotent: carried out again
//! after a crash.

use crate::upgrade::UpgradeError;
use crate::upgrade::run::UpgradeRun;

/// A container that its owner removed meanwhile is nothing to wait for.
pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for member in run.record.members.clone().iter().rev() {
        let id = member.recreation.as_ref().map_or(&member.id, |recreation| &recreation.new_id);
        // An Engine that restarted meanwhile has ended what has no policy yet.
        let started = if member.was_running { run.start(id).await } else { Ok(()) };
        let policy = run.set_policy(id, &member.restart_policy).await;
        run.problems.note(&member.name, started.and(policy));
    }
    run.settle()
}
