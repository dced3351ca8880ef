//! The clone made whole, with nobody on the data.

use crate::clone;
use crate::resume::blocking;
use crate::upgrade::UpgradeError;
use crate::upgrade::error::DataError;
use crate::upgrade::record::Identities;
use crate::upgrade::run::UpgradeRun;

/// Which tree is the original is on disk with the clone: from here on a rollback
/// can tell, however often they were exchanged.
pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let cancel = run.cancel();
    for (index, pass) in std::mem::take(&mut run.first_passes).into_iter().enumerate() {
        let source = run.record.sources[index].clone();
        let flag = cancel.flag();
        let whole = blocking(move || {
            clone::second_pass(&source.path, &source.clone, Some(pass), &flag)?;
            let original = clone::identity(&source.path)?;
            Ok(Identities { original, clone: clone::identity(&source.clone)? })
        });
        let whole = whole.await.map_err(DataError::NotCloned)?;
        run.record.sources[index].identities = Some(whole);
    }
    run.save().await
}
