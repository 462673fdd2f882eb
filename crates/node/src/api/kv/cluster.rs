//! `kv.v1.Cluster`: what the cluster looks like, as any node can tell. It changes nothing.

use std::time::Duration;

use futures_util::future::join_all;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_client::AdminClient;
use kvorum_proto::kv::v1 as pb;
use kvorum_proto::kv::v1::cluster_server::{Cluster, ClusterServer};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::convert::header;
use crate::access::{Caller, Needs};
use crate::net::deadline::deadline;
use crate::net::way::Way;
use crate::place::Member;
use crate::requests::Requests;

/// A member that does not answer within this is reported as not reachable.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    requests: Requests,
}

impl ClusterService {
    /// The service, ready to be served.
    pub fn server(requests: Requests) -> ClusterServer<ClusterService> {
        ClusterServer::new(ClusterService { requests })
    }

    async fn ask_all(&self, own_id: u64, members: &[Member]) -> Vec<Option<Answer>> {
        join_all(members.iter().map(|member| self.ask(own_id, member))).await
    }

    async fn ask(&self, own_id: u64, member: &Member) -> Option<Answer> {
        let asked = Instant::now();
        let status = if member.node_id == own_id {
            self.requests.status()
        } else {
            timeout(MEMBER_TIMEOUT, ask(self.requests.raft().way_to(member))).await.ok().flatten()?
        };
        Some(Answer { status, asked, answered: Instant::now() })
    }
}

/// What was answered at a member's address, and when: the status is of a moment between the two.
struct Answer {
    status: admin::StatusResponse,
    asked: Instant,
    answered: Instant,
}

async fn ask(way: Option<Way>) -> Option<admin::StatusResponse> {
    let response = AdminClient::new(way?).status(admin::StatusRequest::default()).await;
    response.ok().map(Response::into_inner)
}

/// What is known of the members by their answers, of which the leader's says what only a leader knows.
fn describe_all(members: &[Member], answers: &[Option<Answer>]) -> Vec<pb::Member> {
    let answered = members.iter().zip(answers).filter_map(|(member, answer)| {
        answer.as_ref().filter(|answer| answer.status.node_id == member.node_id)
    });
    let leader = answered
        .filter(|answer| answer.status.state() == admin::State::Leader)
        .max_by_key(|answer| answer.status.term);
    let described = members.iter().zip(answers).map(|(member, answer)| {
        let described = describe(member, answer.as_ref().map(|answer| &answer.status));
        let Some(leader) = leader else { return described };
        let progress = leader.status.progress.iter().find(|progress| progress.node_id == member.node_id);
        let lagging_ms = progress.map_or(0, |progress| progress.lagging_ms);
        let clock_lag_ms =
            answer.as_ref().filter(|_| described.reachable).map_or(0, |answer| clock_lag_ms(leader, answer));
        pb::Member { lagging_ms, clock_lag_ms, ..described }
    });
    described.collect()
}

/// How far a member's cluster time is behind the leader's, at the least: what the answers took on their way
/// does not count.
fn clock_lag_ms(leader: &Answer, member: &Answer) -> u64 {
    let (theirs, own) = (leader.status.cluster_time_ms, member.status.cluster_time_ms);
    if theirs == 0 || own == 0 {
        return 0;
    }
    // Both as of when the member was asked: its own time was no later than it says, the leader's no earlier.
    let later = member.asked.saturating_duration_since(leader.answered).as_millis() as u64;
    let earlier = leader.answered.saturating_duration_since(member.asked).as_millis() as u64;
    (theirs + later).saturating_sub(own + earlier)
}

/// What is known of a member by what was answered at its address. That may be another disk.
fn describe(member: &Member, status: Option<&admin::StatusResponse>) -> pb::Member {
    let known = pb::Member {
        node_id: member.node_id,
        peer_address: member.peer.clone(),
        client_address: member.client.clone(),
        voter: member.voter,
        ..Default::default()
    };
    let Some(status) = status else { return known };
    if status.node_id != member.node_id {
        let (other_node_id, other_cluster_id) = (status.node_id, status.cluster_id);
        return pb::Member { other_node_id, other_cluster_id, ..known };
    }
    let status = status.clone();
    let index = |id: Option<admin::LogId>| id.map_or(0, |id| id.index);
    pb::Member {
        role: role(&status).into(),
        reachable: true,
        applied_index: index(status.applied),
        last_log_index: index(status.last_log),
        version: status.version,
        revision: status.revision,
        store_bytes: status.store_bytes,
        log_bytes: status.log_bytes,
        alarms: status.alarms,
        ..known
    }
}

fn role(status: &admin::StatusResponse) -> pb::member::Role {
    use pb::member::Role;
    match status.state() {
        admin::State::Unspecified if !status.status_only.is_empty() => Role::StatusOnly,
        admin::State::Unspecified => Role::Unknown,
        admin::State::Unjoined => Role::Unjoined,
        admin::State::Learner => Role::Learner,
        admin::State::Follower => Role::Follower,
        admin::State::Candidate => Role::Candidate,
        admin::State::Leader => Role::Leader,
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn members(
        &self,
        request: Request<pb::MembersRequest>,
    ) -> Result<Response<pb::MembersResponse>, Status> {
        let caller = Caller::of(&request)?;
        self.requests.may(&caller, Needs::User, deadline(request.metadata())).await?;
        let overview = self.requests.overview()?;
        let own = self.requests.status();
        let mut members = overview.members.clone();
        let mut answers = self.ask_all(overview.node_id, &members).await;
        // A member that was removed, or lags, knows the members of then. One more look is enough: who was asked knows
        // them all.
        let newer = newer_leader(&own, &answers);
        if let Some(leader) = &newer {
            members = members_of(leader);
            answers = self.ask_all(overview.node_id, &members).await;
        }
        let known = overview.leader.as_ref().map_or(0, |leader| leader.node_id);
        let leader_id = newer.map_or(known, |leader| leader.node_id);
        let members = describe_all(&members, &answers);
        let header = header(self.requests.head(self.requests.store().revision()));
        let feature_level = self.requests.store().feature_level();
        Ok(Response::new(pb::MembersResponse { header: Some(header), leader_id, members, feature_level }))
    }
}

/// The leader of this node's cluster, if one answers that knows a later membership than this node.
fn newer_leader(own: &admin::StatusResponse, answers: &[Option<Answer>]) -> Option<admin::StatusResponse> {
    let position = |status: &admin::StatusResponse| {
        let id = status.membership.as_ref()?.log_id?;
        Some((id.term, id.index))
    };
    let of_cluster = |status: &&admin::StatusResponse| {
        (status.cluster_id, status.incarnation) == (own.cluster_id, own.incarnation)
    };
    let statuses = answers.iter().flatten().map(|answer| &answer.status);
    let leaders = statuses.filter(of_cluster).filter(|status| status.state() == admin::State::Leader);
    leaders.max_by_key(|status| status.term).filter(|leader| position(leader) > position(own)).cloned()
}

/// The members that a node knows.
fn members_of(status: &admin::StatusResponse) -> Vec<Member> {
    let Some(membership) = &status.membership else { return Vec::new() };
    let votes = |id| membership.configs.iter().any(|config| config.node_ids.contains(&id));
    let member = |node: &admin::Node| Member {
        node_id: node.node_id,
        peer: node.peer_address.clone(),
        client: node.client_address.clone(),
        voter: votes(node.node_id),
    };
    membership.nodes.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What answers at a member's address is the member, another disk, or nobody.
    #[test]
    fn another_disk_at_the_address_is_named_and_is_not_the_member() {
        let member = Member { node_id: 7, peer: "a:2380".into(), client: "a:2379".into(), voter: true };
        let status =
            |node_id, cluster_id| admin::StatusResponse { node_id, cluster_id, ..Default::default() };
        let told = |status: Option<&admin::StatusResponse>| {
            let told = describe(&member, status);
            assert_eq!((told.node_id, &*told.peer_address), (7, "a:2380"));
            (told.reachable, told.other_node_id, told.other_cluster_id)
        };
        assert_eq!(told(None), (false, 0, 0));
        assert_eq!(told(Some(&status(7, 1))), (true, 0, 0));
        assert_eq!(told(Some(&status(8, 0))), (false, 8, 0), "an empty disk");
        assert_eq!(told(Some(&status(8, 2))), (false, 8, 2), "another cluster's");
    }

    /// Whoever is asked says what the leader knows. A clock's lag is never more than it is, however long the
    /// answers were on their way.
    #[test]
    fn what_the_leader_knows_is_told() {
        let member = |node_id| Member { node_id, peer: String::new(), client: String::new(), voter: true };
        let (members, start) = ([1, 2, 3].map(member), Instant::now());
        let answer = |node_id, cluster_time_ms, asked: u64, answered: u64| {
            let after = |ms| start + Duration::from_millis(ms);
            let status = admin::StatusResponse { node_id, cluster_time_ms, ..Default::default() };
            Some(Answer { status, asked: after(asked), answered: after(answered) })
        };
        let mut answers = [answer(1, 5_000, 0, 10), answer(2, 4_000, 0, 30), None];
        let told = |answers: &[Option<Answer>]| -> Vec<_> {
            let told = describe_all(&members, answers);
            told.iter().map(|member| (member.lagging_ms, member.clock_lag_ms)).collect()
        };
        assert_eq!(told(&answers), [(0, 0); 3], "nobody leads");
        let leader = &mut answers[0].as_mut().expect("it answered").status;
        leader.state = admin::State::Leader.into();
        let lagging = |(node_id, lagging_ms)| admin::Progress { node_id, lagging_ms, ..Default::default() };
        leader.progress = [(2, 0), (3, 7_000)].map(lagging).to_vec();
        assert_eq!(told(&answers), [(0, 0), (0, 990), (7_000, 0)]);
        answers[1] = answer(2, 4_000, 500, 600);
        assert_eq!(told(&answers)[1], (0, 1_490));
        answers[1] = answer(2, 0, 500, 600);
        assert_eq!(told(&answers)[1], (0, 0), "of a release that says no time");
        answers[1] = answer(4, 1, 0, 1);
        assert_eq!(told(&answers)[1], (0, 0), "another disk");
    }

    /// Goal: whoever asks a member that was removed hears who the members are. Method: what a leader of the same
    /// cluster says, with memberships before and after this node's.
    #[test]
    fn a_leader_that_knows_a_later_membership_is_believed() {
        let status =
            |node_id, cluster_id, state: admin::State, index, voters: &[u64]| admin::StatusResponse {
                node_id,
                cluster_id,
                state: state.into(),
                membership: Some(admin::Membership {
                    log_id: Some(admin::LogId { term: 1, index }),
                    configs: vec![admin::VoterSet { node_ids: voters.to_vec() }],
                    nodes: voters
                        .iter()
                        .map(|id| admin::Node { node_id: *id, ..Default::default() })
                        .collect(),
                }),
                ..Default::default()
            };
        let own = status(1, 7, admin::State::Follower, 5, &[1, 2]);
        let newer = |status| {
            let now = Instant::now();
            let leader = newer_leader(&own, &[None, Some(Answer { status, asked: now, answered: now })]);
            leader.map(|leader| members_of(&leader).iter().map(|member| member.node_id).collect::<Vec<_>>())
        };
        assert_eq!(newer(status(2, 7, admin::State::Leader, 6, &[2])), Some(vec![2]));
        assert_eq!(newer(status(2, 7, admin::State::Leader, 5, &[2])), None, "it knows no more");
        assert_eq!(newer(status(2, 8, admin::State::Leader, 6, &[2])), None, "another cluster's");
        assert_eq!(
            newer(status(2, 7, admin::State::Follower, 6, &[2])),
            None,
            "it may know of what never came to be"
        );
    }
}
