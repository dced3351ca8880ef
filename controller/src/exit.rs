//! How a command of `holdfast-controller` ends: as one of the CLI would.

use std::error::Error;

use holdfast_archive::store::{StoreError, StoreErrorKind};
use holdfast_proto::Exit;

use crate::repository::RepositoryError;

/// How a command ends that fails with this error.
pub fn exit_of(error: &(dyn Error + 'static)) -> Exit {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(exit) = own_exit(error) {
            return exit;
        }
        next = error.source();
    }
    Exit::Failed
}

fn own_exit(error: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(of_store(error.kind()));
    }
    let boxed = error.downcast_ref::<Box<RepositoryError>>().map(|error| &**error);
    match error.downcast_ref::<RepositoryError>().or(boxed)? {
        RepositoryError::Store(error) => Some(of_store(error.kind())),
        RepositoryError::Damaged(_) => Some(Exit::Damage),
        _ => None,
    }
}

fn of_store(kind: StoreErrorKind) -> Exit {
    match kind {
        // Whoever configured the place knows that it should be there.
        StoreErrorKind::NoBucket
        | StoreErrorKind::Unreachable
        | StoreErrorKind::Throttled
        | StoreErrorKind::ClockSkew => Exit::Unreachable,
        StoreErrorKind::Corrupt => Exit::Damage,
        StoreErrorKind::Auth | StoreErrorKind::Refused => Exit::NotAllowed,
        StoreErrorKind::NotFound | StoreErrorKind::Full | StoreErrorKind::Other => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppError;
    use crate::init::InitError;

    #[test]
    fn a_store_out_of_reach_has_its_code_however_deep_it_lies() {
        let store = |kind| StoreError::new(kind, "the bucket");
        let exit = |error: anyhow::Error| exit_of(error.as_ref());
        assert_eq!(exit(store(StoreErrorKind::Unreachable).into()), Exit::Unreachable);
        assert_eq!(exit(RepositoryError::from(store(StoreErrorKind::NoBucket)).into()), Exit::Unreachable);
        assert_eq!(exit(AppError::Store(store(StoreErrorKind::Throttled)).into()), Exit::Unreachable);
        let rebuild = RepositoryError::from(store(StoreErrorKind::Unreachable));
        assert_eq!(exit(InitError::Rebuild(Box::new(rebuild)).into()), Exit::Unreachable);
        assert_eq!(exit(RepositoryError::from(store(StoreErrorKind::Auth)).into()), Exit::NotAllowed);
        assert_eq!(exit(RepositoryError::Damaged("repo.json".into()).into()), Exit::Damage);
        assert_eq!(exit(RepositoryError::Busy("not now".into()).into()), Exit::Failed);
    }
}
