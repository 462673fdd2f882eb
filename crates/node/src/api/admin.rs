//! `admin.v1`: what the operator and `kvorum member` ask of a node, on the peer port.

use std::pin::Pin;

use futures_util::Stream;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use crate::error::MembershipError;
use crate::raft::Raft;

/// The service.
pub struct AdminService {
    raft: Raft,
}

impl AdminService {
    /// Serves this node's membership.
    pub fn new(raft: Raft) -> Self {
        AdminService { raft }
    }
}

impl From<MembershipError> for Status {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Request(error) => error.into(),
            error @ (MembershipError::OtherCluster { .. } | MembershipError::Refused(_)) => {
                Status::failed_precondition(error.to_string())
            }
            error @ MembershipError::Unfinished(_) => Status::unknown(error.to_string()),
            error @ MembershipError::Io(_) => Status::internal(error.to_string()),
        }
    }
}

fn changed(
    membership: Result<admin::Membership, MembershipError>,
) -> Result<Response<admin::MembershipResponse>, Status> {
    Ok(Response::new(admin::MembershipResponse { membership: Some(membership?) }))
}

#[tonic::async_trait]
impl Admin for AdminService {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<admin::SnapshotChunk, Status>> + Send>>;

    async fn status(
        &self,
        request: Request<admin::StatusRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        let admin::StatusRequest { hash_revision: revision, confirm } = request.into_inner();
        let confirmed = confirm && self.raft.confirm().await;
        let mut status = admin::StatusResponse { confirmed, ..self.raft.status() };
        if revision != 0 {
            status.hash = self.raft.hash(revision).await?;
        }
        Ok(Response::new(status))
    }

    async fn initialize(
        &self,
        request: Request<admin::InitializeRequest>,
    ) -> Result<Response<admin::InitializeResponse>, Status> {
        let admin::InitializeRequest { cluster_id, node_id: wanted } = request.into_inner();
        let node_id = self.raft.overview().node_id;
        if wanted != 0 && wanted != node_id {
            return Err(Status::failed_precondition(format!(
                "the disk here is node {node_id:016x}, not {wanted:016x}; it may be a new one at an old address"
            )));
        }
        let cluster_id = self.raft.initialize(cluster_id).await?;
        Ok(Response::new(admin::InitializeResponse { cluster_id, node_id }))
    }

    async fn add_learner(
        &self,
        request: Request<admin::AddLearnerRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        let admin::AddLearnerRequest { node, expected } = request.into_inner();
        changed(self.raft.add_learner(node.unwrap_or_default(), expected).await)
    }

    async fn remove_learner(
        &self,
        request: Request<admin::RemoveLearnerRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        let admin::RemoveLearnerRequest { node_id, expected } = request.into_inner();
        changed(self.raft.remove_learner(node_id, expected).await)
    }

    async fn change_membership(
        &self,
        request: Request<admin::ChangeMembershipRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        let admin::ChangeMembershipRequest { voter_ids, expected, retain } = request.into_inner();
        changed(self.raft.change_voters(voter_ids.into_iter().collect(), retain, expected).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<admin::TransferLeaderRequest>,
    ) -> Result<Response<admin::TransferLeaderResponse>, Status> {
        let leader_id = self.raft.transfer_leader(request.into_inner().to).await?;
        Ok(Response::new(admin::TransferLeaderResponse { leader_id }))
    }

    async fn recover(
        &self,
        request: Request<admin::RecoverRequest>,
    ) -> Result<Response<admin::RecoverResponse>, Status> {
        self.raft.recover(request.into_inner()).await?;
        Ok(Response::new(admin::RecoverResponse {}))
    }

    async fn snapshot(
        &self,
        _request: Request<admin::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let chunks = self.raft.stream_snapshot().await?;
        Ok(Response::new(Box::pin(chunks)))
    }
}
