//! The end of a grace period.

use crate::clone;
use crate::failpoint::failpoint;
use crate::resume::blocking;

use super::UpgradeError;
use super::error::DataError;
use super::record::State;
use super::run::UpgradeRun;

impl UpgradeRun<'_> {
    /// Ends a grace period: what a rollback would need goes. That there is no
    /// way back any more is on disk before the first of it goes: half of a
    /// clone must never be taken for the data.
    pub(super) async fn finish(&mut self) -> Result<(), UpgradeError> {
        self.record.set_state(State::Finishing);
        self.save().await?;
        failpoint("agent.upgrade.finish-begun");
        for member in self.record.members.clone() {
            if member.recreation.is_some() {
                self.context.engine.remove_container(&member.id).await?;
            }
        }
        failpoint("agent.upgrade.finish-old-removed");
        self.remove_stand_ins().await?;
        self.remove_kept_images().await?;
        for source in self.record.sources.clone() {
            let clone = source.clone.clone();
            let removed = blocking(move || clone::remove(&clone)).await;
            removed.map_err(|error| DataError::CloneStays { clone: source.clone, source: error })?;
        }
        self.enter(
            State::Finished,
            "the old container and the clone are gone; there is no way back from here",
        )
        .await
    }
}
