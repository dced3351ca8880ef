//! A connection that can be torn down from outside, and that says when it is
//! gone.
//!
//! HTTP/2 libraries own the socket once they have it and offer neither. A
//! revoked host must not keep a stream for as long as it likes, the fleet must
//! know a lost agent before the next call to it fails, and an agent must know
//! when to dial again.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Wraps a connection; see the module.
#[derive(Debug)]
pub struct Closable<IO, I = ()> {
    io: IO,
    info: I,
    close: CancellationToken,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _gone: DropGuard,
}

impl<IO, I> Closable<IO, I> {
    /// Cancelling `close` fails every read and write from then on. `gone` is
    /// cancelled when the connection is dropped by whoever owns it. `info` is
    /// what a tonic server puts into the extensions of each request.
    pub fn new(io: IO, info: I, close: CancellationToken, gone: CancellationToken) -> Self {
        let closing = Box::pin(close.clone().cancelled_owned());
        Self { io, info, close, closing, _gone: gone.drop_guard() }
    }
}

impl<IO, I: Clone + Send + Sync + 'static> Connected for Closable<IO, I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed at this end")
}

impl<IO: AsyncRead + Unpin, I: Unpin> AsyncRead for Closable<IO, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.close.is_cancelled() || self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(closed()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Closable<IO, I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.close.is_cancelled() {
            return Poll::Ready(Err(closed()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.close.is_cancelled() {
            return Poll::Ready(Err(closed()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // No polite end is due to a peer that was thrown out, and waiting
        // for its farewell would keep the socket.
        if self.close.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_waiting_read_ends_when_it_is_closed() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (close, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut io = Closable::new(ours, (), close.clone(), gone.clone());
        theirs.write_all(b"x").await.expect("written");
        assert_eq!(io.read_u8().await.expect("read"), b'x');
        let reading = tokio::spawn(async move { io.read_u8().await.map_err(|error| error.kind()) });
        close.cancel();
        assert_eq!(reading.await.expect("joined"), Err(io::ErrorKind::ConnectionAborted));
        gone.cancelled().await;
    }
}
