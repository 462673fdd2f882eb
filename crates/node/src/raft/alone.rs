//! Whether a quorum is really lost: what a node asks the other voters before it goes on without them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_client::AdminClient;
use kvorum_store::entry::LogId;
use tokio::time::{Instant, sleep, timeout};

use super::Raft;
use super::leadership::is_majority;
use super::types::StoredMembership;
use crate::error::MembershipError;
use crate::net::dialer::Dialer;

/// Voters are asked for so many election timeouts: the lease of a leader that ended just now, the longest
/// timeout after it, the same once more where the votes split, and one for a leader to be heard of.
const ELECTION_TIMEOUTS: u32 = 4;
/// How long a voter may take to answer. One that takes longer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);

impl Raft {
    /// Refuses where a majority of the voters lives, this node included, or where a voter that lives has more than
    /// this node. A voter that answered once in all the time that it takes counts as one that lives.
    pub(super) async fn check_alone(&self, last: LogId) -> Result<(), MembershipError> {
        let memberships = self.memberships()?;
        let voters: BTreeMap<u64, String> = memberships
            .iter()
            .flat_map(|stored| stored.membership().nodes())
            .filter(|(id, _)| {
                memberships.iter().any(|stored| stored.membership().voter_ids().any(|v| v == **id))
            })
            .map(|(id, address)| (*id, address.peer.clone()))
            .collect();
        let own = self.overview();
        let mut live: BTreeMap<u64, String> = BTreeMap::new();
        if self.status_only().is_none() {
            live.insert(own.node_id, self.options().advertise_peer.clone());
        }
        let deadline = Instant::now() + self.election_timeout() * ELECTION_TIMEOUTS;
        loop {
            let others = voters.iter().filter(|(id, _)| **id != own.node_id);
            for (id, address, status) in
                join_all(others.map(|(id, address)| ask(self.dialer(), *id, address))).await
            {
                let Some(status) = status else { continue };
                if (status.node_id, status.cluster_id) != (id, own.cluster_id) {
                    // Another disk is there now.
                    continue;
                }
                if let Some(refusal) = ahead(&status, own.incarnation, last) {
                    return Err(MembershipError::Refused(format!("node {id:016x} ({address}) {refusal}")));
                }
                if status.status_only.is_empty() && status.incarnation == own.incarnation {
                    live.insert(id, address);
                }
            }
            let ids: BTreeSet<u64> = live.keys().copied().collect();
            let quorum = |stored: &Arc<StoredMembership>| {
                let configs = stored.membership().get_joint_config();
                !configs.is_empty() && is_majority(configs, &ids)
            };
            if memberships.iter().any(quorum) {
                let named: Vec<String> = live.iter().map(|(id, at)| format!("{id:016x} ({at})")).collect();
                return Err(MembershipError::Refused(format!(
                    "a majority of the voters lives, {}: they elect a leader, and nothing is to be recovered",
                    named.join(", ")
                )));
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}

async fn ask(dialer: &Dialer, id: u64, address: &str) -> (u64, String, Option<admin::StatusResponse>) {
    let question = async {
        let channel = dialer.channel(address).ok()?;
        let answer = AdminClient::new(channel).status(admin::StatusRequest::default()).await;
        Some(answer.ok()?.into_inner())
    };
    (id, address.to_owned(), timeout(ANSWER_MAX, question).await.ok().flatten())
}

/// What a voter has that this node lacks.
fn ahead(status: &admin::StatusResponse, incarnation: u64, last: LogId) -> Option<String> {
    let theirs = status.last_log.map(|id| LogId { term: id.term, index: id.index }).unwrap_or_default();
    if status.incarnation > incarnation {
        return Some(format!(
            "is of incarnation {}: the cluster went on without this disk",
            status.incarnation
        ));
    }
    (status.incarnation == incarnation && theirs > last).then(|| {
        format!(
            "answers and has more, up to {theirs}, where the log here ends at {last}: recover from that one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a voter that has more is seen, whatever it is. Method: a table.
    #[test]
    fn who_has_more_is_seen() {
        let status = |incarnation, term, index| admin::StatusResponse {
            incarnation,
            last_log: Some(admin::LogId { term, index }),
            ..Default::default()
        };
        let last = LogId { term: 3, index: 9 };
        let cases = [
            (status(2, 3, 9), None),
            (status(2, 3, 8), None),
            (status(2, 2, 20), None),
            (status(2, 3, 10), Some("has more, up to 3.10")),
            (status(2, 4, 1), Some("has more, up to 4.1")),
            (status(1, 9, 9), None),
            (status(3, 1, 1), Some("is of incarnation 3")),
        ];
        for (status, wanted) in cases {
            let said = ahead(&status, 2, last);
            assert_eq!(said.is_some(), wanted.is_some(), "{status:?}");
            assert!(said.unwrap_or_default().contains(wanted.unwrap_or_default()), "{status:?}");
        }
    }
}
