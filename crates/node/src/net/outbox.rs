//! What one answer has to send, and the memory that it takes until the connection has taken it.
//!
//! tonic encodes into a buffer that lives as long as its stream, and hyper asks for more before the
//! client has taken what it got. So a stream encodes its messages itself, each into memory of its own,
//! and hands them to the body (`call.rs`) beside tonic: [`Outbox::respond`]. Every slice of a message
//! carries its part of the permit, down to the socket: room in the budget is there again when the memory
//! is.
//!
//! A stream plugs in so: [`Outbox::of`] the request, [`Outbox::reserve`] room for the largest message,
//! make one, [`Frame::encode`] it, and give the stream of frames to [`Outbox::respond`].

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes};
use futures_util::Stream;
use prost::Message;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Extensions, Response, Status};

use super::budget::{Account, Permit};
use super::progress::Progress;
use super::remote::Remote;
use crate::error::RequestError;

/// Bytes that are handed to the connection at a time. What lies in the connection's own buffers beyond
/// the client's window, and cannot be taken back from a stream that has said everything, is at most this.
const SLICE_BYTES_MAX: usize = 32 * 1024;

/// A message so small needs no room of its own while it is the only one of its stream: the call takes
/// as much itself.
pub const SMALL_BYTES_MAX: usize = 4 * 1024;

/// Flag and length in front of each message, see gRPC over HTTP/2.
const FRAME_HEAD_BYTES: usize = 5;

/// A message that is ready to be sent, with the room that it takes.
pub struct Frame {
    bytes: Bytes,
    permit: Permit,
}

impl Frame {
    /// Encodes a message. The permit then fits it.
    pub fn encode(message: &impl Message, mut permit: Permit) -> Frame {
        let len = message.encoded_len();
        let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + len);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(len).expect("a message is far smaller than 4 GiB"));
        message.encode(&mut bytes).expect("a vector grows");
        permit.resize(bytes.len());
        Frame { bytes: bytes.into(), permit }
    }
}

/// The bytes of a message with its frame.
pub fn frame_bytes(message: &impl Message) -> usize {
    FRAME_HEAD_BYTES + message.encoded_len()
}

/// What one answer has to send.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    account: Account,
    queue: Mutex<Queue>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Room for what tonic will encode: an answer that is no stream.
    answer: Option<Permit>,
}

impl Outbox {
    /// An outbox on the connection of a request, by its extensions.
    pub fn of(extensions: &Extensions) -> Result<Outbox, Status> {
        Remote::of(extensions).map(Outbox::on)
    }

    /// An outbox on a connection.
    pub fn on(remote: &Remote) -> Outbox {
        let account = remote.account.clone();
        let progress = Arc::new(Progress::new(account.budget().clone()));
        Outbox(Arc::new(Inner { account, queue: Mutex::default(), progress }))
    }

    /// Waits for room, and ends the stream that gets none for too long.
    pub async fn reserve(&self, bytes: usize) -> Result<Permit, RequestError> {
        if let Some(permit) = self.try_reserve(bytes) {
            return Ok(permit);
        }
        let patience = self.0.account.budget().patience_max();
        let granted = timeout(patience, self.0.account.reserve(bytes)).await;
        granted.map_err(|_| RequestError::NoRoom { seconds: patience.as_secs() })
    }

    /// Room that is there now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        if bytes <= SMALL_BYTES_MAX && !self.0.progress.waits() {
            return Some(self.0.account.charge(bytes));
        }
        self.0.account.try_reserve(bytes)
    }

    /// Answers with a stream of frames. The next one is asked for when the last one was taken.
    pub fn respond<T>(
        self,
        frames: impl Stream<Item = Result<Frame, Status>> + Send + 'static,
    ) -> Response<BoxStream<T>>
    where
        T: Send + 'static,
    {
        let stream = Frames { frames: Box::pin(frames), outbox: self.clone(), message: PhantomData };
        let mut response = Response::new(Box::pin(stream) as BoxStream<T>);
        response.extensions_mut().insert(self);
        response
    }

    /// Counts the large parts of an answer that is no stream, from here until the client has taken them.
    pub fn answer<T>(self, bytes: usize, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        self.lock().answer = Some(self.0.account.charge(bytes));
        response.extensions_mut().insert(self);
        response
    }

    /// Takes what tonic has encoded.
    pub fn take(&self, bytes: Bytes) {
        let answer = self.lock().answer.take();
        let mut permit = answer.unwrap_or_else(|| self.0.account.charge(bytes.len()));
        permit.resize(bytes.len());
        self.put(Frame { bytes, permit });
    }

    /// The next bytes for the connection.
    pub fn next_slice(&self) -> Option<Bytes> {
        let mut queue = self.lock();
        let frame = queue.frames.front_mut()?;
        let len = frame.bytes.len().min(SLICE_BYTES_MAX);
        let permit = frame.permit.split(len);
        let bytes = if len < frame.bytes.len() {
            frame.bytes.split_to(len)
        } else {
            // The last part is copied, so that it does not keep all of the message in memory.
            let last = queue.frames.pop_front()?.bytes;
            Bytes::copy_from_slice(&last)
        };
        drop(queue);
        Some(Bytes::from_owner(Held { bytes, _permit: permit, progress: self.0.progress.clone() }))
    }

    /// Where the task that sends this looks whether the client takes anything.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.0.progress
    }

    fn put(&self, frame: Frame) {
        self.0.progress.hold(frame.bytes.len());
        self.lock().frames.push_back(frame);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tonic polls instead of messages: its frames go into the outbox, and it never has one itself.
///
/// Only the body polls it, and looks into the outbox when it finds it pending: nobody needs to be woken
/// for a frame.
struct Frames<T> {
    frames: Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>,
    outbox: Outbox,
    message: PhantomData<fn() -> T>,
}

impl<T> Stream for Frames<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.frames.as_mut().poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(status))) => Poll::Ready(Some(Err(status))),
            Poll::Ready(Some(Ok(frame))) => {
                self.outbox.put(frame);
                Poll::Pending
            }
        }
    }
}

/// Bytes on their way to the socket.
struct Held {
    bytes: Bytes,
    _permit: Permit,
    progress: Arc<Progress>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.progress.taken(self.bytes.len());
    }
}
