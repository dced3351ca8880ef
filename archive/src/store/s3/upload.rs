//! A body that is seen to move, and what replaces it.
//!
//! An upload is signed with its bytes in memory, then handed to the
//! connection in small pieces and counted, so that a link that stands still
//! is told from one that is slow. The swap happens after signing: a streamed
//! body would be signed chunk by chunk, which several servers get wrong.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::store::{Presigned, RetryPolicy};

const PIECE: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    error_in_answer: AtomicBool,
}

struct Pieces {
    left: Bytes,
    progress: Arc<Progress>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.left.len().min(PIECE);
        let piece = self.left.split_to(len);
        self.progress.sent.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Watches one upload. Clones watch the same one.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    bytes: Bytes,
    progress: Arc<Progress>,
    instead: Option<Presigned>,
    /// Hexadecimal.
    sha256: Option<String>,
}

/// The upload stood still.
pub(super) struct Stalled {
    pub(super) sent: u64,
}

impl Watch {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, progress: Arc::default(), instead: None, sha256: None }
    }

    /// Signs the upload with this SHA-256 of its bytes, which the client would read all of
    /// them for once more.
    pub(super) fn signed_as(self, sha256: &[u8; 32]) -> Self {
        Self { sha256: Some(hex::encode(sha256)), ..self }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Sends these bytes by that request, whatever was to be sent.
    pub(super) fn instead(presigned: Presigned, bytes: Bytes) -> Self {
        Self { instead: Some(presigned), ..Self::new(bytes) }
    }

    /// Success was announced, and then an error described.
    pub(super) fn saw_error_in_answer(&self) -> bool {
        self.progress.error_in_answer.load(Ordering::Relaxed)
    }

    /// Runs the upload for as long as it moves.
    pub(super) async fn over<T>(
        &self,
        policy: &RetryPolicy,
        answer_within: Duration,
        upload: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut upload = std::pin::pin!(upload);
        let total = self.bytes.len() as u64;
        let mut before = None;
        loop {
            let sent = self.progress.sent.load(Ordering::Relaxed);
            // Once all is sent the step is 1, which is never made: the answer is waited for once.
            let step = RetryPolicy::STALL_BYTES.min(total - sent.min(total)).max(1);
            if before.is_some_and(|before| sent < before + step) {
                return Err(Stalled { sent });
            }
            let limit = if sent >= total { answer_within } else { policy.stall_after };
            match tokio::time::timeout(limit, &mut upload).await {
                Ok(outcome) => return Ok(outcome),
                Err(_) => before = Some(sent),
            }
        }
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(sha256) = &self.sha256 {
            config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(sha256.clone()));
        }
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        // Only the headers that were signed with the URL may go along with it.
        if let Some(presigned) = &self.instead {
            request.set_uri(presigned.url.as_str())?;
            let names: Vec<String> = request.headers().iter().map(|(name, _)| name.to_owned()).collect();
            names.into_iter().for_each(|name| {
                request.headers_mut().remove(name);
            });
            for (name, value) in &presigned.headers {
                request.headers_mut().try_insert(name.clone(), value.clone())?;
            }
        }
        let pieces = Pieces { left: self.bytes.clone(), progress: self.progress.clone() };
        *request.body_mut() = SdkBody::from_body_1_x(pieces);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        if body.windows(6).any(|window| window == b"<Error") {
            self.progress.error_in_answer.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
