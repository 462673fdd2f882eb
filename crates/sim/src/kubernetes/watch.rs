//! A watch: the changes of one kind after a version, each a line, and each somewhat late.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep};

use super::objects::{Refusal, has_labels};
use super::request::Request;
use super::server::{Server, State};

/// How late a change is told.
const LATE_MAX: Duration = Duration::from_millis(200);

/// What comes back from the server.
#[derive(Debug)]
pub enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Line by line.
    Watch(Box<Watch>),
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    server: Server,
    kind: String,
    labels: Vec<(String, String)>,
    /// The last version that was told, or passed over.
    after: u64,
    broken_off: u64,
    random: StdRng,
    /// What is told next.
    next: Option<(Pin<Box<Sleep>>, Bytes)>,
    has_ended: bool,
}

/// What a watch finds.
enum Found {
    Nothing,
    End,
    Line(Value),
}

impl Watch {
    /// Begins where the request says.
    pub fn begin(server: Server, request: &Request, seed: u64) -> Watch {
        let broken_off = server.with(|state| state.broken_off);
        Watch {
            server,
            kind: request.kind.clone(),
            labels: request.labels.clone(),
            after: request.after,
            broken_off,
            random: StdRng::seed_from_u64(seed),
            next: None,
            has_ended: false,
        }
    }

    fn look(&mut self, cx: &Context<'_>) -> Found {
        let server = self.server.clone();
        server.with(|state| {
            if state.broken_off != self.broken_off {
                return Found::End;
            }
            let found = self.find(state);
            if matches!(found, Found::Nothing) {
                state.objects.waiting.push(cx.waker().clone());
            }
            found
        })
    }

    fn find(&mut self, state: &State) -> Found {
        loop {
            match state.objects.next_change(&self.kind, self.after) {
                Ok(None) => return Found::Nothing,
                Ok(Some(change)) => {
                    self.after = change.version;
                    if has_labels(&change.object, &self.labels) {
                        return Found::Line(json!({"type": change.what, "object": change.object}));
                    }
                }
                Err(Refusal::Gone) => {
                    let status = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "reason": "Expired", "message": "that is too long ago", "code": 410,
                    });
                    self.has_ended = true;
                    return Found::Line(json!({"type": "ERROR", "object": status}));
                }
                Err(_) => return Found::End,
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let watch = match &mut *self {
            Answer::Whole(whole) => return Poll::Ready(whole.take().map(|whole| Ok(Frame::data(whole)))),
            Answer::Watch(watch) => watch,
        };
        loop {
            if let Some((due, _)) = &mut watch.next {
                if due.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                return Poll::Ready(watch.next.take().map(|(_, line)| Ok(Frame::data(line))));
            }
            if watch.has_ended {
                return Poll::Ready(None);
            }
            match watch.look(cx) {
                Found::Nothing => return Poll::Pending,
                Found::End => return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
                Found::Line(line) => {
                    let late = watch.random.random_range(Duration::ZERO..=LATE_MAX);
                    watch.next = Some((Box::pin(sleep(late)), Bytes::from(format!("{line}\n"))));
                }
            }
        }
    }
}
