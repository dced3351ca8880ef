//! What goes wrong, as a person reads it, and the exit code it ends with.

pub use holdfast_archive::text::causes as sentence;
use tonic::{Code, Status};

/// How a command ended. The numbers are part of the interface and printed by
/// `--help`.
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

/// An error with the thing, the cause and, where there is one, the next
/// command to try.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    /// Error code, for programs.
    pub code: String,
    pub message: String,
    /// Further lines, such as a list of problems.
    pub more: Vec<String>,
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, CliError>;

// === impl CliError ===

impl CliError {
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), more: Vec::new(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", message)
    }

    pub fn more(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.more.extend(lines);
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An I/O failure at `what`.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Failed,
        };
        Self::new(exit, "io", format!("{what}: {error}"))
    }
}

/// The one table from what a server answers to how the command ends.
fn exit_for(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::DataLoss => Exit::Damage,
        Code::Cancelled
        | Code::Unknown
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal => Exit::Failed,
    }
}

/// How something ends that failed with this error code, where the code says
/// more than that it failed.
pub fn exit_for_code(code: &str) -> Option<Exit> {
    match code {
        "agent-unreachable" | "engine-timeout" | "engine-unreachable" | "host-not-connected"
        | "host-timeout" | "host-unreachable" | "store-clock-skew" | "store-no-bucket"
        | "store-throttled" | "store-unreachable" | "unreachable" => Some(Exit::Unreachable),
        // What was to be read: its contents, its snapshot's own object, or an object that ends early.
        "damaged" | "corrupt" | "store-corrupt" => Some(Exit::Damage),
        _ => None,
    }
}

fn code_for(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid-argument",
        Code::DeadlineExceeded => "deadline-exceeded",
        Code::NotFound => "not-found",
        Code::AlreadyExists => "already-exists",
        Code::PermissionDenied => "permission-denied",
        Code::ResourceExhausted => "resource-exhausted",
        Code::FailedPrecondition => "failed-precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out-of-range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data-loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        let text =
            |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let message = if status.message().is_empty() {
            format!("the server answered `{}` and no more", code_for(status.code()))
        } else {
            status.message().to_owned()
        };
        let code = text(holdfast_proto::ERROR_CODE_METADATA);
        Self {
            exit: code.as_deref().and_then(exit_for_code).unwrap_or_else(|| exit_for(status.code())),
            code: code.unwrap_or_else(|| code_for(status.code()).to_owned()),
            message,
            more: Vec::new(),
            hint: text(holdfast_proto::HINT_METADATA),
        }
    }
}

impl From<holdfast_archive::store::StoreError> for CliError {
    fn from(error: holdfast_archive::store::StoreError) -> Self {
        use holdfast_archive::store::StoreErrorKind as Kind;
        let exit = match error.kind() {
            Kind::NotFound | Kind::NoBucket => Exit::NotFound,
            Kind::Auth | Kind::Refused => Exit::NotAllowed,
            Kind::Unreachable | Kind::Throttled | Kind::ClockSkew => Exit::Unreachable,
            Kind::Corrupt => Exit::Damage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.kind().code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    #[test]
    fn a_status_keeps_its_word_and_its_hint() {
        let mut metadata = MetadataMap::new();
        metadata.insert(holdfast_proto::ERROR_CODE_METADATA, "unknown-host".parse().expect("ascii"));
        metadata.insert(holdfast_proto::HINT_METADATA, "holdfast host ls".parse().expect("ascii"));
        let error =
            CliError::from(Status::with_metadata(Code::NotFound, "host `web-3` is not known", metadata));
        assert_eq!((error.exit, error.code.as_str()), (Exit::NotFound, "unknown-host"));
        assert_eq!(error.hint.as_deref(), Some("holdfast host ls"));
    }

    #[test]
    fn a_store_or_host_out_of_reach_has_its_exit_code_whatever_the_status() {
        for word in ["store-unreachable", "store-no-bucket", "host-unreachable", "unreachable"] {
            assert_eq!(exit_for_code(word), Some(Exit::Unreachable), "{word}");
        }
        let mut metadata = MetadataMap::new();
        metadata.insert(holdfast_proto::ERROR_CODE_METADATA, "store-no-bucket".parse().expect("ascii"));
        let status = Status::with_metadata(Code::FailedPrecondition, "no such bucket", metadata);
        assert_eq!(CliError::from(status).exit, Exit::Unreachable);
        assert_eq!(exit_for_code("store-full"), None);
    }

    #[test]
    fn an_empty_message_is_not_an_empty_line() {
        let error = CliError::from(Status::new(Code::Internal, ""));
        assert_eq!(error.message, "the server answered `internal` and no more");
    }
}
