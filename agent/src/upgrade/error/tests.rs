use std::io;
use std::path::PathBuf;

use super::*;
use crate::clone::CloneError;
use crate::engine::EngineErrorKind;
use crate::upgrade::guards::Loss;

fn away() -> EngineError {
    EngineError::new(EngineErrorKind::Unreachable, "nobody answers")
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(13)
}

/// Code and sentence, as they are kept in records and sent to controllers of
/// other versions.
fn recorded(error: impl Into<UpgradeError>) -> (ErrorCode, String) {
    let RecordedFailure { code, message } = RecordedFailure::from(&error.into());
    (code, message)
}

#[track_caller]
fn expect(error: impl Into<UpgradeError>, code: ErrorCode, message: &str) {
    assert_eq!(recorded(error), (code, message.to_owned()));
}

#[test]
fn what_is_recorded_names_the_causes_once() {
    let path = || "/v/.holdfast".to_owned();
    let cloned = CloneError::Io { path: path(), action: "read", source: denied() };
    expect(
        DataError::NotCloned(cloned),
        ErrorCode::CloneFailed,
        "the data could not be cloned: /v/.holdfast could not be read: Permission denied (os error 13)",
    );
    let stays = CloneError::Io { path: path(), action: "removed", source: denied() };
    expect(
        DataError::CloneStays { clone: PathBuf::from("/v/clone"), source: stays },
        ErrorCode::CloneStays,
        "/v/clone could not be removed: /v/.holdfast could not be removed: Permission denied (os error 13)",
    );
    expect(
        DataError::NotExchanged(CloneError::Io { path: path(), action: "exchanged", source: denied() }),
        ErrorCode::ExchangeFailed,
        "/v/.holdfast could not be exchanged: Permission denied (os error 13)",
    );
    expect(
        DataError::Unreadable { path: PathBuf::from("/v/data"), source: denied() },
        ErrorCode::Unreadable,
        "the data at /v/data cannot be reached: Permission denied (os error 13)",
    );
}

#[test]
fn what_wraps_another_error_says_it_after_its_own_words() {
    expect(
        HandOverError::NotStarted(Box::new(away().into())),
        ErrorCode::Helper,
        "the helper container could not be started: nobody answers",
    );
    let stopped = UpgradeError::from(Disturbed::Started { container: "db".to_owned() });
    expect(
        UpgradeError::NothingWentBack(Box::new(stopped)),
        ErrorCode::Disturbed,
        "nothing went back and everything runs as before: container `db` was started by somebody else while it had to stay quiesced",
    );
    let left = RecreateError::Left { name: "db".to_owned(), cause: "no network".to_owned(), source: away() };
    expect(
        UpgradeError::OldNotMade(left),
        ErrorCode::CreateFailed,
        "container `db` was only half made (no network) and could not be removed again: remove it by hand",
    );
}

#[test]
fn an_engine_that_is_away_is_waited_for_only_for_what_has_to_come_back() {
    assert!(UpgradeError::from(away()).is_engine_away());
    assert!(UpgradeError::OldNotMade(away().into()).is_engine_away());
    assert!(!UpgradeError::NewNotMade(away().into()).is_engine_away());
    assert!(!UpgradeError::Cancelled.is_engine_away());
}

#[test]
fn lists_are_said_in_one_sentence() {
    expect(
        Disturbed::ExternalWriters { containers: vec!["a".to_owned(), "b".to_owned()] },
        ErrorCode::Disturbed,
        "`a`, `b` uses the same data by now: stop it first",
    );
    expect(
        BeginError::NotRunnable { problems: vec!["one".to_owned(), "two".to_owned()] },
        ErrorCode::NotRunnable,
        "one; two",
    );
    let loss = Loss::new("writable-layer", "3 files");
    expect(
        ChangedMeanwhile::Written { container: "db".to_owned(), loss },
        ErrorCode::PlanChanged,
        "since the plan was made `db` wrote outside its mounts, and nothing was stopped: 3 files (allow it as `writable-layer`)",
    );
    for (printed, said) in [("", ""), ("no", ": its check says `no`")] {
        expect(
            NotWell::Unhealthy { printed: printed.to_owned() },
            ErrorCode::Unhealthy,
            &format!("the new container is unhealthy{said}"),
        );
    }
}

#[test]
fn an_order_to_cancel_is_the_reason_of_whatever_failed() {
    let cancel = Cancel::default();
    assert_eq!(UpgradeError::Busy.unless_cancelled(&cancel).code(), ErrorCode::Busy);
    cancel.cancel(CancelReason::Asked);
    assert_eq!(UpgradeError::Busy.unless_cancelled(&cancel).code(), ErrorCode::Cancelled);
}

#[test]
fn an_upgrade_that_is_not_committed_is_named_with_its_state() {
    let name = || "db".to_owned();
    for (error, words) in [
        (NotCommitted::UnderWay { name: name() }, "is under way"),
        (
            NotCommitted::Finishing { name: name() },
            "is ending its grace period: there is no way back any more",
        ),
        (
            NotCommitted::Finished { name: name() },
            "has ended its grace period: the old container and the clone are gone",
        ),
        (NotCommitted::RolledBack { name: name() }, "was rolled back already"),
    ] {
        assert_eq!(error.code(), ErrorCode::Conflict);
        expect(error, ErrorCode::NotFound, &format!("the upgrade of `db` {words}"));
    }
    let unknown = NotCommitted::Unknown { name: name() };
    assert_eq!(unknown.code(), ErrorCode::NotFound);
    assert_eq!(unknown.to_string(), "no upgrade `db` is known here: holdfast upgrade status lists them");
}
