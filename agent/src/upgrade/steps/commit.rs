//! The new container stays. Once this is on disk, the upgrade only goes forward.

use crate::upgrade::UpgradeError;
use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    run.enter(State::Committing, "the new container stays").await
}
