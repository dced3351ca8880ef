//! Every error an operator or agent can meet, in one table: the error code,
//! the gRPC code, and what to try next.
//!
//! A `Status` made here carries the word and the hint as metadata, so that the
//! CLI can choose an exit code and print the next command without reading
//! sentences. Messages name the thing; they never hold secrets.

use holdfast_archive::text::causes;
use holdfast_proto::{ERROR_CODE_METADATA, HINT_METADATA};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::catalog::CatalogError;

/// What an error is called for programs. Codes are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    Unauthenticated,
    TokenExpired,
    RoleTooLow,
    OutOfScope,
    AgentOnly,
    NotForwardable,
    CertificateRefused,
    HostRevoked,
    HostUnknown,
    HostRequired,
    HostNotConnected,
    HostTimeout,
    InvalidName,
    InvalidLabel,
    InvalidRequest,
    JoinTokenInvalid,
    JoinTokenUsed,
    JoinTokenExpired,
    CsrInvalid,
    MessageTooLarge,
    TooMany,
    Draining,
    PolicyUnknown,
    JobUnknown,
    JobEnded,
    VolumeUnknown,
    VolumeExists,
    SourceUnknown,
    SourceThere,
    ContainerUnknown,
    PlanUnknown,
    PlanExpired,
    PlanChanged,
    UpgradeRefused,
    UpgradeLosesData,
    UpgradeUnknown,
    UpgradeNotUndoable,
    NothingMatches,
    PathUnknown,
    Damaged,
    CatalogFailed,
    Internal,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token-expired",
            Self::RoleTooLow => "role-too-low",
            Self::OutOfScope => "out-of-scope",
            Self::AgentOnly => "agent-only",
            Self::NotForwardable => "not-forwardable",
            Self::CertificateRefused => "certificate-refused",
            Self::HostRevoked => "host-revoked",
            Self::HostUnknown => "host-unknown",
            Self::HostRequired => "host-required",
            Self::HostNotConnected => "host-not-connected",
            Self::HostTimeout => "host-timeout",
            Self::InvalidName => "invalid-name",
            Self::InvalidLabel => "invalid-label",
            Self::InvalidRequest => "invalid-request",
            Self::JoinTokenInvalid => "join-token-invalid",
            Self::JoinTokenUsed => "join-token-used",
            Self::JoinTokenExpired => "join-token-expired",
            Self::CsrInvalid => "csr-invalid",
            Self::MessageTooLarge => "message-too-large",
            Self::TooMany => "too-many",
            Self::Draining => "draining",
            Self::PolicyUnknown => "policy-unknown",
            Self::JobUnknown => "job-unknown",
            Self::JobEnded => "job-ended",
            Self::VolumeUnknown => "volume-unknown",
            Self::VolumeExists => "volume-exists",
            Self::SourceUnknown => "source-unknown",
            Self::SourceThere => "source-there",
            Self::ContainerUnknown => "container-unknown",
            Self::PlanUnknown => "plan-unknown",
            Self::PlanExpired => "plan-expired",
            Self::PlanChanged => "plan-changed",
            Self::UpgradeRefused => "upgrade-refused",
            Self::UpgradeLosesData => "upgrade-loses-data",
            Self::UpgradeUnknown => "upgrade-unknown",
            Self::UpgradeNotUndoable => "upgrade-not-undoable",
            Self::NothingMatches => "nothing-matches",
            Self::PathUnknown => "path-unknown",
            Self::Damaged => "damaged",
            Self::CatalogFailed => "catalog-failed",
            Self::Internal => "internal",
        }
    }

    pub fn code(self) -> Code {
        match self {
            Self::Unauthenticated | Self::TokenExpired | Self::CertificateRefused => Code::Unauthenticated,
            Self::RoleTooLow
            | Self::OutOfScope
            | Self::AgentOnly
            | Self::NotForwardable
            | Self::HostRevoked => Code::PermissionDenied,
            Self::HostUnknown
            | Self::PolicyUnknown
            | Self::JobUnknown
            | Self::VolumeUnknown
            | Self::SourceUnknown
            | Self::ContainerUnknown
            | Self::PlanUnknown
            | Self::UpgradeUnknown
            | Self::PathUnknown => Code::NotFound,
            Self::VolumeExists => Code::AlreadyExists,
            Self::JobEnded
            | Self::SourceThere
            | Self::NothingMatches
            | Self::PlanExpired
            | Self::PlanChanged
            | Self::UpgradeRefused
            | Self::UpgradeLosesData
            | Self::UpgradeNotUndoable => Code::FailedPrecondition,
            Self::Damaged => Code::DataLoss,
            Self::HostRequired
            | Self::InvalidName
            | Self::InvalidLabel
            | Self::InvalidRequest
            | Self::CsrInvalid => Code::InvalidArgument,
            Self::JoinTokenInvalid | Self::JoinTokenUsed | Self::JoinTokenExpired => Code::PermissionDenied,
            Self::HostNotConnected | Self::Draining => Code::Unavailable,
            Self::HostTimeout => Code::DeadlineExceeded,
            Self::MessageTooLarge => Code::OutOfRange,
            Self::TooMany => Code::ResourceExhausted,
            Self::CatalogFailed | Self::Internal => Code::Internal,
        }
    }

    /// What to try next; empty where only the message can say it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Unauthenticated => "name a token file with --token-file or in the context",
            Self::TokenExpired => {
                "ask an admin for a new one: holdfast-controller token create NAME --role ROLE"
            }
            Self::RoleTooLow => "ask an admin for a token of a higher role",
            Self::OutOfScope => "ask an admin for a token that is good for more hosts",
            Self::AgentOnly => "this call is made by hosts about themselves",
            Self::NotForwardable => "use `holdfast backup` or `holdfast restore`: these go through jobs",
            Self::CertificateRefused | Self::HostRevoked => {
                "holdfast host token NAME, then on the host: holdfast-agent join TOKEN-FILE"
            }
            Self::HostUnknown => "holdfast host ls",
            Self::PolicyUnknown => "holdfast policy ls",
            Self::JobUnknown | Self::JobEnded => "holdfast job ls",
            Self::VolumeUnknown | Self::NothingMatches => "holdfast volume ls --host HOST",
            Self::SourceUnknown | Self::SourceThere => "holdfast source ls --host HOST",
            Self::ContainerUnknown => "holdfast container ls --host HOST",
            Self::PlanUnknown | Self::PlanExpired | Self::PlanChanged => "holdfast upgrade plan CONTAINER",
            Self::UpgradeUnknown | Self::UpgradeNotUndoable => "holdfast upgrade status --host HOST",
            Self::VolumeExists => "choose another name with --as",
            Self::PathUnknown => "holdfast snapshot browse SNAPSHOT",
            Self::Damaged => "holdfast repo verify names everything that is affected",
            Self::HostRequired => "name a host with --host",
            Self::HostNotConnected => "on the host: systemctl status holdfast-agent",
            Self::HostTimeout => "on the host: docker info; docker volume ls; docker plugin ls",
            Self::JoinTokenInvalid | Self::JoinTokenUsed | Self::JoinTokenExpired => {
                "make another token: holdfast host token NAME"
            }
            Self::CatalogFailed | Self::Internal => "the controller's log has the cause",
            Self::Draining | Self::TooMany => "try again in a moment",
            Self::InvalidName
            | Self::InvalidLabel
            | Self::InvalidRequest
            | Self::CsrInvalid
            | Self::UpgradeRefused
            | Self::UpgradeLosesData
            | Self::MessageTooLarge => "",
        }
    }

    /// A status with this word and its own hint.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.status_with_hint(message, self.hint())
    }

    /// A status with this word and a hint made for the occasion.
    pub fn status_with_hint(self, message: impl Into<String>, hint: &str) -> Status {
        tagged(Status::new(self.code(), message), self.as_str(), hint)
    }
}

/// Adds an error code and a hint to a status.
pub fn tagged(mut status: Status, word: &'static str, hint: &str) -> Status {
    status.metadata_mut().insert(ERROR_CODE_METADATA, MetadataValue::from_static(word));
    // Metadata is ASCII; a hint that is not stays out rather than being mangled.
    if let Ok(hint) = MetadataValue::try_from(hint)
        && !hint.is_empty()
    {
        status.metadata_mut().insert(HINT_METADATA, hint);
    }
    status
}

/// For the log, a failing database is an error with all its causes; for the
/// caller it is one sentence.
pub fn catalog_failed(error: &CatalogError) -> Status {
    tracing::error!(error = %causes(error), "the catalogue failed");
    ErrorCode::CatalogFailed.status("the controller's catalogue failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_word_and_hint() {
        let status = ErrorCode::HostUnknown.status("host `web-3` is not known");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.metadata().get(ERROR_CODE_METADATA).expect("word"), "host-unknown");
        assert_eq!(status.metadata().get(HINT_METADATA).expect("hint"), "holdfast host ls");
        let status = ErrorCode::InvalidRequest.status("no");
        assert!(status.metadata().get(HINT_METADATA).is_none());
    }
}
