//! openraft's type parameters, and the conversions between its types, the store's and the wire's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use bytes::Bytes;
use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::command::Outcome;
use kvorum_store::entry::{self, PayloadKind};
use kvorum_store::log::Vote as StoredVote;
use prost::Message as _;

use crate::place::Member;

/// The payload of a normal entry: a batch of commands as the store encodes it, header included.
#[derive(Clone, PartialEq)]
pub struct Commands(pub Bytes);

/// What became of each command of a batch, in order.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(pub Vec<Outcome>);

/// Where a member listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// host:port of the peer port.
    pub peer: String,
    /// host:port of the client port.
    pub client: String,
}

/// openraft, as Kvorum uses it: one leader a term, so that a log id is (term, index).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Commands;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Address;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = openraft::Entry<openraft::type_config::alias::CommittedLeaderIdOf<Self>, Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, Address>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
type Payload = openraft::EntryPayload<Commands, u64, Address>;

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands", self.0.len())
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer)
    }
}

/// A log id of openraft's from one of the store's.
pub fn raft_log_id(id: entry::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

/// A log id of the store's from one of openraft's.
pub fn store_log_id(id: &LogId) -> entry::LogId {
    entry::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// A log id on the wire.
pub fn wire_log_id(id: &LogId) -> admin::LogId {
    admin::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// A log id from the wire.
pub fn read_log_id(id: admin::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

/// A vote on the wire.
pub fn wire_vote(vote: &Vote) -> peer::Vote {
    peer::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

/// A vote as the log keeps it.
pub fn stored_vote(vote: &Vote) -> StoredVote {
    StoredVote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

/// A vote that the log kept.
pub fn raft_vote(vote: StoredVote) -> Vote {
    make_vote(vote.term, vote.node_id, vote.committed)
}

fn make_vote(term: u64, node_id: u64, committed: bool) -> Vote {
    let mut vote = Vote::new(term, node_id);
    vote.committed = committed;
    vote
}

/// An entry as the log and the wire carry it.
pub fn store_entry(entry: &Entry) -> entry::Entry {
    let payload = match &entry.payload {
        Payload::Blank => entry::encode_blank(),
        Payload::Normal(commands) => commands.0.clone(),
        Payload::Membership(membership) => entry::encode_membership(&encode_membership(membership)),
    };
    entry::Entry { log_id: store_log_id(&entry.log_id), payload }
}

/// An entry from the log or the wire. Fails on one of a newer format.
pub fn raft_entry(entry: entry::Entry) -> io::Result<Entry> {
    let invalid = |error: &dyn fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("read log entry {}: {error}", entry.log_id))
    };
    let payload = match PayloadKind::of(&entry.payload).map_err(|e| invalid(&e))? {
        PayloadKind::Blank => Payload::Blank,
        PayloadKind::Batch => Payload::Normal(Commands(entry.payload)),
        PayloadKind::Membership => match entry::Payload::decode(entry.payload) {
            Ok(entry::Payload::Membership(bytes)) => Payload::Membership(decode_membership(bytes)?),
            Ok(_) => return Err(io::Error::other("a membership entry holds no membership")),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
    };
    Ok(Entry { log_id: raft_log_id(entry.log_id), payload })
}

/// A membership on the wire; in the log it stands as this message's bytes, without a log id.
pub fn wire_membership(membership: &Membership, log_id: Option<&LogId>) -> admin::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes().map(|(id, address)| admin::Node {
        node_id: *id,
        peer_address: address.peer.clone(),
        client_address: address.client.clone(),
    });
    admin::Membership {
        log_id: log_id.map(wire_log_id),
        configs: configs.map(|ids| admin::VoterSet { node_ids: ids.iter().copied().collect() }).collect(),
        nodes: nodes.collect(),
    }
}

/// The bytes of a membership as they stand in the log and in the store.
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    wire_membership(membership, None).encode_to_vec()
}

/// A membership from the bytes in the log or the store.
pub fn decode_membership(bytes: Bytes) -> io::Result<Membership> {
    let wire = admin::Membership::decode(bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("read membership: {e}")))?;
    let configs: Vec<BTreeSet<u64>> =
        wire.configs.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Address> = wire
        .nodes
        .into_iter()
        .map(|n| (n.node_id, Address { peer: n.peer_address, client: n.client_address }))
        .collect();
    Membership::new(configs, nodes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("read membership: {e}")))
}

/// The store's last applied membership, as openraft wants it.
pub fn stored_membership(stored: Option<(entry::LogId, Bytes)>) -> io::Result<StoredMembership> {
    match stored {
        None => Ok(StoredMembership::default()),
        Some((id, bytes)) => Ok(StoredMembership::new(Some(raft_log_id(id)), decode_membership(bytes)?)),
    }
}

/// All members.
pub(super) fn members(stored: &StoredMembership) -> Vec<Member> {
    let membership = stored.membership();
    let member = |(id, address): (&u64, &Address)| Member {
        node_id: *id,
        peer: address.peer.clone(),
        client: address.client.clone(),
        voter: is_voter(membership, *id),
    };
    membership.nodes().map(member).collect()
}

/// Whether a node votes.
pub(super) fn is_voter(membership: &Membership, node_id: u64) -> bool {
    membership.voter_ids().any(|id| id == node_id)
}

/// The bytes of a membership of one voter, as log and store keep them.
pub fn founding_membership(node_id: u64, peer: &str, client: &str) -> Vec<u8> {
    let node = admin::Node { node_id, peer_address: peer.into(), client_address: client.into() };
    let configs = vec![admin::VoterSet { node_ids: vec![node_id] }];
    admin::Membership { log_id: None, configs, nodes: vec![node] }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_log() {
        let address = Address { peer: "p:1".into(), client: "c:2".into() };
        let membership = Membership::new(vec![BTreeSet::from([7])], BTreeMap::from([(7, address)]))
            .expect("a valid membership");
        let commands = Commands(entry::encode_batch(3, [Bytes::from_static(b"x")].iter()));
        for payload in [Payload::Blank, Payload::Normal(commands), Payload::Membership(membership)] {
            let entry = Entry { log_id: LogId::new_term_index(3, 9), payload };
            let again = raft_entry(store_entry(&entry)).expect("just encoded");
            assert!(again == entry, "{again:?} is not {entry:?}");
        }
    }

    #[test]
    fn an_entry_of_a_newer_format_is_refused() {
        let entry = entry::Entry {
            log_id: entry::LogId { term: 1, index: 2 },
            payload: Bytes::from_static(&[entry::FORMAT_VERSION + 1, 1]),
        };
        let error = raft_entry(entry).expect_err("a newer format");
        assert!(error.to_string().contains("1.2") && error.to_string().contains("newer"), "{error}");
    }
}
