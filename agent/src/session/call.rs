//! One call on the data plane: which failures are worth another attempt, how
//! long between them, and what the last one is called.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_archive::backoff::Backoff;
use holdfast_archive::pack_io::PackIoError;
use holdfast_proto::error_code::error_code_text;
use holdfast_proto::v1::repository_service_client::RepositoryServiceClient;
use holdfast_proto::{ErrorCode, MAX_MESSAGE_BYTES};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cancel::{Cancel, CancelReason};
use crate::store_pin::StorePin;

/// The longest one attempt at a call may take. Transfers end by their own
/// stall limits long before.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15 * 60);

const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// A call the controller refused, or that could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the controller could not be made to {what}: {message}")]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    what: &'static str,
    message: String,
    again: bool,
}

/// A connection to the controller, and what this host keeps beside it.
#[derive(Debug, Clone)]
pub struct Line {
    pub channel: Channel,
    /// Where this host sends packs by itself.
    pub store: Option<Arc<StorePin>>,
}

#[derive(Debug, Clone)]
pub(super) struct Caller {
    channel: watch::Receiver<Option<Line>>,
    timeout: Duration,
    cancel: Cancel,
    retries: Arc<AtomicU64>,
}

impl Caller {
    pub(super) fn new(
        channel: watch::Receiver<Option<Line>>,
        timeout: Duration,
        cancel: Cancel,
        retries: Arc<AtomicU64>,
    ) -> Self {
        Self { channel, timeout, cancel, retries }
    }

    /// Calls until there is an answer, a refusal, no more time or a cancel.
    pub(super) async fn call<T, F>(
        &self,
        what: &'static str,
        mut request: impl FnMut(RepositoryServiceClient<Channel>) -> F,
    ) -> Result<T, PackIoError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut attempt = 0;
        loop {
            let refusal = match self.unless_cancelled(self.attempt(what, &mut request)).await? {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            // Looked at between attempts: one that is under way is not cut off by this.
            if !refusal.again || Instant::now() >= deadline {
                return Err(refusal.into());
            }
            tracing::debug!(%refusal, attempt, "call is made again");
            self.retries.fetch_add(1, Ordering::Relaxed);
            attempt += 1;
            self.pause(attempt).await?;
        }
    }

    /// One attempt, on the connection there is or the next one.
    pub(super) async fn attempt<T, F>(
        &self,
        what: &'static str,
        request: impl FnOnce(RepositoryServiceClient<Channel>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let unreachable = |message: &str| Refusal {
            code: ErrorCode::Unreachable,
            what,
            message: message.to_owned(),
            again: true,
        };
        let channel = match self.channel().await {
            Ok(Some(channel)) => channel,
            Ok(None) => {
                return Err(Refusal {
                    again: false,
                    ..unreachable("this agent is not connected to a controller")
                });
            }
            // None within `timeout`; the caller goes by its own deadline.
            Err(_) => return Err(unreachable("there is no connection to it")),
        };
        let client = RepositoryServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        match tokio::time::timeout(ATTEMPT_LIMIT, request(client)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refusal(what, &status)),
            Err(_) => Err(unreachable("it did not answer")),
        }
    }

    /// The connection there is, or the next one; none if there will be none.
    async fn channel(&self) -> Result<Option<Channel>, Elapsed> {
        let mut channel = self.channel.clone();
        let connected = tokio::time::timeout(self.timeout, channel.wait_for(Option::is_some)).await?;
        // An error here means that the sender is gone: no connection will come.
        Ok(connected.ok().and_then(|line| line.as_ref().map(|line| line.channel.clone())))
    }

    /// The place of packs that goes with the connection there is.
    pub(super) fn store(&self) -> Option<Arc<StorePin>> {
        self.channel.borrow().as_ref().and_then(|line| line.store.clone())
    }

    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, PackIoError> {
        tokio::select! {
            // A call that is answered just then counts as cancelled: what it did is
            // idempotent, and the job is to end.
            biased;
            () = self.cancel.cancelled() => Err(cancelled(self.cancel.reason())),
            result = work => Ok(result),
        }
    }

    /// Waits before the next attempt: longer each time, never the same twice.
    pub(super) async fn pause(&self, attempt: u32) -> Result<(), PackIoError> {
        self.unless_cancelled(tokio::time::sleep(PAUSES.pause(attempt))).await
    }
}

fn cancelled(reason: Option<CancelReason>) -> PackIoError {
    match reason {
        Some(CancelReason::MaxDowntime) => PackIoError::new(
            ErrorCode::MaxDowntime.as_str(),
            "containers were quiesced for as long as they may be",
        ),
        Some(CancelReason::Shutdown) => PackIoError::new(ErrorCode::Shutdown.as_str(), "the agent stops"),
        Some(CancelReason::Asked) | None => {
            PackIoError::new(ErrorCode::Cancelled.as_str(), "the job was cancelled")
        }
    }
}

/// Sorts a status. The error code is the controller's where it sends one that
/// is passed on.
fn refusal(what: &'static str, status: &Status) -> Refusal {
    let (code, again) = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::ResourceExhausted => {
            (ErrorCode::Unreachable, true)
        }
        // A connection that broke: the library has no better word for it. A
        // controller that means it says why.
        Code::Unknown | Code::Cancelled | Code::Internal => {
            (ErrorCode::Unreachable, error_code_text(status).is_none())
        }
        Code::Unauthenticated | Code::PermissionDenied => (ErrorCode::Auth, false),
        Code::NotFound => (ErrorCode::NotFound, false),
        Code::FailedPrecondition => (ErrorCode::Refused, false),
        Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => (ErrorCode::Refused, false),
        Code::Unimplemented | Code::Ok => (ErrorCode::Protocol, false),
        Code::DataLoss => (ErrorCode::Damaged, false),
    };
    let code = ErrorCode::of(status).filter(|code| is_passed_on(*code)).unwrap_or(code);
    Refusal { code, what, message: status.message().to_owned(), again }
}

/// Whether operators are told what the controller called it. What else it may
/// call it is about this agent's request, not about their data.
fn is_passed_on(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CatalogFailed
            | ErrorCode::Damaged
            | ErrorCode::LeaseLost
            | ErrorCode::NotFound
            | ErrorCode::QuotaExceeded
            | ErrorCode::RepositorySuspended
            | ErrorCode::StaleGeneration
            | ErrorCode::StoreAuth
            | ErrorCode::StoreClockSkew
            | ErrorCode::StoreCorrupt
            | ErrorCode::StoreFailed
            | ErrorCode::StoreFull
            | ErrorCode::StoreNoBucket
            | ErrorCode::StoreRefused
            | ErrorCode::StoreThrottled
            | ErrorCode::StoreUnreachable
            | ErrorCode::UploadFailed
    )
}

impl From<Refusal> for PackIoError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal.code {
            code @ (ErrorCode::NotFound | ErrorCode::Damaged | ErrorCode::StoreCorrupt) => {
                Self::loss(code.as_str(), message)
            }
            code => Self::new(code.as_str(), message),
        }
    }
}

/// What a failure at the other side of the data plane is called.
pub(crate) fn code_of(error: &PackIoError) -> ErrorCode {
    ErrorCode::parse(error.code).unwrap_or(ErrorCode::Internal)
}

#[cfg(test)]
mod tests {
    use holdfast_archive::fetch::FetchError;
    use holdfast_archive::ids::{AllocationId, FrameId, PackId};
    use holdfast_archive::store::StoreErrorKind;

    use super::*;

    #[test]
    fn a_broken_connection_is_tried_again_and_a_refusal_is_not() {
        assert!(refusal("x", &Status::unknown("transport error")).again);
        assert!(refusal("x", &Status::unavailable("draining")).again);
        assert!(!refusal("x", &Status::permission_denied("another host's lease")).again);
        let meant = coded(Status::internal("catalogue is read-only"), ErrorCode::CatalogFailed);
        let refusal = refusal("x", &meant);
        assert!(!refusal.again);
        assert_eq!(refusal.code, ErrorCode::CatalogFailed);
    }

    fn coded(status: Status, code: ErrorCode) -> Status {
        code.tag(status, "")
    }

    #[test]
    fn lost_data_is_not_asked_for_again_and_counts_as_lost() {
        let pack = PackId { sha256: [1; 32], allocation: AllocationId::generate() };
        let frame = FrameId([2; 32]);
        let short =
            coded(Status::data_loss("packs/1: 5 bytes were asked for and 3 came"), ErrorCode::StoreCorrupt);
        for (status, code) in
            [(short, ErrorCode::StoreCorrupt), (Status::data_loss("packs/1"), ErrorCode::Damaged)]
        {
            let refusal = refusal("read a pack", &status);
            assert!(!refusal.again);
            assert_eq!(refusal.code, code);
            assert!(FetchError::Read { frame, pack, source: Arc::new(refusal.into()) }.is_loss());
        }
    }

    #[test]
    fn whatever_the_store_says_is_passed_on() {
        use StoreErrorKind::{
            Auth, ClockSkew, Corrupt, Full, NoBucket, NotFound, Other, Refused, Throttled, Unreachable,
        };
        for kind in
            [Auth, ClockSkew, Corrupt, Full, NoBucket, NotFound, Other, Refused, Throttled, Unreachable]
        {
            let code = ErrorCode::parse(kind.code()).expect("a code of the list");
            assert!(is_passed_on(code), "{code:?}");
        }
    }
}
