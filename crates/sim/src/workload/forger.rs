//! Somebody on the network who is no member and says that he is: votes of terms that no elections can reach, votes of
//! nodes that nobody knows, and appends of leaders that nobody has elected.

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
/// How long one may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Sends what nobody is to believe, until told to stop.
pub async fn work(session: Arc<Session>, network: HostNetwork, peers: Vec<String>) {
    let mut random = stream(session.seed, "forger");
    let dialer = Dialer::new(Arc::new(network.clone()), None);
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let address = &peers[random.random_range(0..peers.len())];
        let Ok(admin) = AdminClient::new(address, ANSWER_MAX) else { return };
        let Ok(status) = admin.connect_options(options(&network)).status().await else { continue };
        let Ok(mut client) = dialer.peer_client(address) else { return };
        let request = vote(&status, &mut random);
        let answer = match random.random_range(0..3) {
            0 => timeout(ANSWER_MAX, client.pre_vote(request)).await,
            _ => timeout(ANSWER_MAX, client.vote(request)).await,
        };
        session.trace.note("forged", &[u64::from(matches!(answer, Ok(Ok(_))))], &[]);
    }
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
    let envelope = peer::Envelope {
        cluster_id: status.cluster_id,
        incarnation: status.incarnation,
        from,
        to: status.node_id,
    };
    peer::VoteRequest {
        envelope: Some(envelope),
        vote: Some(peer::Vote { term, node_id: from, committed: false }),
        last_log_id,
        leadership_transfer: random.random_range(0..2) == 0,
    }
}
