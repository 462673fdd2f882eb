//! Somebody on the network who is no member and says that he is: votes of terms that no elections can reach, votes of
//! nodes that nobody knows, a leader whom nobody elected, and calls that are meant for another disk, which nobody is to
//! answer.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::admin::{AdminClient, v1};
use kvorum_node::net::dialer::Dialer;
use kvorum_proto::peer::v1 as peer;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use super::{HostNetwork, Session, options};
use crate::world::random::stream;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(700);
/// One in so many is of a leader.
const LEADERS: u32 = 8;
/// How long one may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Sends what nobody is to believe, until told to stop.
pub async fn work(session: Arc<Session>, network: HostNetwork, peers: Vec<String>) {
    let mut random = stream(session.seed, "forger");
    let dialer = Dialer::new(Arc::new(network.of_user(None)), None);
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let address = &peers[random.random_range(0..peers.len())];
        let Ok(admin) = AdminClient::new(address, ANSWER_MAX) else { return };
        let Ok(status) = admin.connect_options(options(&network)).status().await else { continue };
        let Ok(mut client) = dialer.peer_client(address) else { return };
        if random.random_range(0..LEADERS) == 0 {
            let requests = futures_util::stream::iter(leads(&status, random.random()));
            let answers = timeout(ANSWER_MAX, client.append(requests)).await;
            session.trace.note("forged a leader", &[u64::from(matches!(answers, Ok(Ok(_))))], &[]);
            continue;
        }
        let is_for_another = random.random_range(0..3) == 0;
        let request =
            if is_for_another { misaddressed(&status, &mut random) } else { vote(&status, &mut random) };
        let envelope = request.envelope;
        let answer = match random.random_range(0..3) {
            0 => timeout(ANSWER_MAX, client.pre_vote(request)).await,
            _ => timeout(ANSWER_MAX, client.vote(request)).await,
        };
        let is_answered = matches!(answer, Ok(Ok(_)));
        session.trace.note("forged", &[u64::from(is_answered)], &[]);
        // It may be another disk by now.
        if is_for_another && is_answered && !session.is_healed() {
            session.violated(format!("{address} has answered a call that is for another disk: {envelope:?}"));
        }
    }
}

/// What a member would ask for, and be answered, of the disk that had this address before, or of a cluster as it was
/// before a recovery.
fn misaddressed(status: &v1::StatusResponse, random: &mut StdRng) -> peer::VoteRequest {
    let members = status.membership.iter().flat_map(|membership| &membership.nodes);
    let from = members.map(|node| node.node_id).find(|id| *id != status.node_id).unwrap_or_default();
    let (mut to, mut cluster_id, mut incarnation) = (status.node_id, status.cluster_id, status.incarnation);
    match random.random_range(0..3) {
        0 => to ^= 1 << random.random_range(0..64),
        1 => cluster_id ^= 1 << random.random_range(0..64),
        _ => incarnation += 1,
    }
    peer::VoteRequest {
        envelope: Some(peer::Envelope { cluster_id, incarnation, from, to }),
        vote: Some(peer::Vote { term: status.term, node_id: from, committed: false }),
        last_log_id: status.last_log,
        leadership_transfer: false,
    }
}

/// What a leader of the next term would begin with, whom a member hears: the term may have been made without it. Another
/// one may be elected in that term, and is to be followed in the end.
fn leads(status: &v1::StatusResponse, from: u64) -> [peer::AppendRequest; 2] {
    let vote = Some(peer::Vote { term: status.term + 1, node_id: from, committed: true });
    [
        peer::AppendRequest { envelope: envelope(status, from), ..Default::default() },
        peer::AppendRequest { vote, ..Default::default() },
    ]
}

/// To whom it is sent, and of which cluster, as it should be.
fn envelope(status: &v1::StatusResponse, from: u64) -> Option<peer::Envelope> {
    let v1::StatusResponse { cluster_id, incarnation, node_id: to, .. } = *status;
    Some(peer::Envelope { cluster_id, incarnation, from, to })
}

fn vote(status: &v1::StatusResponse, random: &mut StdRng) -> peer::VoteRequest {
    let members = status.membership.iter().flat_map(|membership| &membership.nodes);
    let others: Vec<u64> = members.map(|node| node.node_id).filter(|id| *id != status.node_id).collect();
    let is_member = !others.is_empty() && random.random_range(0..2) == 0;
    let from = if is_member { others[random.random_range(0..others.len())] } else { random.random() };
    // What a member says of a term within reach is believed, forged or not, as long as there is no TLS.
    let term = match random.random_range(0..3) {
        0 => u64::MAX - random.random_range(0..2),
        1 => 1 << random.random_range(30..62),
        _ if is_member => status.term + (1 << 30),
        _ => status.term + 1,
    };
    let last_log_id = status.last_log.filter(|_| random.random_range(0..2) == 0);
    peer::VoteRequest {
        envelope: envelope(status, from),
        vote: Some(peer::Vote { term, node_id: from, committed: false }),
        last_log_id,
        leadership_transfer: random.random_range(0..2) == 0,
    }
}
