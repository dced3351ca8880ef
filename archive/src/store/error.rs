//! What a store answers when it cannot do what was asked.
//!
//! Callers act on the kind alone; the text is for people and says what was
//! asked of which store, what came back and what to do about it. Everything
//! worth repeating has been repeated before one of these is returned.

use std::fmt;

use crate::pack_io::PackIoError;

/// What a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// Credentials unknown, wrong or without the permission.
    Auth,
    /// The bucket or the directory is not there.
    NoBucket,
    /// No connection, or one that died or stood still.
    Unreachable,
    /// Asked to slow down, for longer than we are willing to.
    Throttled,
    /// Our clock and the store's differ by more than it accepts.
    ClockSkew,
    /// No space left, or over quota.
    Full,
    /// Bytes did not arrive as they were sent, or the medium has lost them
    /// ([`StoreError::is_at_rest`]).
    Corrupt,
    /// The store will not do this, however often it is asked.
    Refused,
    /// Anything else: the store failed.
    Other,
}

impl StoreErrorKind {
    /// The error code of this kind.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Auth => "store-auth",
            Self::NoBucket => "store-no-bucket",
            Self::Unreachable => "store-unreachable",
            Self::Throttled => "store-throttled",
            Self::ClockSkew => "store-clock-skew",
            Self::Full => "store-full",
            Self::Corrupt => "store-corrupt",
            Self::Refused => "store-refused",
            Self::Other => "store-failed",
        }
    }

    /// Whether the same request may succeed a moment later. Bytes that arrive
    /// wrong are repeated as well, but only by the store itself and a few times
    /// (`retry`): what is `Corrupt` then stays so.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::Throttled | Self::Other => true,
            Self::NotFound
            | Self::Auth
            | Self::NoBucket
            | Self::ClockSkew
            | Self::Full
            | Self::Corrupt
            | Self::Refused => false,
        }
    }
}

/// A request to a store that failed.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    at_rest: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), at_rest: false, source: None }
    }

    pub(super) fn at_rest(mut self) -> Self {
        self.at_rest = true;
        self
    }

    pub(super) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    #[cfg(feature = "s3")]
    pub(super) fn of_kind(mut self, kind: StoreErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(super) fn after_attempts(mut self, attempts: u32) -> Self {
        if attempts > 1 {
            self.message = format!("{} (tried {attempts} times)", self.message);
        }
        self
    }

    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the medium has lost the bytes where they lie: what is `Corrupt`
    /// and not at rest may be whole and only have come wrong.
    pub fn is_at_rest(&self) -> bool {
        self.at_rest
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<StoreError> for PackIoError {
    fn from(error: StoreError) -> Self {
        Self {
            is_loss: matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Corrupt),
            code: error.kind.code(),
            message: error.message.clone(),
            source: Some(Box::new(error)),
        }
    }
}
