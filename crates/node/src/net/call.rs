//! A call on its way through the router, counted by how it ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http, http::HeaderMap};
use tonic::{Code, Status};

use super::inbox::Room;
use super::open_calls::OpenCall;
use super::outbox::Outbox;
use crate::audit::Trail;
use crate::error::RequestError;
use crate::metrics::MethodMetrics;

pub(super) type HttpResponse = http::Response<Body>;

/// A call that was not answered yet.
pub struct Call {
    response: BoxFuture<HttpResponse, Infallible>,
    /// Absent once the call was counted, or the stream that it opened will be.
    method: Option<Arc<MethodMetrics>>,
    trail: Trail,
    request_bytes_max: usize,
    begun: Instant,
    held: Option<Held>,
}

/// What a call holds until it is answered.
pub struct Held {
    /// Its place among the calls of the port; a stream has it to its end.
    pub place: OpenCall,
    /// What was received of it.
    pub room: Room,
}

impl Call {
    /// Counts what becomes of a response to a request that holds this until then.
    pub fn new(
        response: BoxFuture<HttpResponse, Infallible>,
        method: Arc<MethodMetrics>,
        trail: Trail,
        request_bytes_max: usize,
        held: Option<Held>,
    ) -> Call {
        Call { response, method: Some(method), trail, request_bytes_max, begun: Instant::now(), held }
    }
}

impl Future for Call {
    type Output = Result<HttpResponse, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(self.response.as_mut().poll(cx));
        let place = self.held.take().map(|held| held.place);
        let Some(method) = self.method.take() else { return Poll::Ready(Ok(response)) };
        method.answered(self.begun.elapsed());
        // An error shows in the headers; a call that went well has its status in the trailers.
        match code(response.headers()) {
            Some(mut code) => {
                if let Some(error) = too_large(&response, code, self.request_bytes_max) {
                    code = error.code();
                    response = error.into_http();
                }
                method.ended(code);
                self.trail.answered(code);
            }
            None => {
                self.trail.answered(Code::Ok);
                let outbox = response.extensions_mut().remove::<Outbox>();
                if let Some(outbox) = &outbox {
                    outbox.progress().watch_over();
                }
                let method = if method.streams() {
                    Some(method)
                } else {
                    method.ended(Code::Ok);
                    None
                };
                if method.is_some() || outbox.is_some() {
                    let trail = std::mem::take(&mut self.trail);
                    response = response
                        .map(|body| Body::new(Answers { body, method, trail, outbox, _place: place }));
                }
            }
        }
        Poll::Ready(Ok(response))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The caller went away, or its time was up.
        if let Some(method) = self.method.take() {
            method.answered(self.begun.elapsed());
            method.ended(Code::Cancelled);
            self.trail.answered(Code::Cancelled);
        }
    }
}

/// The answers of a stream, or one large one.
struct Answers {
    body: Body,
    /// Absent once the stream was counted.
    method: Option<Arc<MethodMetrics>>,
    trail: Trail,
    /// What goes past tonic, or is counted behind it.
    outbox: Option<Outbox>,
    _place: Option<OpenCall>,
}

impl Answers {
    fn next_slice(&self) -> Option<Bytes> {
        self.outbox.as_ref()?.next_slice()
    }

    fn ended(&mut self, code: Code) {
        if let Some(method) = self.method.take() {
            method.ended(code);
            // That it was opened is written already. A client that has had enough is no news.
            if !matches!(code, Code::Ok | Code::Cancelled) {
                self.trail.answered(code);
            }
        }
    }
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(slice) = self.next_slice() {
            return Poll::Ready(Some(Ok(Frame::data(slice))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // The stream may just have put something into the outbox.
        if let Some(slice) = self.next_slice() {
            return Poll::Ready(Some(Ok(Frame::data(slice))));
        }
        let mut frame = ready!(polled);
        if let (Some(outbox), Some(Ok(data))) = (&self.outbox, &mut frame)
            && let Some(bytes) = data.data_mut()
        {
            outbox.take(std::mem::take(bytes));
            *bytes = outbox.next_slice().unwrap_or_default();
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.ended(code);
                }
            }
            Some(Err(status)) => self.ended(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Even then trailers follow what the outbox holds.
        self.outbox.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.progress().was_stalled()) {
            tracing::info!("a stream was ended: its client took nothing of it for too long");
            return self.ended(Code::ResourceExhausted);
        }
        // The caller had enough, or its connection broke.
        self.ended(Code::Cancelled);
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// tonic refuses a message beyond the decoding limit in its own words. A caller should find the
/// same reason, and the limit that was configured, however much too large the request is.
fn too_large(response: &HttpResponse, code: Code, limit: usize) -> Option<Status> {
    if code != Code::OutOfRange {
        return None;
    }
    let status = Status::from_header_map(response.headers()).filter(|status| status.details().is_empty())?;
    let after = status.message().split("found ").nth(1)?;
    let bytes = after.split(' ').next()?.parse().ok()?;
    Some(RequestError::TooLarge { bytes, limit: limit as u64 }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that tonic itself refuses still names our reason and our limit.
    #[test]
    fn a_request_far_too_large_names_the_limit() {
        let refused = |message: &str| {
            let response: HttpResponse = Status::out_of_range(message).into_http();
            too_large(&response, Code::OutOfRange, 100)
        };
        let message = "Error, decoded message length too large: found 5000 bytes, the limit is: 612 bytes";
        let status = refused(message).expect("it is recognised");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("5000 bytes, the limit is 100 bytes"), "{}", status.message());
        assert!(refused("something else").is_none());
        let own: Status = RequestError::Compacted { requested: 1, compacted: 2 }.into();
        assert!(too_large(&own.into_http(), Code::OutOfRange, 100).is_none());
    }
}
