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
    /// clone must never be taken for the data. From then on
    /// [`UpgradeError::NotAllRemoved`] is what it fails with.
    pub(super) async fn finish(&mut self) -> Result<(), UpgradeError> {
        self.record.set_state(State::Finishing);
        self.save().await?;
        failpoint("agent.upgrade.finish-begun");
        self.remove_kept().await.map_err(|error| UpgradeError::NotAllRemoved(Box::new(error)))
    }

    async fn remove_kept(&mut self) -> Result<(), UpgradeError> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use holdfast_proto::ErrorCode;

    use super::*;
    use crate::allow::Allow;
    use crate::engine::Engine;
    use crate::spec::Specs;
    use crate::upgrade::record::{Phase, Record, Store};
    use crate::upgrade::{Parts, RequestError, Upgrades};

    /// A record with everything in it, of an upgrade that was committed.
    fn committed() -> Record {
        let mut record: Record = serde_json::from_str(include_str!("record/golden/record-1.json")).unwrap();
        record.set_state(State::Committed);
        record.helper = None;
        record
    }

    fn upgrades(state: &Path) -> Upgrades {
        let engine = Engine::open(&state.join("no-engine.sock"));
        let parts = Parts::alone(engine.clone(), None, Specs::new(state, engine));
        Upgrades::open(state, Parts { allow: Allow::parse(["container"]).unwrap(), ..parts }).unwrap()
    }

    /// The Engine is away when the way back is given up: that takes effect, and
    /// whoever asked for it must not believe that a rollback is still possible.
    #[tokio::test]
    async fn a_commit_without_an_engine_says_that_it_took_effect() {
        let state = tempfile::tempdir().unwrap();
        let record = committed();
        Store::open(state.path()).unwrap().save(&record).unwrap();
        let upgrades = upgrades(state.path());
        let Err(RequestError::Failed(error)) = upgrades.commit("db").await else { panic!() };
        assert!(error.to_string().contains("there is no way back any more"), "{error}");
        assert_eq!(error.code(), ErrorCode::EngineUnreachable);
        assert_eq!(upgrades.list("db", None)[0].phase(), Phase::Finishing);
        // The loop goes on with it, and what is asked once more says the same.
        let again = upgrades.commit("db").await.unwrap_err().to_string();
        assert!(again.contains("there is no way back any more"), "{again}");
    }

    /// Nothing was written: the way back stays, and the error does not deny it.
    #[tokio::test]
    async fn a_commit_that_could_not_be_written_leaves_the_way_back() {
        let state = tempfile::tempdir().unwrap();
        Store::open(state.path()).unwrap().save(&committed()).unwrap();
        let upgrades = upgrades(state.path());
        std::fs::remove_dir_all(state.path().join("upgrades")).unwrap();
        let Err(RequestError::Failed(error)) = upgrades.commit("db").await else { panic!() };
        assert_eq!(error.code(), ErrorCode::Record, "{error}");
        assert!(!error.to_string().contains("no way back"), "{error}");
        assert_eq!(upgrades.list("db", None)[0].phase(), Phase::Committed);
    }
}
