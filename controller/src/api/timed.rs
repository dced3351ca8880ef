//! A request's body that has to be there in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// A body whose end must come within a time. An error of it afterwards: what
/// came so far is dropped with the call.
pub(super) struct Timed {
    body: Body,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(body: Body, most: Duration) -> Self {
        Self { body, deadline: Box::pin(tokio::time::sleep(most)) }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Some(Err(Status::deadline_exceeded("the request did not arrive in time"))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn v04_a_message_that_never_ends_is_given_up_and_one_that_comes_is_not() {
        let half = Frame::data(Bytes::from_static(b"half"));
        let begun = futures_util::stream::once(async { Ok::<_, Status>(half) });
        let body = Body::new(StreamBody::new(begun.chain(futures_util::stream::pending())));
        let status = Timed::new(body, Duration::from_secs(60)).collect().await.expect_err("given up");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        let whole = Body::new(http_body_util::Full::new(Bytes::from_static(b"whole")));
        let whole = Timed::new(whole, Duration::from_secs(60)).collect().await.expect("all of it");
        assert_eq!(whole.to_bytes(), "whole");
    }
}
