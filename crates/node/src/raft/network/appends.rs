//! Sending entries to one member: one of openraft's sessions on its stream of appends.

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, Fuse};
use kvorum_proto::peer::v1 as peer;
use openraft::network::RPCTypes;
use tokio::time::{Instant, sleep_until};

use super::commits::AppendRequest;
use super::peer::{
    APPENDS_IN_FLIGHT_MAX, AppendResult, AppendStream, PeerNetwork, rpc_error, unreachable_text,
};
use crate::net::way::Way;
use crate::raft::types::{LogId, store_entry, wire_log_id, wire_vote};

/// One of openraft's sessions on the peer's append stream.
pub struct AppendSession<'s> {
    network: &'s mut PeerNetwork,
    /// Absent once the session failed. With requests in flight it can't be used again.
    stream: Option<AppendStream>,
    input: Fuse<BoxStream<'static, AppendRequest>>,
    /// Requests that wait for their answers, which come in the same order.
    in_flight: usize,
    /// When the oldest request in flight must have been answered.
    deadline: Instant,
    /// The term in which this node leads, by the last request.
    term: u64,
}

impl<'s> AppendSession<'s> {
    /// Begins a session on an open stream. The input is what openraft wants sent.
    pub fn new(
        network: &'s mut PeerNetwork,
        stream: AppendStream,
        input: BoxStream<'static, AppendRequest>,
    ) -> AppendSession<'s> {
        let deadline = Instant::now() + network.ways.append_timeout;
        AppendSession { network, stream: Some(stream), input: input.fuse(), in_flight: 0, deadline, term: 0 }
    }

    /// Sends what comes in and yields the next answer; ends when all is answered.
    pub async fn next(mut self) -> Option<(AppendResult, Self)> {
        let mut stream = self.stream.take()?;
        let way = self.network.replaceable_way();
        loop {
            let is_left = way.is_some() && self.network.is_left(&stream);
            if is_left && self.in_flight == 0 {
                // The old connection goes when nothing is on it any more.
                match self.network.open_appends().await {
                    Ok(opened) => stream = opened,
                    Err(error) => {
                        self.network.failed(&error);
                        return Some((Err(error), self));
                    }
                }
                continue;
            }
            if self.in_flight == 0 && self.input.is_done() {
                self.network.appends = Some(stream);
                return None;
            }
            let number = stream.number();
            tokio::select! {
                biased;
                response = stream.responses.message(), if self.in_flight > 0 => {
                    self.in_flight -= 1;
                    self.deadline = Instant::now() + self.network.ways.append_timeout;
                    let result = match response {
                        Ok(Some(response)) => self.network.read_append_response(response, self.term),
                        Ok(None) => Err(unreachable_text("the peer closed the append stream")),
                        Err(status) => Err(rpc_error(&status)),
                    };
                    match &result {
                        Ok(answer) => {
                            self.network.answered();
                            self.stream = answer.is_ok().then_some(stream);
                        }
                        Err(error) => self.network.failed(error),
                    }
                    return Some((result, self));
                }
                request = self.input.next(), if self.may_send() && !is_left => {
                    let Some(request) = request else { continue };
                    if self.in_flight == 0 {
                        self.deadline = Instant::now() + self.network.ways.append_timeout;
                    }
                    self.term = request.vote.leader_id.term;
                    let acknowledged = self.network.ways.acknowledged.of(self.network.target, self.term);
                    let request = wire_append(request, self.network.ways.clock.now_ms(), acknowledged);
                    if stream.requests.send(request).await.is_err() {
                        let error = unreachable_text("the peer closed the append stream");
                        self.network.failed(&error);
                        return Some((Err(error), self));
                    }
                    self.in_flight += 1;
                }
                () = replaced(way.as_ref(), number), if way.is_some() && !is_left => {}
                () = sleep_until(self.deadline), if self.in_flight > 0 => {
                    let error = self.network.timeout(RPCTypes::AppendEntries, self.network.ways.append_timeout);
                    self.network.failed(&error);
                    return Some((Err(error), self));
                }
            }
        }
    }

    fn may_send(&self) -> bool {
        !self.input.is_done() && self.in_flight < APPENDS_IN_FLIGHT_MAX
    }
}

/// Returns once there is another connection than that with this number; without a way never.
async fn replaced(way: Option<&Way>, number: u64) {
    match way {
        Some(way) => way.replaced(number).await,
        None => std::future::pending().await,
    }
}

/// A request as it goes out, with this leader's time at that moment, and what the peer has acknowledged by then.
fn wire_append(
    request: AppendRequest,
    cluster_time_ms: u64,
    acknowledged: Option<LogId>,
) -> peer::AppendRequest {
    let entries = request.entries.iter().map(|entry| {
        let entry = store_entry(entry);
        peer::Entry { term: entry.log_id.term, index: entry.log_id.index, payload: entry.payload }
    });
    peer::AppendRequest {
        envelope: None,
        vote: Some(wire_vote(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(wire_log_id),
        leader_commit: request.leader_commit.as_ref().map(wire_log_id),
        entries: entries.collect(),
        cluster_time_ms,
        acknowledged: acknowledged.as_ref().map(wire_log_id),
    }
}
