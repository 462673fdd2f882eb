//! `kv.v1.Cluster`: what the cluster looks like, as any node can tell. It changes nothing.

use std::time::Duration;

use futures_util::future::join_all;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_client::AdminClient;
use kvorum_proto::kv::v1 as pb;
use kvorum_proto::kv::v1::cluster_server::{Cluster, ClusterServer};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::transport;
use crate::error::RequestError;
use crate::raft::{Member, Raft};

/// A member that does not answer within this is reported as not reachable.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    raft: Raft,
}

impl ClusterService {
    /// The service, ready to be served.
    pub fn server(raft: Raft) -> ClusterServer<ClusterService> {
        ClusterServer::new(ClusterService { raft })
    }

    async fn member(&self, member: &Member, own_id: u64) -> pb::Member {
        let status = if member.node_id == own_id {
            Some(self.raft.status())
        } else {
            timeout(MEMBER_TIMEOUT, ask(&member.peer)).await.ok().flatten()
        };
        // Another disk may answer at a member's old address.
        describe(member, status.filter(|status| status.node_id == member.node_id))
    }
}

async fn ask(peer_address: &str) -> Option<admin::StatusResponse> {
    let channel = transport::peer_channel(peer_address).ok()?;
    let response = AdminClient::new(channel).status(admin::StatusRequest::default()).await;
    response.ok().map(Response::into_inner)
}

fn describe(member: &Member, status: Option<admin::StatusResponse>) -> pb::Member {
    let known = pb::Member {
        node_id: member.node_id,
        peer_address: member.peer.clone(),
        client_address: member.client.clone(),
        voter: member.voter,
        ..Default::default()
    };
    let Some(status) = status else { return known };
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
    async fn members(&self, _: Request<pb::MembersRequest>) -> Result<Response<pb::MembersResponse>, Status> {
        let overview = self.raft.overview();
        if overview.cluster_id == 0 {
            return Err(RequestError::Unjoined.into());
        }
        let members = overview.members.iter().map(|member| self.member(member, overview.node_id));
        let members = join_all(members).await;
        let header = pb::Header {
            cluster_id: overview.cluster_id,
            node_id: overview.node_id,
            term: overview.term,
            revision: self.raft.store().revision(),
        };
        let leader_id = overview.leader.as_ref().map_or(0, |leader| leader.node_id);
        Ok(Response::new(pb::MembersResponse { header: Some(header), leader_id, members }))
    }
}
