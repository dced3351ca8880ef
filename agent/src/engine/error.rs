//! What can go wrong between the agent and the Engine, sorted by what a caller
//! does about it. The Engine's own words are kept: they name the object.

use std::io;
use std::path::Path;

use holdfast_proto::ErrorCode;

/// A request the Engine did not fulfil.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    kind: EngineErrorKind,
    message: String,
}

/// What a caller can do about an [`EngineError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// No object of that name.
    NotFound,
    /// The object is in use, or exists with other settings.
    Conflict,
    /// The request itself is wrong; repeating it will not help.
    Invalid,
    /// The socket or the Engine refuses this process.
    Permission,
    /// Nothing answers on the socket, or the connection broke.
    Unreachable,
    /// The Engine accepted the request and did not answer in time.
    Timeout,
    /// The Engine speaks no API version this agent speaks.
    Unsupported,
    /// The Engine tried and failed.
    Failed,
}

/// In the Engine's words for a volume driver that did not do what it was asked.
const DRIVER_CALL: &str = "/VolumeDriver.";

const DRIVER_REMEDY: &str = "; its volume driver does not answer: start it again on this host, as a plugin \
                             (docker plugin ls) or as the service it is";

impl EngineErrorKind {
    /// The error code for what the Engine did not do.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NotFound,
            Self::Conflict => ErrorCode::Conflict,
            Self::Invalid => ErrorCode::InvalidRequest,
            Self::Permission => ErrorCode::EnginePermission,
            Self::Unreachable => ErrorCode::EngineUnreachable,
            Self::Timeout => ErrorCode::EngineTimeout,
            Self::Unsupported => ErrorCode::EngineUnsupported,
            Self::Failed => ErrorCode::EngineFailed,
        }
    }
}

impl EngineError {
    pub(crate) fn new(kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> EngineErrorKind {
        self.kind
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind == EngineErrorKind::NotFound
    }

    pub(super) fn timeout(operation: &str, seconds: u64) -> Self {
        let message =
            format!("the Docker Engine did not answer within {seconds} s when asked to {operation}");
        Self::new(EngineErrorKind::Timeout, message)
    }

    pub(super) fn from_bollard(operation: &str, socket: &Path, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::answered(operation, status_code, message.trim())
            }
            Error::IOError { err } => Self::io(operation, socket, &err),
            Error::HyperResponseError { err } => {
                let message = format!(
                    "the connection to the Docker Engine at {} broke when asked to {operation}: {err}",
                    socket.display()
                );
                Self::new(EngineErrorKind::Unreachable, message)
            }
            Error::RequestTimeoutError => {
                let message = format!("the Docker Engine did not answer in time when asked to {operation}");
                Self::new(EngineErrorKind::Timeout, message)
            }
            other => {
                let message = format!("the Docker Engine's answer to {operation} makes no sense: {other}");
                Self::new(EngineErrorKind::Failed, message)
            }
        }
    }

    fn answered(operation: &str, status_code: u16, message: &str) -> Self {
        let kind = match status_code {
            400 if message.contains("client version") => EngineErrorKind::Unsupported,
            400 | 405 | 406 | 413 | 422 => EngineErrorKind::Invalid,
            401 | 403 => EngineErrorKind::Permission,
            404 => EngineErrorKind::NotFound,
            409 => EngineErrorKind::Conflict,
            503 => EngineErrorKind::Unreachable,
            _ => EngineErrorKind::Failed,
        };
        let remedy = if message.contains(DRIVER_CALL) { DRIVER_REMEDY } else { "" };
        Self::new(kind, format!("the Docker Engine could not {operation}: {message}{remedy}"))
    }

    fn io(operation: &str, socket: &Path, error: &io::Error) -> Self {
        let socket = socket.display();
        if error.kind() == io::ErrorKind::PermissionDenied {
            let message = format!(
                "this agent may not open the Docker Engine's socket {socket} to {operation}: {error}"
            );
            return Self::new(EngineErrorKind::Permission, message);
        }
        let message = format!("the Docker Engine at {socket} cannot be reached to {operation}: {error}");
        Self::new(EngineErrorKind::Unreachable, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(status_code: u16, message: &str) -> EngineErrorKind {
        EngineError::answered("test", status_code, message).kind()
    }

    #[test]
    fn answers_are_sorted_by_what_a_caller_can_do() {
        assert_eq!(kind_of(404, "no such volume"), EngineErrorKind::NotFound);
        assert_eq!(kind_of(409, "volume is in use"), EngineErrorKind::Conflict);
        assert_eq!(kind_of(400, "client version 1.53 is too new"), EngineErrorKind::Unsupported);
        assert_eq!(kind_of(400, "bad name"), EngineErrorKind::Invalid);
        assert_eq!(kind_of(500, "it broke"), EngineErrorKind::Failed);
    }

    #[test]
    fn d07_a_driver_that_does_not_answer_is_named_with_what_to_do() {
        let words = "get v: error while checking if volume \"v\" exists in driver \"shelf\": Post \"http://%2Frun%2Fdocker%2Fplugins%2Fshelf.sock/VolumeDriver.Get\": dial unix /run/docker/plugins/shelf.sock: connect: connection refused";
        let error = EngineError::answered("inspect volume `v`", 500, words);
        assert_eq!(error.kind(), EngineErrorKind::Failed);
        let text = error.to_string();
        assert!(text.contains("in driver \"shelf\"") && text.contains("start it again"), "{text}");
    }

    #[test]
    fn an_unopened_socket_is_named_with_its_cause() {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = EngineError::io("list volumes", Path::new("/run/docker.sock"), &cause);
        assert_eq!(error.kind(), EngineErrorKind::Permission);
        assert!(error.to_string().contains("/run/docker.sock"), "{error}");
        let cause = io::Error::from(io::ErrorKind::NotFound);
        let error = EngineError::io("list volumes", Path::new("/run/docker.sock"), &cause);
        assert_eq!(error.kind(), EngineErrorKind::Unreachable);
    }
}
