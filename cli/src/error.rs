//! What goes wrong, as a person reads it, and the exit code it ends with.

pub use holdfast_archive::text::causes as sentence;
use holdfast_proto::error_code::error_code_text;
pub use holdfast_proto::{ErrorCode, Exit};
use tonic::{Code, Status};

/// An error with the thing, the cause and, where there is one, the next
/// command to try.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    /// Error code, for programs: an [`ErrorCode`], or what a server of another
    /// version sent in its place.
    pub code: String,
    pub message: String,
    /// Further lines, such as a list of problems.
    pub more: Vec<String>,
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, CliError>;

// === impl CliError ===

impl CliError {
    /// Ends as its code says.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::ending(code.exit(), code.as_str(), message)
    }

    /// For a code of whatever version, and an end that goes by more than the code.
    pub fn ending(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { exit, code: code.into(), message: message.into(), more: Vec::new(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Usage, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Failed, message)
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
        Self::ending(exit, ErrorCode::Io.as_str(), format!("{what}: {error}"))
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
        let hint = status.metadata().get(holdfast_proto::HINT_METADATA);
        let message = if status.message().is_empty() {
            format!("the server answered `{}` and no more", code_for(status.code()))
        } else {
            status.message().to_owned()
        };
        // What is out of reach or damaged is so whatever the call was. For the rest
        // the gRPC code knows more: a conflict is another thing where one makes something.
        let exit = match ErrorCode::of(&status).map(ErrorCode::exit) {
            Some(exit @ (Exit::Unreachable | Exit::Damage)) => exit,
            _ => Exit::of(status.code()),
        };
        Self {
            exit,
            code: error_code_text(&status).unwrap_or_else(|| code_for(status.code())).to_owned(),
            message,
            more: Vec::new(),
            hint: hint.and_then(|hint| hint.to_str().ok()).map(str::to_owned),
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
        Self::ending(exit, error.kind().code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    #[test]
    fn a_status_keeps_its_word_and_its_hint() {
        let mut metadata = MetadataMap::new();
        metadata.insert(holdfast_proto::ERROR_CODE_METADATA, "host-unknown".parse().expect("ascii"));
        metadata.insert(holdfast_proto::HINT_METADATA, "holdfast host ls".parse().expect("ascii"));
        let error =
            CliError::from(Status::with_metadata(Code::NotFound, "host `web-3` is not known", metadata));
        assert_eq!((error.exit, error.code.as_str()), (Exit::NotFound, "host-unknown"));
        assert_eq!(error.hint.as_deref(), Some("holdfast host ls"));
    }

    #[test]
    fn a_store_or_host_out_of_reach_has_its_exit_code_whatever_the_status() {
        let mut metadata = MetadataMap::new();
        metadata.insert(holdfast_proto::ERROR_CODE_METADATA, "store-no-bucket".parse().expect("ascii"));
        let status = Status::with_metadata(Code::FailedPrecondition, "no such bucket", metadata);
        assert_eq!(CliError::from(status).exit, Exit::Unreachable);
    }

    #[test]
    fn an_empty_message_is_not_an_empty_line() {
        let error = CliError::from(Status::new(Code::Internal, ""));
        assert_eq!(error.message, "the server answered `internal` and no more");
    }
}
