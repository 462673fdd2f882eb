//! What the calls of a connection bring, and the memory that it takes until they are answered.
//!
//! tonic collects a message until it is whole, and gives the client room on the connection for what it has collected:
//! so a connection's window bounds what of it was not looked at, and not what its calls have in memory. Here each
//! message is counted by the length that it says it has, before it is collected. Whoever finds no room is refused, and
//! nothing was done. What it goes on to send is thrown away as it comes: if it waited there for room, it would fill the
//! connection's window, and keep those from being completed that have room; and were the stream reset, HTTP/2 would
//! have to close a connection whose client sends on to many such streams, and its watches with it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::budget::{Account, Permit};
use crate::error::RequestError;

/// What all calls of a port may have in memory of their requests, in bytes. One connection gets at most half of it:
/// dozens of the largest requests at a time.
pub const RECEIVE_BUDGET_BYTES: usize = 128 * 1024 * 1024;

/// A message so small is not counted: it takes less than its call does.
const SMALL_BYTES_MAX: usize = 256;

/// A message is there so long after it began, or the call ends: the largest one needs 80 kB/s for that.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(20);

/// Length and flag in front of each message, see gRPC over HTTP/2.
const HEAD_BYTES: usize = 5;

/// The room that a call has for what it brings, until it is answered.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<Option<Permit>>>);

impl Room {
    fn set(&self, permit: Option<Permit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// The body of a call's request.
pub struct Inbox {
    body: Incoming,
    account: Account,
    room: Room,
    /// Larger messages are refused by who decodes them, as soon as their head is there.
    message_bytes_max: usize,
    messages: Messages,
    /// There was no room for a message, and the rest of it is thrown away.
    is_refused: bool,
    /// Set while a message is waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl Inbox {
    /// A request that counts in an account, and whose messages may have so many bytes.
    pub fn new(body: Incoming, account: Account, room: Room, message_bytes_max: usize) -> Inbox {
        let messages = Messages::default();
        Inbox { body, account, room, message_bytes_max, messages, is_refused: false, late: None }
    }

    /// Finds room for the messages that begin in some bytes, in place of those before.
    fn receive(&mut self, data: &[u8]) {
        let begun = self.messages.read(data);
        if begun > 0 || !self.messages.is_awaited() {
            self.late = None;
        }
        if begun <= SMALL_BYTES_MAX || begun > self.message_bytes_max {
            return;
        }
        self.room.set(None);
        let permit = self.account.try_reserve(begun);
        self.is_refused |= permit.is_none();
        self.room.set(permit);
    }

    /// The next frame that there is room for.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
                None if self.is_refused => return Poll::Ready(Some(Err(RequestError::Busy.into()))),
                None => return Poll::Ready(None),
            };
            if let Some(data) = frame.data_ref() {
                self.receive(data);
            }
            if !self.is_refused {
                return Poll::Ready(Some(Ok(frame)));
            }
            if !self.messages.is_awaited() {
                return Poll::Ready(Some(Err(RequestError::Busy.into())));
            }
        }
    }

    /// Waits for the rest of a message, but not for ever.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if !self.messages.is_awaited() {
            return Poll::Pending;
        }
        let late = self.late.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + MESSAGE_TIME_MAX)));
        ready!(late.as_mut().poll(cx));
        let busy = RequestError::Busy;
        let slow = RequestError::Deadline { outcome_unknown: false };
        Poll::Ready(if self.is_refused { busy } else { slow }.into())
    }
}

impl Body for Inbox {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.poll_received(cx) {
            Poll::Pending => self.poll_late(cx).map(|late| Some(Err(late))),
            received => received,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where messages begin and end in a body.
#[derive(Default)]
struct Messages {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Bytes of the present message that are still to come.
    left: usize,
    has_begun: bool,
}

impl Messages {
    /// Goes through the next bytes, and answers how long the messages are that begin in them.
    fn read(&mut self, mut data: &[u8]) -> usize {
        let mut begun = 0;
        while !data.is_empty() {
            let in_message = self.left.min(data.len());
            (self.left, data) = (self.left - in_message, &data[in_message..]);
            let in_head = (HEAD_BYTES - self.head_bytes).min(data.len());
            let (head, rest) = data.split_at(in_head);
            self.head[self.head_bytes..][..in_head].copy_from_slice(head);
            (self.head_bytes, data) = (self.head_bytes + in_head, rest);
            if self.head_bytes == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                begun += self.left;
                (self.head_bytes, self.has_begun) = (0, true);
            }
        }
        begun
    }

    /// Whether the first message, or the rest of one, has yet to come.
    fn is_awaited(&self) -> bool {
        !self.has_begun || self.head_bytes > 0 || self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: messages are told apart wherever the wire cuts them. Method: random messages in random pieces.
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(0usize..40, 1..12),
            cuts in prop::collection::vec(1usize..30, 1..60),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| {
                let head = [0].into_iter().chain((*length as u32).to_be_bytes());
                head.chain(std::iter::repeat_n(7, *length))
            }).collect();
            let (mut messages, mut rest, mut begun) = (Messages::default(), &bytes[..], 0);
            prop_assert!(messages.is_awaited(), "the first one");
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                begun += messages.read(piece);
                rest = after;
                let at = bytes.len() - rest.len();
                let ends: Vec<usize> = lengths.iter().scan(0, |end, length| {
                    *end += HEAD_BYTES + length;
                    Some(*end)
                }).collect();
                prop_assert_eq!(messages.is_awaited(), !ends.contains(&at));
            }
            prop_assert_eq!(begun, lengths.iter().sum::<usize>());
        }
    }
}
