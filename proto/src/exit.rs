//! How a command of Holdfast ends, for scripts.

use std::process::ExitCode;

use tonic::Code;

/// The exit codes of `holdfast` and `holdfast-controller`. The numbers are part
/// of the interface and printed by `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// Done, but something needs attention: a partial snapshot, an unprotected source.
    Attention = 3,
    /// Stored data is damaged.
    Damage = 4,
    NotFound = 5,
    /// The caller may not do this.
    NotAllowed = 6,
    /// Controller, host or store out of reach.
    Unreachable = 7,
    /// Salvaged: the repository has lost something, and the rest is restored.
    Salvaged = 8,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The one table from what a server answers to how the command ends.
    pub fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Done,
            Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Self::NotAllowed,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable,
            Code::DataLoss => Self::Damage,
            Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal => Self::Failed,
        }
    }
}
