//! Goal: what a member that keeps to the protocol sends passes, and nothing passes that openraft asserts
//! never to see. Method: a good message of each kind, and a table of what is changed in it.
use bytes::Bytes;
use kvorum_store::entry::{encode_batch, encode_blank, encode_membership};

use super::*;
use crate::raft::standing::TERM_LEAP_MAX;
use crate::raft::types::founding_membership;

const OWN: u64 = 1;
const FROM: u64 = 2;

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn wire(term: u64, index: u64) -> Option<admin::LogId> {
    Some(admin::LogId { term, index })
}

fn ballot(term: u64, node_id: u64, committed: bool) -> Option<peer::Vote> {
    Some(peer::Vote { term, node_id, committed })
}

/// Term 5, a log up to 5.20, committed up to 4.10.
fn standing() -> Standing {
    Standing {
        node_id: OWN,
        vote: Some(Vote { term: 5, node_id: FROM, committed: true }),
        last: Some(id(5, 20)),
        committed: Some(id(4, 10)),
        leader: None,
    }
}

fn members(ids: &[u64]) -> Membership {
    let nodes: std::collections::BTreeMap<u64, super::super::types::Address> =
        ids.iter().map(|id| (*id, Default::default())).collect();
    Membership::new(vec![ids.iter().copied().collect()], nodes).expect("voters with nodes")
}

fn said<T>(checked: Result<T, Refused>) -> String {
    checked.err().map_or_else(String::new, |refused| refused.to_string())
}

/// What is refused says why; an empty text is a message that passes.
fn expect<T>(case: &str, checked: Result<T, Refused>, wanted: &str) {
    let said = said(checked);
    assert!(
        said.contains(wanted) && said.is_empty() == wanted.is_empty(),
        "{case}: '{said}', not '{wanted}'"
    );
}

fn vote_request() -> peer::VoteRequest {
    let envelope = Some(peer::Envelope { from: FROM, ..Default::default() });
    let (vote, last_log_id) = (ballot(6, FROM, false), wire(5, 20));
    peer::VoteRequest { envelope, vote, last_log_id, leadership_transfer: true }
}

#[test]
fn votes() {
    let known = members(&[OWN, FROM, 3]);
    type Change = fn(&mut peer::VoteRequest);
    let cases: [(&str, Change, &str); 11] = [
        ("as it should be", |_| {}, ""),
        ("no vote", |r| r.vote = None, "brings the vote of node 0000000000000000"),
        ("another's vote", |r| r.vote = ballot(6, 3, false), "brings the vote"),
        ("a leader's", |r| r.vote = ballot(6, FROM, true), "has no majority yet"),
        ("term 0", |r| r.vote = ballot(0, FROM, false), "no election has term 0"),
        ("the last term", |r| r.vote = ballot(u64::MAX, FROM, false), "no term that elections can reach"),
        (
            "a leap",
            |r| r.vote = ballot(6 + TERM_LEAP_MAX, FROM, false),
            "16777217 ahead of this node's, which is 5",
        ),
        ("just none", |r| r.vote = ballot(5 + TERM_LEAP_MAX, FROM, false), ""),
        ("a log of its own term", |r| r.last_log_id = wire(6, 21), "of a later term"),
        ("the last index", |r| r.last_log_id = wire(5, u64::MAX), "no position"),
        ("no log", |r| r.last_log_id = None, ""),
    ];
    for (case, change, wanted) in cases {
        let mut request = vote_request();
        change(&mut request);
        expect(case, vote(&standing(), &[&known], request), wanted);
    }
    let own = Standing { node_id: FROM, ..standing() };
    expect("its own", vote(&own, &[&known], vote_request()), "this node's own");
    // An empty disk knows no term.
    let far = peer::VoteRequest { vote: ballot(1 << 40, FROM, false), ..vote_request() };
    expect("an empty disk", vote(&Standing { node_id: OWN, ..Default::default() }, &[], far), "");
}

#[test]
fn votes_of_strangers() {
    let known = members(&[OWN, 3]);
    let with_log = |last_log_id| peer::VoteRequest { last_log_id, ..vote_request() };
    expect("the same log", vote(&standing(), &[&known], with_log(wire(5, 20))), "is no voter");
    expect("a shorter one", vote(&standing(), &[&known], with_log(wire(4, 90))), "is no voter");
    let ahead = vote(&standing(), &[&known], with_log(wire(5, 21))).expect("it may have been added since");
    assert!(!ahead.leadership_transfer, "the leader is still heard of");
    let added = members(&[OWN, FROM]);
    assert!(vote(&standing(), &[&known, &added], vote_request()).expect("a voter").leadership_transfer);
    expect("no members yet", vote(&standing(), &[&Membership::default()], vote_request()), "");
}

fn entry(term: u64, index: u64, payload: Bytes) -> peer::Entry {
    peer::Entry { term, index, payload }
}

fn append_request() -> peer::AppendRequest {
    let batch = encode_batch(1, [Bytes::from_static(b"x")].iter());
    let membership = encode_membership(&founding_membership(FROM, "a:1", "a:2"));
    peer::AppendRequest {
        envelope: None,
        vote: ballot(6, FROM, true),
        prev_log_id: wire(5, 20),
        leader_commit: wire(5, 19),
        entries: vec![entry(5, 21, batch), entry(6, 22, encode_blank()), entry(6, 23, membership)],
        cluster_time_ms: 0,
        acknowledged: None,
    }
}

#[test]
fn appends() {
    type Change = fn(&mut peer::AppendRequest);
    let cases: [(&str, Change, &str); 22] = [
        ("as it should be", |_| {}, ""),
        ("a heartbeat", |r| r.entries.clear(), ""),
        ("a candidate's", |r| r.vote = ballot(6, FROM, false), "that of a majority"),
        ("another's", |r| r.vote = ballot(6, 3, true), "brings the vote"),
        ("a leap", |r| r.vote = ballot(1 << 40, FROM, true), "ahead of this node's"),
        (
            "a stale leader's nonsense",
            |r| {
                r.vote = ballot(4, FROM, true);
                r.entries.swap(0, 2);
            },
            "",
        ),
        ("a hole", |r| _ = r.entries.remove(0), "does not follow 5.20"),
        ("out of order", |r| r.entries.swap(0, 1), "does not follow"),
        ("twice", |r| r.entries[1].index = 21, "does not follow 5.21"),
        ("terms that fall", |r| r.entries[2].term = 5, "does not follow 6.22"),
        ("a later term", |r| r.entries[2].term = 7, "of a later term"),
        ("the last index", |r| r.entries[0].index = u64::MAX, "no position"),
        ("from the begin, late", |r| r.prev_log_id = None, "does not follow the log's begin"),
        ("a prev of later", |r| r.prev_log_id = wire(7, 20), "of a later term"),
        ("a prev at the end", |r| r.prev_log_id = wire(5, u64::MAX), "no position"),
        (
            "another prev",
            |r| {
                r.entries.clear();
                r.prev_log_id = wire(3, 10)
            },
            "contradicts 4.10",
        ),
        ("a commit that is older", |r| r.leader_commit = wire(5, 9), "contradicts 4.10"),
        (
            "a commit of another log",
            |r| {
                r.entries.truncate(1);
                r.leader_commit = wire(6, 21);
            },
            "contradicts 5.21",
        ),
        ("a payload of nothing", |r| r.entries[0].payload = Bytes::new(), "entry 5.21: entry is cut short"),
        ("a newer payload", |r| r.entries[0].payload = Bytes::from_static(&[9, 1]), "newer"),
        ("an unknown kind", |r| r.entries[0].payload = Bytes::from_static(&[1, 9]), "unknown kind 9"),
        ("no voters", |r| r.entries[2].payload = encode_membership(b""), "without voters"),
    ];
    for (case, change, wanted) in cases {
        let mut request = append_request();
        change(&mut request);
        expect(case, append(&standing(), FROM, request), wanted);
    }
    let led = Standing { leader: Some((6, 3)), ..standing() };
    expect(
        "two leaders",
        append(&led, FROM, append_request()),
        "the leader of term 6 is node 0000000000000003",
    );
    // Whoever was misled stands for election; the leader of the term before hears of it, and starts afresh.
    let stands = Standing { vote: Some(Vote { term: 7, node_id: OWN, committed: false }), ..led };
    expect("the leader of a term that is over", append(&stands, FROM, append_request()), "");
}

#[test]
fn snapshots() {
    type Change = fn(&mut peer::SnapshotHeader);
    let cases: [(&str, Change, &str); 11] = [
        ("as it should be", |_| {}, ""),
        ("a candidate's", |h| h.vote = ballot(6, FROM, false), "that of a majority"),
        ("of nothing", |h| h.last_log_id = None, "of nothing"),
        ("of a later term", |h| h.last_log_id = wire(7, 30), "of a later term"),
        ("the last index", |h| h.last_log_id = wire(6, u64::MAX), "no position"),
        ("not further", |h| h.last_log_id = wire(6, 10), "contradicts 4.10"),
        (
            "before the log's end",
            |h| {
                h.last_log_id = wire(4, 30);
                h.membership_log_id = wire(4, 2);
            },
            "ends at 5.20",
        ),
        ("no membership's position", |h| h.membership_log_id = None, "stands in the log before"),
        ("a later membership", |h| h.membership_log_id = wire(6, 31), "stands in the log before"),
        ("no membership", |h| h.membership = Bytes::new(), "without voters"),
        ("no membership at all", |h| h.membership = Bytes::from_static(b"\xff"), "read membership"),
    ];
    for (case, change, wanted) in cases {
        let mut header = peer::SnapshotHeader {
            envelope: Some(peer::Envelope { from: FROM, ..Default::default() }),
            vote: ballot(6, FROM, true),
            last_log_id: wire(6, 30),
            membership_log_id: wire(4, 2),
            membership: founding_membership(FROM, "a:1", "a:2").into(),
            feature_level: 0,
        };
        change(&mut header);
        let known = StoredMembership::default();
        let checked = snapshot_header(&standing(), &known, header);
        if let Ok(header) = &checked {
            expect("its files", snapshot_content(header, Some(id(6, 30))), "");
            expect("others", snapshot_content(header, Some(id(6, 31))), "are of 6.31");
            expect("none", snapshot_content(header, None), "are of nothing");
        }
        expect(case, checked, wanted);
    }
}

#[test]
fn hand_overs_and_answers() {
    let request = |from_leader, to_node| peer::TransferLeaderRequest {
        envelope: Some(peer::Envelope { from: FROM, ..Default::default() }),
        from_leader,
        to_node,
        last_log_id: wire(5, 20),
    };
    let known = members(&[OWN, FROM]);
    let leader = || ballot(5, FROM, true);
    expect("fits", transfer_leader(&standing(), &[&known], request(leader(), OWN)), "");
    let learns = members(&[FROM]);
    expect("a learner", transfer_leader(&standing(), &[&learns], request(leader(), OWN)), "is no voter");
    let candidate = ballot(5, FROM, false);
    expect("no leader's", transfer_leader(&standing(), &[&known], request(candidate, OWN)), "of a majority");

    expect("an answer", answered_vote(&standing(), FROM, ballot(9, 3, true)), "");
    // Somebody stood in this node's name.
    let borrowed = answered_vote(&standing(), FROM, ballot(9, OWN, true)).expect("its term counts");
    assert_eq!((borrowed.term, borrowed.node_id), (9, FROM));
    let own = answered_vote(&standing(), FROM, ballot(standing().term(), OWN, true)).expect("its own");
    assert_eq!(own.node_id, OWN);
    expect("a leap", answered_vote(&standing(), FROM, ballot(u64::MAX, 3, true)), "no term");
    expect("a position", answered_log_id(wire(1, u64::MAX)), "no position");
}
