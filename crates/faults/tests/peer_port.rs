//! Goal: whatever comes in on the peer port, no process ends, no term leaps, and the cluster takes writes again.
//!
//! Method: a cluster of three under a writer, and messages of every kind to random members: made of boundary
//! values and of what the cluster really has, changed by fields and by bytes, in right and wrong envelopes. What is
//! left out is what no check can tell from a leader's own words: entries, a commit or a snapshot under a vote that fits.
//! `FUZZ_SECONDS` makes it longer, `FUZZ_SEED` repeats one.

use std::time::{Duration, Instant};

use kvorum_faults::{Cluster, Layout, Result, ensure, rpc};
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::peer::v1 as peer;
use kvorum_proto::peer::v1::peer_client::PeerClient;
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::timeout;
use tonic::transport::Channel;

/// How long it takes by default.
const SECONDS: u64 = 10;
/// What is sent between two looks at the members.
const ROUND: usize = 200;
/// No message is waited for longer: some make a member wait for an election.
const CALL_MAX: Duration = Duration::from_millis(300);
/// A term that is further ahead is refused; see `raft/admit.rs`.
const TERM_LEAP_MAX: u64 = 1 << 24;
/// What a message may add to a term without being refused, in this test.
const STEP_MAX: u64 = 3;

#[tokio::test]
async fn the_peer_port_withstands_any_message() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    eprintln!("FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::found(3, Layout::default()).await?;
    let client = cluster.client().await?;
    client.set("kept", "as it was").await?;
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            for i in 0_u64.. {
                let _ = client.set(format!("key {}", i % 100), format!("{i}")).await;
            }
        }
    });
    let mut peers = Vec::new();
    for node in cluster.nodes() {
        peers.push(PeerClient::new(rpc::channel(node.peer_address())?));
    }
    let (mut sent, mut passed, mut last_term) = (0_u64, 0_u64, 0);
    while Instant::now() < until {
        let mut statuses = Vec::new();
        for node in cluster.nodes() {
            statuses.push(node.status().await?);
        }
        let term = statuses.iter().map(|status| status.term).max().unwrap_or_default();
        let bound = (last_term + STEP_MAX * (ROUND as u64 + 50)).max(TERM_LEAP_MAX / 2);
        ensure!(
            last_term == 0 || term < bound,
            "the term leapt from {last_term} to {term} (FUZZ_SEED={seed})"
        );
        last_term = term;
        for _ in 0..ROUND {
            let at = rng.random_range(0..peers.len());
            let mut made = Maker { rng: &mut rng, own: &statuses[at], all: &statuses };
            passed += u64::from(send(&mut peers[at].clone(), &mut made).await);
            sent += 1;
        }
        cluster.check_alive()?;
    }
    eprintln!("{sent} messages sent, {passed} of them answered without an error, term {last_term}");
    writer.abort();
    cluster.check_alive()?;
    cluster.wait_healthy().await?;
    client.set("after", "all of it").await?;
    let kept = client.get("kept").await?;
    ensure!(kept.kv.is_some_and(|kv| kv.value == "as it was"), "what was written is gone (FUZZ_SEED={seed})");
    cluster.compare_stores(cluster.nodes()).await?;
    for node in cluster.nodes() {
        ensure!(!node.log()?.contains("panicked"), "{} panicked (FUZZ_SEED={seed})", node.name());
    }
    cluster.close()
}

/// Sends one message of a random kind; whether it was answered without an error.
async fn send(to: &mut PeerClient<Channel>, made: &mut Maker<'_>) -> bool {
    let call = async {
        match made.rng.random_range(0..6) {
            0 => to.vote(made.vote()).await.is_ok(),
            1 => to.pre_vote(made.vote()).await.is_ok(),
            2 | 3 => {
                let hello = peer::AppendRequest { envelope: made.envelope(), ..Default::default() };
                let from = hello.envelope.unwrap_or_default().from;
                let mut requests = vec![hello];
                for _ in 0..made.rng.random_range(1..4) {
                    requests.push(made.append(from));
                }
                let Ok(answers) = to.append(futures_util::stream::iter(requests)).await else { return false };
                let mut answers = answers.into_inner();
                loop {
                    match answers.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            }
            4 => {
                let parts = made.snapshot();
                to.snapshot(futures_util::stream::iter(parts)).await.is_ok()
            }
            _ => to.transfer_leader(made.transfer()).await.is_ok(),
        }
    };
    timeout(CALL_MAX, call).await.unwrap_or_default()
}

/// Makes messages for one member.
struct Maker<'a> {
    rng: &'a mut StdRng,
    own: &'a admin::StatusResponse,
    all: &'a [admin::StatusResponse],
}

impl Maker<'_> {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    /// A number near a boundary, or near what there is.
    fn number(&mut self, near: u64) -> u64 {
        let offset = self.rng.random_range(0..4);
        match self.rng.random_range(0..8) {
            0 => offset,
            1 => u64::MAX - offset,
            2 => (1 << 62) + offset - 1,
            3 => (1 << 32) + offset,
            4 => self.rng.random(),
            5 => near.saturating_sub(offset),
            _ => near.saturating_add(offset),
        }
    }

    /// A term that is either a step ahead at most, or refused.
    fn term(&mut self) -> u64 {
        let own = self.own.term;
        let term = self.number(own);
        if term > own + STEP_MAX && term <= own + 2 * TERM_LEAP_MAX { own + 1 } else { term }
    }

    fn node_id(&mut self) -> u64 {
        if self.one_in(4) {
            return self.number(0);
        }
        let at = self.rng.random_range(0..self.all.len());
        self.all[at].node_id
    }

    fn log_id(&mut self) -> Option<admin::LogId> {
        if self.one_in(6) {
            return None;
        }
        let last = self.own.last_log.unwrap_or_default();
        Some(admin::LogId { term: self.number(last.term), index: self.number(last.index) })
    }

    fn envelope(&mut self) -> Option<peer::Envelope> {
        let (cluster_id, incarnation, to) = (self.own.cluster_id, self.own.incarnation, self.own.node_id);
        let mut envelope = peer::Envelope { cluster_id, incarnation, from: self.node_id(), to };
        match self.rng.random_range(0..20) {
            0 => return None,
            1 => envelope.cluster_id = self.number(cluster_id),
            2 => envelope.incarnation = self.number(incarnation),
            3 => envelope.to = self.node_id(),
            _ => {}
        }
        Some(envelope)
    }

    fn ballot(&mut self, from: u64, leads: bool) -> Option<peer::Vote> {
        let node_id = if self.one_in(5) { self.node_id() } else { from };
        let committed = if self.one_in(5) { !leads } else { leads };
        (!self.one_in(20)).then(|| peer::Vote { term: self.term(), node_id, committed })
    }

    fn vote(&mut self) -> peer::VoteRequest {
        let envelope = self.envelope();
        let from = envelope.unwrap_or_default().from;
        let mut request = peer::VoteRequest {
            envelope,
            vote: self.ballot(from, false),
            last_log_id: self.log_id(),
            leadership_transfer: self.one_in(2),
        };
        self.change_bytes(&mut request);
        self.tame(&mut request.vote);
        request
    }

    fn append(&mut self, from: u64) -> peer::AppendRequest {
        let prev_log_id = self.log_id();
        let mut index = prev_log_id.map_or(0, |id| id.index.wrapping_add(1));
        let mut entries = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            if self.one_in(5) {
                index = self.number(index);
            }
            entries.push(peer::Entry { term: self.number(self.own.term), index, payload: self.payload() });
            index = index.wrapping_add(1);
        }
        let (vote, leader_commit) = (self.ballot(from, true), self.log_id());
        let cluster_time_ms = self.rng.random_range(0..1_000);
        let mut request = peer::AppendRequest {
            envelope: None,
            vote,
            prev_log_id,
            leader_commit,
            entries,
            cluster_time_ms,
            acknowledged: self.log_id(),
        };
        self.change_bytes(&mut request);
        self.tame(&mut request.vote);
        if fits(request.vote, from) {
            request.entries.clear();
            request.leader_commit = None;
            request.acknowledged = None;
        }
        request
    }

    fn payload(&mut self) -> bytes::Bytes {
        let length = self.rng.random_range(0..24);
        let mut payload: Vec<u8> = (0..length).map(|_| self.rng.random()).collect();
        if let [version, kind, ..] = &mut payload[..] {
            (*version, *kind) = (1, *kind % 4);
        }
        payload.into()
    }

    fn snapshot(&mut self) -> Vec<peer::SnapshotRequest> {
        use peer::snapshot_request::Part;
        let envelope = self.envelope();
        let from = envelope.unwrap_or_default().from;
        let mut header = peer::SnapshotHeader {
            envelope,
            vote: self.ballot(from, true),
            last_log_id: self.log_id(),
            membership_log_id: self.log_id(),
            membership: self.payload(),
            feature_level: self.rng.random_range(0..4),
        };
        self.change_bytes(&mut header);
        self.tame(&mut header.vote);
        let data = admin::snapshot_chunk::Part::Data(self.payload());
        let begin = admin::SnapshotBegin { format_version: 1, applied: self.log_id(), ..Default::default() };
        let begin = admin::snapshot_chunk::Part::Begin(begin);
        let chunks = [begin, data].map(|part| Part::Chunk(admin::SnapshotChunk { part: Some(part) }));
        let parts = std::iter::once(Part::Header(header)).chain(chunks);
        parts.map(|part| peer::SnapshotRequest { part: Some(part) }).collect()
    }

    fn transfer(&mut self) -> peer::TransferLeaderRequest {
        let envelope = self.envelope();
        let from = envelope.unwrap_or_default().from;
        let mut request = peer::TransferLeaderRequest {
            envelope,
            from_leader: self.ballot(from, true),
            to_node: self.node_id(),
            last_log_id: self.log_id(),
        };
        self.change_bytes(&mut request);
        self.tame(&mut request.from_leader);
        request
    }

    /// Changes some bytes of a message, where it is still one then.
    fn change_bytes<M: Message + Default>(&mut self, message: &mut M) {
        if !self.one_in(3) {
            return;
        }
        let mut bytes = message.encode_to_vec();
        for _ in 0..self.rng.random_range(1..4) {
            if !bytes.is_empty() {
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] = self.rng.random();
            }
        }
        if let Ok(changed) = M::decode(&bytes[..]) {
            *message = changed;
        }
    }

    /// Changed bytes may have made a term that is let in and far ahead.
    fn tame(&mut self, vote: &mut Option<peer::Vote>) {
        let own = self.own.term;
        if let Some(vote) = vote.as_mut().filter(|vote| vote.term > own + STEP_MAX)
            && vote.term <= own + 2 * TERM_LEAP_MAX
        {
            vote.term = own + 1;
        }
    }
}

/// Whether it may be the vote of the leader that sends it.
fn fits(vote: Option<peer::Vote>, from: u64) -> bool {
    vote.is_some_and(|vote| vote.committed && vote.node_id == from)
}
