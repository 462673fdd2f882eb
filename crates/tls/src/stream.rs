//! Streams of bytes: with TLS, without it, and with their first bytes read already.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What TLS can be spoken on.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Bytes for T {}

/// A stream some of whose bytes were read to find out what it is.
#[derive(Debug)]
pub struct Begun<S> {
    head: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Begun<S> {
    pub(crate) fn new(head: Vec<u8>, stream: S) -> Begun<S> {
        Begun { head, at: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Returns once the other side has gone. What it says meanwhile is kept, a byte of it, and then it is not looked after
    /// any more: nothing is to come where this is asked.
    pub(crate) async fn gone(&mut self) {
        let mut byte = [0];
        poll_fn(|cx| {
            if self.at < self.head.len() {
                return Poll::Pending;
            }
            let mut buffer = ReadBuf::new(&mut byte);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.head = buffer.filled().to_vec();
                    Poll::Pending
                }
                Ok(()) | Err(_) => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == self.head.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let rest = &self.head[self.at..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        self.at += taken;
        if self.at == self.head.len() {
            (self.head, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
