//! What went wrong, for programs: one list of error codes for agent,
//! controller and CLI, with the gRPC code and the hint that go with each.
//!
//! A code travels as text: with a `Status` in its metadata
//! ([`ERROR_CODE_METADATA`]), and in the messages that tell how a job ended. A
//! peer of another version may send one that is not listed here; it is passed
//! on and shown as it came, and [`ErrorCode::parse`] gives nothing for it.
//! Sentences are for people and are never compared.

use strum::{EnumString, IntoStaticStr, VariantArray};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::{ERROR_CODE_METADATA, Exit, HINT_METADATA};

/// What an error is called for programs. A code that was released keeps its
/// meaning, and is never reused for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ErrorCode {
    // Who asks.
    Unauthenticated,
    TokenExpired,
    RoleTooLow,
    OutOfScope,
    /// A call that only hosts make, about themselves.
    AgentOnly,
    NotForwardable,
    CertificateRefused,
    JoinTokenInvalid,
    JoinTokenUsed,
    JoinTokenExpired,
    CsrInvalid,
    /// The agent's own settings forbid it.
    NotAllowed,
    /// The controller forbids it to a host.
    Denied,
    /// The other side refused, and said no more.
    Refused,
    /// The controller does not accept this host.
    Auth,

    // What is asked.
    InvalidRequest,
    InvalidName,
    InvalidLabel,
    MessageTooLarge,
    /// The two sides do not understand each other.
    Protocol,
    HostRequired,
    Ambiguous,
    NothingMatches,

    // What it is about.
    NotFound,
    Conflict,
    HostUnknown,
    HostRevoked,
    HostRetired,
    PolicyUnknown,
    JobUnknown,
    JobEnded,
    VolumeUnknown,
    VolumeExists,
    SourceUnknown,
    /// Still on its host, and so not to be retired.
    SourceThere,
    ContainerUnknown,
    PathUnknown,
    PlanUnknown,
    PlanExpired,
    PlanChanged,
    UpgradeUnknown,
    UpgradeNotUndoable,
    SnapshotHeld,

    // Who is out of reach.
    HostNotConnected,
    /// Not connected for as long as a job waits for it.
    HostUnreachable,
    HostTimeout,
    AgentUnreachable,
    AgentRefused,
    AgentMisbehaves,
    /// The controller, seen from an agent or from a command.
    Unreachable,
    EnginePermission,
    EngineUnreachable,
    EngineTimeout,
    EngineUnsupported,
    EngineFailed,
    StoreAuth,
    StoreNoBucket,
    StoreUnreachable,
    StoreThrottled,
    StoreClockSkew,
    StoreFull,
    StoreCorrupt,
    StoreRefused,
    StoreFailed,

    // What is busy or full.
    TooMany,
    TooMuch,
    QuotaExceeded,
    Draining,
    /// In a state in which it cannot be done.
    NotNow,
    Busy,
    RepositorySuspended,
    LeaseLost,
    /// Somebody else drives the job by now.
    StaleGeneration,
    /// The store did not take a pack; another allocation may do.
    UploadFailed,

    // Sources and targets on a host.
    VolumeNotReachable,
    VolumeReplaced,
    SourceReplaced,
    SourceEmpty,
    SourceMissing,
    SourceShrunk,
    /// Holdfast's own data, which it does not back up.
    HoldfastOwn,
    NotMounted,
    Unreadable,
    BaseUnreadable,
    Torn,
    /// The list of what was captured could not be made.
    Manifest,
    FramesMissing,
    TargetExists,
    TargetNotEmpty,
    TargetLost,
    NoSpace,
    WriteFailed,
    RefusedEntry,
    NotRepresentable,
    /// Of the snapshot, a frame or an object that is gone or not as it was.
    Damaged,
    /// Restored without what the repository has lost.
    NotWhole,
    Corrupt,

    // Quiesced containers.
    QuiesceFailed,
    WouldBeRemoved,
    WouldBeReplaced,
    NotResumed,
    /// Containers that an earlier job left quiesced have not resumed yet.
    CleanupPending,
    MaxDowntime,

    // Upgrades and their rollback.
    UpgradeRefused,
    UpgradeLosesData,
    UpgradeFailed,
    UpgradeLost,
    RollbackFailed,
    RolloutStopped,
    /// Rolled back because somebody asked for it.
    Asked,
    Abandoned,
    Changed,
    CloneFailed,
    CloneStays,
    CreateFailed,
    Dependent,
    Differs,
    Disturbed,
    ExchangeFailed,
    Exited,
    Helper,
    ImageNotThere,
    KeptLayer,
    NameTaken,
    NetworkGone,
    NoAgent,
    NotRunnable,
    OldGone,
    ProbeFailed,
    Record,
    Restarted,
    SnapshotAtStopFailed,
    SnapshotBeforeFailed,
    Spec,
    Unhealthy,
    /// Neither done nor undone: the agent goes on trying.
    Unsettled,
    VolumeGone,

    // How a job ended.
    BackupFailed,
    PruneFailed,
    Cancelled,
    Interrupted,
    /// The agent was stopped.
    Shutdown,
    /// Tried as often as jobs are.
    Attempts,
    Panic,
    Resources,

    // What a command finds by itself.
    Usage,
    Failed,
    Io,
    /// Nobody was there to ask.
    NotConfirmed,
    BadPolicy,
    /// A file with a secret that others may read or change.
    OpenSecret,
    ContextUnknown,
    SnapshotUnknown,
    NoRepository,
    /// `repo.json`, which says what a repository is.
    RepositoryInfo,
    WatchLost,

    // What failed inside.
    JournalFailed,
    ReadFailed,
    CatalogFailed,
    Internal,
}

impl ErrorCode {
    /// As it travels: in kebab case.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The code of that text; none where this version has no such code.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    /// Whether that text is this code.
    pub fn is(self, text: &str) -> bool {
        self.as_str() == text
    }

    /// The code that came with a status, where it is one of this version's.
    pub fn of(status: &Status) -> Option<Self> {
        error_code_text(status).and_then(Self::parse)
    }

    /// The one table from error codes to gRPC codes.
    pub fn grpc(self) -> Code {
        match self {
            Self::Unauthenticated | Self::TokenExpired | Self::CertificateRefused => Code::Unauthenticated,
            Self::RoleTooLow
            | Self::OutOfScope
            | Self::AgentOnly
            | Self::NotForwardable
            | Self::HostRevoked
            | Self::JoinTokenInvalid
            | Self::JoinTokenUsed
            | Self::JoinTokenExpired
            | Self::NotAllowed
            | Self::Denied
            | Self::Auth
            | Self::OpenSecret => Code::PermissionDenied,
            Self::InvalidRequest
            | Self::InvalidName
            | Self::InvalidLabel
            | Self::CsrInvalid
            | Self::HostRequired
            | Self::Ambiguous
            | Self::Usage
            | Self::NotConfirmed
            | Self::BadPolicy => Code::InvalidArgument,
            Self::MessageTooLarge => Code::OutOfRange,
            Self::NotFound
            | Self::HostUnknown
            | Self::PolicyUnknown
            | Self::JobUnknown
            | Self::VolumeUnknown
            | Self::SourceUnknown
            | Self::ContainerUnknown
            | Self::PathUnknown
            | Self::PlanUnknown
            | Self::UpgradeUnknown
            | Self::ImageNotThere
            | Self::ContextUnknown
            | Self::SnapshotUnknown
            | Self::NoRepository
            | Self::NothingMatches => Code::NotFound,
            Self::VolumeExists => Code::AlreadyExists,
            Self::HostNotConnected
            | Self::HostUnreachable
            | Self::AgentUnreachable
            | Self::Unreachable
            | Self::EngineUnreachable
            | Self::StoreUnreachable
            | Self::StoreThrottled
            | Self::StoreFailed
            | Self::Draining
            | Self::Shutdown
            | Self::WatchLost => Code::Unavailable,
            Self::HostTimeout | Self::EngineTimeout => Code::DeadlineExceeded,
            Self::Damaged | Self::StoreCorrupt | Self::Corrupt | Self::RepositoryInfo => Code::DataLoss,
            Self::TooMany | Self::TooMuch => Code::ResourceExhausted,
            Self::VolumeReplaced => Code::Aborted,
            Self::Cancelled => Code::Cancelled,
            Self::Protocol => Code::Unimplemented,
            Self::Failed | Self::Io => Code::Unknown,
            Self::EnginePermission
            | Self::EngineFailed
            | Self::JournalFailed
            | Self::ReadFailed
            | Self::CatalogFailed
            | Self::Panic
            | Self::Resources
            | Self::Internal => Code::Internal,
            Self::Refused
            | Self::Conflict
            | Self::HostRetired
            | Self::JobEnded
            | Self::SourceThere
            | Self::PlanExpired
            | Self::PlanChanged
            | Self::UpgradeNotUndoable
            | Self::SnapshotHeld
            | Self::AgentRefused
            | Self::AgentMisbehaves
            | Self::EngineUnsupported
            | Self::StoreAuth
            | Self::StoreNoBucket
            | Self::StoreClockSkew
            | Self::StoreFull
            | Self::StoreRefused
            | Self::QuotaExceeded
            | Self::NotNow
            | Self::Busy
            | Self::RepositorySuspended
            | Self::LeaseLost
            | Self::StaleGeneration
            | Self::UploadFailed
            | Self::VolumeNotReachable
            | Self::SourceReplaced
            | Self::SourceEmpty
            | Self::SourceMissing
            | Self::SourceShrunk
            | Self::HoldfastOwn
            | Self::NotMounted
            | Self::Unreadable
            | Self::BaseUnreadable
            | Self::Torn
            | Self::Manifest
            | Self::FramesMissing
            | Self::TargetExists
            | Self::TargetNotEmpty
            | Self::TargetLost
            | Self::NoSpace
            | Self::WriteFailed
            | Self::RefusedEntry
            | Self::NotRepresentable
            | Self::NotWhole
            | Self::QuiesceFailed
            | Self::WouldBeRemoved
            | Self::WouldBeReplaced
            | Self::NotResumed
            | Self::CleanupPending
            | Self::MaxDowntime
            | Self::UpgradeRefused
            | Self::UpgradeLosesData
            | Self::UpgradeFailed
            | Self::UpgradeLost
            | Self::RollbackFailed
            | Self::RolloutStopped
            | Self::Asked
            | Self::Abandoned
            | Self::Changed
            | Self::CloneFailed
            | Self::CloneStays
            | Self::CreateFailed
            | Self::Dependent
            | Self::Differs
            | Self::Disturbed
            | Self::ExchangeFailed
            | Self::Exited
            | Self::Helper
            | Self::KeptLayer
            | Self::NameTaken
            | Self::NetworkGone
            | Self::NoAgent
            | Self::NotRunnable
            | Self::OldGone
            | Self::ProbeFailed
            | Self::Record
            | Self::Restarted
            | Self::SnapshotAtStopFailed
            | Self::SnapshotBeforeFailed
            | Self::Spec
            | Self::Unhealthy
            | Self::Unsettled
            | Self::VolumeGone
            | Self::Attempts
            | Self::BackupFailed
            | Self::PruneFailed
            | Self::Interrupted => Code::FailedPrecondition,
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
            Self::JoinTokenInvalid | Self::JoinTokenUsed | Self::JoinTokenExpired => {
                "make another token: holdfast host token NAME"
            }
            Self::NotAllowed => {
                "the host's own settings decide: add it to `allow` in the agent's config.toml and restart the agent"
            }
            Self::HostRequired => "name a host with --host",
            Self::Ambiguous => "name the host as well: HOST/SOURCE",
            Self::HostUnknown => "holdfast host ls",
            Self::PolicyUnknown => "holdfast policy ls",
            Self::JobUnknown | Self::JobEnded => "holdfast job ls",
            Self::VolumeUnknown | Self::NothingMatches => "holdfast volume ls --host HOST",
            Self::VolumeExists => "choose another name with --as",
            Self::SourceUnknown | Self::SourceThere => "holdfast source ls --host HOST",
            Self::ContainerUnknown => "holdfast container ls --host HOST",
            Self::PathUnknown => "holdfast snapshot browse SNAPSHOT",
            Self::PlanUnknown | Self::PlanExpired | Self::PlanChanged => "holdfast upgrade plan CONTAINER",
            Self::UpgradeUnknown | Self::UpgradeNotUndoable => "holdfast upgrade status --host HOST",
            Self::SnapshotHeld => "holdfast snapshot release SNAPSHOT",
            Self::Damaged => "holdfast repo verify names everything that is affected",
            Self::HostNotConnected => "on the host: systemctl status holdfast-agent",
            Self::HostTimeout => "on the host: docker info; docker volume ls; docker plugin ls",
            Self::EnginePermission => {
                "run the agent as root or as a member of the group that owns the Engine's socket"
            }
            Self::EngineUnreachable => "on the host: systemctl status docker",
            Self::EngineTimeout => "on the host: docker info; an Engine that hangs has to be restarted",
            Self::EngineUnsupported => "upgrade Docker or the agent, whichever is older",
            Self::StoreAuth
            | Self::StoreNoBucket
            | Self::StoreUnreachable
            | Self::StoreThrottled
            | Self::StoreClockSkew
            | Self::StoreFull
            | Self::StoreCorrupt
            | Self::StoreRefused
            | Self::StoreFailed
            | Self::QuotaExceeded => "holdfast status",
            Self::RepositorySuspended => "on the controller: holdfast-controller reconcile",
            Self::JournalFailed => {
                "on the host: check that the agent's state directory is writable and not full"
            }
            Self::CatalogFailed | Self::Internal => "the controller's log has the cause",
            Self::Draining | Self::TooMany => "try again in a moment",
            _ => "",
        }
    }

    /// How a command ends that failed with it.
    pub fn exit(self) -> Exit {
        match self {
            // The store is out of reach as well where its bucket is not there
            // or its clock is another: whoever configured it knows it exists.
            Self::StoreNoBucket | Self::StoreClockSkew => Exit::Unreachable,
            Self::Interrupted => Exit::Interrupted,
            _ => Exit::of(self.grpc()),
        }
    }

    /// A status with this code and its own hint.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.status_with_hint(message, self.hint())
    }

    /// A status with this code and a hint made for the occasion.
    pub fn status_with_hint(self, message: impl Into<String>, hint: &str) -> Status {
        self.tag(Status::new(self.grpc(), message), hint)
    }

    /// Adds this code and a hint to a status.
    pub fn tag(self, mut status: Status, hint: &str) -> Status {
        status.metadata_mut().insert(ERROR_CODE_METADATA, MetadataValue::from_static(self.as_str()));
        // Metadata is ASCII; a hint that is not stays out rather than being mangled.
        if let Ok(hint) = MetadataValue::try_from(hint)
            && !hint.is_empty()
        {
            status.metadata_mut().insert(HINT_METADATA, hint);
        }
        status
    }
}

/// The error code that came with a status, of whatever version.
pub fn error_code_text(status: &Status) -> Option<&str> {
    status.metadata().get(ERROR_CODE_METADATA).and_then(|code| code.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_as_it_is_written() {
        for code in ErrorCode::VARIANTS {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
        assert_eq!(ErrorCode::HostUnknown.as_str(), "host-unknown");
        assert_eq!(ErrorCode::parse("of-another-version"), None);
    }

    #[test]
    fn a_status_carries_code_and_hint() {
        let status = ErrorCode::HostUnknown.status("host `web-3` is not known");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(ErrorCode::of(&status), Some(ErrorCode::HostUnknown));
        assert_eq!(status.metadata().get(HINT_METADATA).expect("hint"), "holdfast host ls");
        let status = ErrorCode::InvalidRequest.status("no");
        assert!(status.metadata().get(HINT_METADATA).is_none());
    }

    #[test]
    fn a_code_of_another_version_is_passed_on_as_it_came() {
        let mut status = Status::internal("of tomorrow");
        status.metadata_mut().insert(ERROR_CODE_METADATA, MetadataValue::from_static("of-tomorrow"));
        assert_eq!((ErrorCode::of(&status), error_code_text(&status)), (None, Some("of-tomorrow")));
    }

    #[test]
    fn hints_can_travel_as_metadata() {
        for code in ErrorCode::VARIANTS {
            assert!(MetadataValue::try_from(code.hint()).is_ok(), "{code:?}");
        }
    }

    /// Whoever asks for something that is out of reach or damaged is told by
    /// the exit code, whatever the gRPC code is.
    #[test]
    fn out_of_reach_damaged_and_not_found_have_their_exit_codes() {
        use ErrorCode::{
            AgentUnreachable, Corrupt, Damaged, EngineTimeout, EngineUnreachable, HostNotConnected,
            HostTimeout, HostUnreachable, NothingMatches, StoreClockSkew, StoreCorrupt, StoreFull,
            StoreNoBucket, StoreThrottled, StoreUnreachable, Unreachable, VolumeUnknown,
        };
        for code in [
            AgentUnreachable,
            EngineTimeout,
            EngineUnreachable,
            HostNotConnected,
            HostTimeout,
            HostUnreachable,
            StoreClockSkew,
            StoreNoBucket,
            StoreThrottled,
            StoreUnreachable,
            Unreachable,
        ] {
            assert_eq!(code.exit(), Exit::Unreachable, "{code:?}");
        }
        for code in [Corrupt, Damaged, StoreCorrupt] {
            assert_eq!(code.exit(), Exit::Damage, "{code:?}");
        }
        // A glob or a selector that matches nothing is as a name that nothing has.
        for code in [NothingMatches, VolumeUnknown] {
            assert_eq!(code.exit(), Exit::NotFound, "{code:?}");
        }
        assert_eq!(StoreFull.exit(), Exit::Failed);
    }
}
