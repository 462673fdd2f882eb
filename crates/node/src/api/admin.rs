//! `admin.v1`: what the operator and `kvorum member` ask of a node, on the peer port.

use std::fmt;
use std::pin::Pin;

use futures_util::Stream;
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_server::Admin;
use kvorum_store::command::{DeclaredRole, DeclaredUser, ReplaceAccess, TokenIssuer};
use tonic::{Request, Response, Status};

use super::auth::{mode, permission};
use crate::error::{MembershipError, RequestError};
use crate::net::deadline::{deadline, deadline_if_any};
use crate::net::remote::Remote;
use crate::raft::Raft;
use crate::requests::{Requests, within};

/// The service.
pub struct AdminService {
    requests: Requests,
}

impl AdminService {
    /// Serves what passes the door.
    pub fn new(requests: Requests) -> Self {
        AdminService { requests }
    }
}

/// Members or users that a call is about, for the audit.
fn concerns<T>(request: &Request<T>, what: fmt::Arguments<'_>) -> Result<(), Status> {
    Remote::of(request.extensions())?.trail.concerns(what);
    Ok(())
}

impl From<MembershipError> for Status {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Request(error) => error.into(),
            error @ (MembershipError::OtherCluster { .. }
            | MembershipError::OtherDisk { .. }
            | MembershipError::Refused(_)) => Status::failed_precondition(error.to_string()),
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
        let deadline = deadline_if_any(request.metadata());
        Ok(Response::new(self.requests.full_status(request.into_inner(), deadline).await?))
    }

    async fn initialize(
        &self,
        request: Request<admin::InitializeRequest>,
    ) -> Result<Response<admin::InitializeResponse>, Status> {
        let deadline = deadline_if_any(request.metadata());
        let admin::InitializeRequest { cluster_id, node_id: wanted, closed } = request.into_inner();
        let found = self.requests.change(deadline, move |raft| async move {
            let node_id = raft.overview().node_id;
            if wanted != 0 && wanted != node_id {
                return Err(MembershipError::OtherDisk { node_id, wanted });
            }
            let cluster_id = raft.initialize(cluster_id, closed).await?;
            Ok(admin::InitializeResponse { cluster_id, node_id })
        });
        Ok(Response::new(found.await?))
    }

    async fn add_learner(
        &self,
        request: Request<admin::AddLearnerRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        concerns(
            &request,
            format_args!("member {:016x}", request.get_ref().node.as_ref().map_or(0, |node| node.node_id)),
        )?;
        let deadline = deadline_if_any(request.metadata());
        let admin::AddLearnerRequest { node, expected } = request.into_inner();
        let add = move |raft: Raft| async move { raft.add_learner(node.unwrap_or_default(), expected).await };
        changed(self.requests.change(deadline, add).await)
    }

    async fn remove_learner(
        &self,
        request: Request<admin::RemoveLearnerRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        concerns(&request, format_args!("member {:016x}", request.get_ref().node_id))?;
        let deadline = deadline_if_any(request.metadata());
        let admin::RemoveLearnerRequest { node_id, expected } = request.into_inner();
        let remove = move |raft: Raft| async move { raft.remove_learner(node_id, expected).await };
        changed(self.requests.change(deadline, remove).await)
    }

    async fn change_membership(
        &self,
        request: Request<admin::ChangeMembershipRequest>,
    ) -> Result<Response<admin::MembershipResponse>, Status> {
        concerns(&request, format_args!("voters {:016x?}", request.get_ref().voter_ids))?;
        let deadline = deadline_if_any(request.metadata());
        let admin::ChangeMembershipRequest { voter_ids, expected, retain } = request.into_inner();
        let voter_ids = voter_ids.into_iter().collect();
        let change = move |raft: Raft| async move { raft.change_voters(voter_ids, retain, expected).await };
        changed(self.requests.change(deadline, change).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<admin::TransferLeaderRequest>,
    ) -> Result<Response<admin::TransferLeaderResponse>, Status> {
        concerns(&request, format_args!("member {:016x}", request.get_ref().to))?;
        let deadline = deadline_if_any(request.metadata());
        let to = request.into_inner().to;
        let transfer = move |raft: Raft| async move { raft.transfer_leader(to).await };
        let leader_id = self.requests.change(deadline, transfer).await?;
        Ok(Response::new(admin::TransferLeaderResponse { leader_id }))
    }

    async fn recover(
        &self,
        request: Request<admin::RecoverRequest>,
    ) -> Result<Response<admin::RecoverResponse>, Status> {
        let deadline = deadline_if_any(request.metadata());
        let wanted = request.into_inner();
        let recover = move |raft: Raft| async move { raft.recover(wanted).await };
        self.requests.change(deadline, recover).await?;
        Ok(Response::new(admin::RecoverResponse {}))
    }

    async fn snapshot(
        &self,
        request: Request<admin::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let opened =
            within(deadline_if_any(request.metadata()), self.requests.raft().stream_snapshot()).await;
        let chunks = opened.ok_or(RequestError::Deadline { outcome_unknown: false })??;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn apply_access(
        &self,
        request: Request<admin::ApplyAccessRequest>,
    ) -> Result<Response<admin::ApplyAccessResponse>, Status> {
        concerns(
            &request,
            format_args!("{} users, {} roles", request.get_ref().users.len(), request.get_ref().roles.len()),
        )?;
        let deadline = deadline(request.metadata());
        self.requests.declare(declared(request.into_inner())?, deadline).await?;
        Ok(Response::new(admin::ApplyAccessResponse {}))
    }
}

/// The wanted users, roles and rights as the store takes them.
fn declared(request: admin::ApplyAccessRequest) -> Result<ReplaceAccess, RequestError> {
    let admin::ApplyAccessRequest { users, roles, issuer, mode: wanted } = request;
    let user = |admin::DeclaredUser { name, roles }| DeclaredUser { name, roles };
    let role = |admin::DeclaredRole { name, permissions }| {
        let permissions = permissions.into_iter().map(|it| permission(Some(it))).collect::<Result<_, _>>()?;
        Ok(DeclaredRole { name, permissions })
    };
    let issuer =
        issuer.map(|admin::TokenIssuer { issuer, audience, jwks }| TokenIssuer { issuer, audience, jwks });
    Ok(ReplaceAccess {
        users: users.into_iter().map(user).collect(),
        roles: roles.into_iter().map(role).collect::<Result<_, RequestError>>()?,
        issuer,
        mode: mode(wanted)?.into(),
        enable: None,
    })
}
