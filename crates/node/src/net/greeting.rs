//! Whether a connection has said anything. hyper waits for HTTP/2's preface for ever, and asks whether a connection
//! lives only after it: connections that say nothing could take all places of a port.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// What comes first on each HTTP/2 connection, in bytes.
const PREFACE_BYTES: usize = 24;

/// Within this it must have come.
pub const GREETING_MAX: Duration = Duration::from_secs(10);

/// A connection's bytes, of which it is known whether the first ones have come.
#[derive(Debug)]
pub struct Greeted<S> {
    stream: S,
    left: usize,
    done: Arc<AtomicBool>,
}

impl<S> Greeted<S> {
    /// A connection that has said nothing yet.
    pub fn new(stream: S) -> Greeted<S> {
        Greeted { stream, left: PREFACE_BYTES, done: Arc::default() }
    }

    /// Returns where it has not come within this; else never.
    pub fn overdue(&self, within: Duration) -> impl Future<Output = ()> + Send + use<S> {
        let done = self.done.clone();
        async move {
            sleep(within).await;
            if done.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Pin::new(&mut self.stream).poll_read(cx, to);
        }
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, to))?;
        self.left = self.left.saturating_sub(to.filled().len() - before);
        if self.left == 0 {
            self.done.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Goal: who says nothing keeps nobody out for long, and who has greeted may be silent. Method: connections that say
    /// nothing, half of it, and all of it in pieces.
    #[tokio::test]
    async fn a_connection_that_says_nothing_is_overdue() {
        let pieces: [(&[usize], bool); 4] = [(&[], true), (&[10], true), (&[24], false), (&[5, 30], false)];
        for (pieces, closed) in pieces {
            let (mut client, server) = duplex(1024);
            for bytes in pieces {
                client.write_all(&vec![b'x'; *bytes]).await.unwrap();
            }
            let mut stream = Greeted::new(server);
            let overdue = stream.overdue(Duration::from_millis(50));
            let reads = async {
                let mut read = [0; 7];
                while stream.read(&mut read).await.is_ok() {}
            };
            let is_overdue = tokio::select! {
                () = overdue => true,
                () = reads => false,
                () = sleep(Duration::from_millis(500)) => false,
            };
            assert_eq!(is_overdue, closed, "after {pieces:?}");
        }
    }
}
