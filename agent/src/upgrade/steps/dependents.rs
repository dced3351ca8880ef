//! Those that need the new container, nearest first. One that lives in its
//! namespaces or uses its mounts names it by id, so it is recreated.

use crate::upgrade::UpgradeError;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for index in (0..run.record.members.len() - 1).rev() {
        let member = run.record.members[index].clone();
        if member.recreation.is_some() {
            run.make(index).await?;
            run.set_aside(index).await?;
            run.take_name(index).await?;
            if member.was_running {
                run.start_new(index).await?;
            }
        } else if member.was_running {
            run.context.engine.start_container(&member.id).await?;
        }
    }
    // Those that wait for it stood still for longer.
    if run.record.downtime_ms > 0 {
        run.record.downtime_ms = run.record.since_stop_ms();
    }
    Ok(())
}
