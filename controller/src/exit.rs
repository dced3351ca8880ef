//! The exit codes of `holdfast-controller`: those of the CLI, as far as they
//! can come up.

use std::error::Error;

use holdfast_archive::store::{StoreError, StoreErrorKind};

use crate::repository::RepositoryError;

/// Whatever has no code of its own.
const FAILED: u8 = 1;
/// Something that should be there, or whole, is not.
pub const DAMAGE: u8 = 4;
const NOT_ALLOWED: u8 = 6;
/// The store is out of reach.
const UNREACHABLE: u8 = 7;

/// The code of a command that ends with this error.
pub fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = own_code(error) {
            return code;
        }
        next = error.source();
    }
    FAILED
}

fn own_code(error: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(of_store(error.kind()));
    }
    let boxed = error.downcast_ref::<Box<RepositoryError>>().map(|error| &**error);
    match error.downcast_ref::<RepositoryError>().or(boxed)? {
        RepositoryError::Store(error) => Some(of_store(error.kind())),
        RepositoryError::Damaged(_) => Some(DAMAGE),
        _ => None,
    }
}

fn of_store(kind: StoreErrorKind) -> u8 {
    match kind {
        // Whoever configured the place knows that it should be there.
        StoreErrorKind::NoBucket
        | StoreErrorKind::Unreachable
        | StoreErrorKind::Throttled
        | StoreErrorKind::ClockSkew => UNREACHABLE,
        StoreErrorKind::Corrupt => DAMAGE,
        StoreErrorKind::Auth | StoreErrorKind::Refused => NOT_ALLOWED,
        StoreErrorKind::NotFound | StoreErrorKind::Full | StoreErrorKind::Other => FAILED,
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
        let code = |error: anyhow::Error| exit_code(error.as_ref());
        assert_eq!(code(store(StoreErrorKind::Unreachable).into()), 7);
        assert_eq!(code(RepositoryError::from(store(StoreErrorKind::NoBucket)).into()), 7);
        assert_eq!(code(AppError::Store(store(StoreErrorKind::Throttled)).into()), 7);
        let rebuild = RepositoryError::from(store(StoreErrorKind::Unreachable));
        assert_eq!(code(InitError::Rebuild(Box::new(rebuild)).into()), 7);
        assert_eq!(code(RepositoryError::from(store(StoreErrorKind::Auth)).into()), 6);
        assert_eq!(code(RepositoryError::Damaged("repo.json".into()).into()), 4);
        assert_eq!(code(RepositoryError::Busy("not now".into()).into()), 1);
    }
}
