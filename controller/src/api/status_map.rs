//! The one table from what the controller's parts refuse and fail with to what
//! operators and agents meet: an error code, and with it a gRPC code and a hint.
//!
//! Messages name the thing; they never hold secrets.

use holdfast_archive::store::StoreErrorKind;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use tonic::Status;

use crate::catalog::CatalogError;
use crate::model::request::InvalidRequest;
use crate::operations::RequestError;
use crate::repository::RepositoryError;

/// For the log, a failing database is an error with all its causes; for the
/// caller it is one sentence.
pub fn catalog_failed(error: &CatalogError) -> Status {
    tracing::error!(error = %causes(error), "the catalogue failed");
    ErrorCode::CatalogFailed.status("the controller's catalogue failed")
}

/// Every error of the repository as agents and operators meet it.
pub fn repository_failed(error: RepositoryError) -> Status {
    let text = error.to_string();
    let code = match &error {
        RepositoryError::Catalog(error) => return catalog_failed(error),
        RepositoryError::Store(error) => store_code(error.kind()),
        RepositoryError::Id(_) | RepositoryError::Invalid(_) => ErrorCode::InvalidRequest,
        RepositoryError::Denied(_) => ErrorCode::Denied,
        RepositoryError::LeaseLost(_) => ErrorCode::LeaseLost,
        RepositoryError::Stale(_) => ErrorCode::StaleGeneration,
        RepositoryError::UploadFailed(_) => ErrorCode::UploadFailed,
        RepositoryError::TooMuch(_) => ErrorCode::TooMuch,
        RepositoryError::Quota(_) => ErrorCode::QuotaExceeded,
        RepositoryError::Held(_) => ErrorCode::SnapshotHeld,
        RepositoryError::Busy(_) => ErrorCode::NotNow,
        RepositoryError::Suspended(_) => ErrorCode::RepositorySuspended,
        RepositoryError::NotFound { .. } => {
            return ErrorCode::NotFound.status_with_hint(text, "holdfast snapshot ls");
        }
        RepositoryError::Ambiguous { .. } => ErrorCode::Ambiguous,
        RepositoryError::Damaged(_) => ErrorCode::Damaged,
    };
    code.status(text)
}

impl From<InvalidRequest> for Status {
    fn from(error: InvalidRequest) -> Self {
        ErrorCode::InvalidRequest.status(error.to_string())
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused { code, message, hint } => code.status_with_hint(message, &hint),
            RequestError::Host(answer) => *answer,
            RequestError::Catalog(error) => catalog_failed(&error),
            RequestError::Repository(error) => repository_failed(error),
        }
    }
}

/// The code of what a store did not do.
pub fn store_code(kind: StoreErrorKind) -> ErrorCode {
    match kind {
        // Of the repository itself: what callers name is looked for in the catalogue.
        StoreErrorKind::NotFound => ErrorCode::NotFound,
        StoreErrorKind::Auth => ErrorCode::StoreAuth,
        StoreErrorKind::NoBucket => ErrorCode::StoreNoBucket,
        StoreErrorKind::Unreachable => ErrorCode::StoreUnreachable,
        StoreErrorKind::Throttled => ErrorCode::StoreThrottled,
        StoreErrorKind::ClockSkew => ErrorCode::StoreClockSkew,
        StoreErrorKind::Full => ErrorCode::StoreFull,
        StoreErrorKind::Corrupt => ErrorCode::StoreCorrupt,
        StoreErrorKind::Refused => ErrorCode::StoreRefused,
        StoreErrorKind::Other => ErrorCode::StoreFailed,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_archive::store::StoreError;
    use tonic::Code;

    use super::*;

    #[test]
    fn an_object_that_is_short_is_lost_data_and_a_store_out_of_reach_is_not() {
        let answer = |kind| repository_failed(StoreError::new(kind, "packs/1").into());
        let short = answer(StoreErrorKind::Corrupt);
        assert_eq!(short.code(), Code::DataLoss);
        assert_eq!(ErrorCode::of(&short), Some(ErrorCode::StoreCorrupt));
        assert_eq!(answer(StoreErrorKind::Unreachable).code(), Code::Unavailable);
        assert_eq!(answer(StoreErrorKind::Auth).code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_request_that_means_nothing_is_an_invalid_one() {
        let answer = Status::from(InvalidRequest("name a target".into()));
        assert_eq!((answer.code(), answer.message()), (Code::InvalidArgument, "name a target"));
        assert_eq!(ErrorCode::of(&answer), Some(ErrorCode::InvalidRequest));
    }

    /// The offline commands and the agent say the same of a store.
    #[test]
    fn a_store_is_spoken_of_alike_everywhere() {
        use StoreErrorKind::{
            Auth, ClockSkew, Corrupt, Full, NoBucket, NotFound, Other, Refused, Throttled, Unreachable,
        };
        for kind in
            [Auth, ClockSkew, Corrupt, Full, NoBucket, NotFound, Other, Refused, Throttled, Unreachable]
        {
            assert_eq!(store_code(kind).as_str(), kind.code());
        }
    }
}
