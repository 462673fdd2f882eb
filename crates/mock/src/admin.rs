//! The peer ports of a pretended cluster: `admin.v1` of nodes that share one membership, without any raft.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use kvorum_proto::admin::v1::admin_server::{Admin, AdminServer};
use kvorum_proto::admin::v1::{
    AddLearnerRequest, ApplyAccessRequest, ApplyAccessResponse, ChangeMembershipRequest, InitializeRequest,
    InitializeResponse, LogId, Membership, MembershipResponse, Node, Progress, RecoverRequest,
    RecoverResponse, RemoveLearnerRequest, SnapshotChunk, SnapshotRequest, State, StatusRequest,
    StatusResponse, TransferLeaderRequest, TransferLeaderResponse, VoterSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{Act, reason};

/// The cluster's id, once it is founded.
pub const CLUSTER_ID: u64 = 0xc1;

/// Nodes 1, 2, 3…, each at a peer port of its own, as long as the test's runtime runs.
#[derive(Debug)]
pub struct Peers {
    /// `host:port` of each peer port, that of node 1 first.
    pub addresses: Vec<String>,
    group: Arc<Mutex<Group>>,
}

/// What the nodes are, together.
#[derive(Debug, Default)]
pub struct Group {
    /// 0: the cluster is not founded, or has no leader.
    pub leader_id: u64,
    /// The membership that all of them know.
    pub membership: Membership,
    /// What nodes of other clusters say that theirs is.
    pub strangers: BTreeMap<u64, u64>,
    /// The node that began to found the cluster, if it is not founded yet.
    pub founding: Option<u64>,
    /// Every change that was made, in order.
    pub changes: Vec<String>,
    /// Taken by changes, one each; without any, they are made.
    pub script: VecDeque<Act>,
    /// Taken by changes without a script.
    pub refuse_all: bool,
}

impl Peers {
    /// Nodes that belong to no cluster.
    pub fn start(count: u64) -> Peers {
        let group: Arc<Mutex<Group>> = Arc::default();
        let start = |node_id| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let service = Service { node_id, address: address.clone(), group: Arc::clone(&group) };
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder();
            tokio::spawn(server.serve_with_incoming(AdminServer::new(service), incoming));
            address
        };
        Peers { addresses: (1..=count).map(start).collect(), group }
    }

    /// Nodes of a cluster: the first ones vote, the others are learners; the first of all leads.
    pub fn of_cluster(voters: u64, learners: u64) -> Peers {
        let peers = Peers::start(voters + learners);
        {
            let mut group = peers.group();
            group.leader_id = 1;
            group.membership.nodes = peers.addresses.iter().zip(1..).map(|(a, id)| node(id, a)).collect();
            group.set_voters((1..=voters).collect());
        }
        peers
    }

    /// What they are, to be looked at and changed.
    pub fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap()
    }
}

fn node(node_id: u64, peer_address: &str) -> Node {
    Node { node_id, peer_address: peer_address.to_owned(), client_address: format!("client-{node_id}:2379") }
}

impl Group {
    /// The ids of those that vote.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.membership.configs.iter().flat_map(|config| config.node_ids.iter().copied()).collect()
    }

    /// The ids of all members.
    pub fn members(&self) -> BTreeSet<u64> {
        self.membership.nodes.iter().map(|node| node.node_id).collect()
    }

    fn set_voters(&mut self, voters: BTreeSet<u64>) {
        self.membership.configs = vec![VoterSet { node_ids: voters.into_iter().collect() }];
        self.moved();
    }

    /// Every change of the membership has a log position of its own.
    fn moved(&mut self) {
        let index = self.membership.log_id.map_or(1, |id| id.index + 1);
        self.membership.log_id = Some(LogId { term: 1, index });
    }

    /// Makes a change as the script wants it.
    fn change(
        &mut self,
        at: u64,
        expected: Option<LogId>,
        name: String,
        work: impl FnOnce(&mut Group),
    ) -> Result<Response<MembershipResponse>, Status> {
        if at != self.leader_id {
            return Err(reason("NOT_LEADER", &[]));
        }
        let act = self.script.pop_front();
        if self.refuse_all || matches!(act, Some(Act::Refuse(_))) {
            return Err(Status::failed_precondition("made to refuse"));
        }
        if expected.is_some() && expected != self.membership.log_id {
            return Err(Status::failed_precondition("the membership is another one"));
        }
        self.changes.push(name);
        work(self);
        self.moved();
        match act {
            Some(Act::ApplyAndFail(code)) => Err(Status::new(code, "made to fail after it was applied")),
            _ => Ok(Response::new(MembershipResponse { membership: Some(self.membership.clone()) })),
        }
    }
}

struct Service {
    node_id: u64,
    address: String,
    group: Arc<Mutex<Group>>,
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let group = self.group.lock().unwrap();
        let member = group.members().contains(&self.node_id);
        let state = match () {
            () if !member => State::Unjoined,
            () if group.leader_id == self.node_id => State::Leader,
            () if group.voters().contains(&self.node_id) => State::Follower,
            () => State::Learner,
        };
        let progress = |node: &Node| Progress {
            node_id: node.node_id,
            matched: group.membership.log_id,
            ..Progress::default()
        };
        let leads = state == State::Leader;
        let own = if member { CLUSTER_ID } else { 0 };
        Ok(Response::new(StatusResponse {
            node_id: self.node_id,
            cluster_id: group.strangers.get(&self.node_id).copied().unwrap_or(own),
            state: state.into(),
            term: 1,
            leader_id: group.leader_id,
            membership: member.then(|| group.membership.clone()),
            progress: if leads { group.membership.nodes.iter().map(progress).collect() } else { Vec::new() },
            founding: group.founding == Some(self.node_id),
            peer_address: self.address.clone(),
            client_address: format!("client-{}:2379", self.node_id),
            ..StatusResponse::default()
        }))
    }

    async fn initialize(
        &self,
        _: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let mut group = self.group.lock().unwrap();
        group.changes.push(format!("found {}", self.node_id));
        group.founding = None;
        group.leader_id = self.node_id;
        group.membership.nodes = vec![node(self.node_id, &self.address)];
        group.set_voters([self.node_id].into());
        Ok(Response::new(InitializeResponse { cluster_id: CLUSTER_ID, node_id: self.node_id }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let AddLearnerRequest { node, expected } = request.into_inner();
        let node = node.unwrap();
        let name = format!("add {}", node.node_id);
        let mut group = self.group.lock().unwrap();
        group.change(self.node_id, expected, name, |group| group.membership.nodes.push(node))
    }

    async fn remove_learner(
        &self,
        request: Request<RemoveLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let RemoveLearnerRequest { node_id, expected } = request.into_inner();
        let mut group = self.group.lock().unwrap();
        group.change(self.node_id, expected, format!("remove {node_id}"), |group| {
            group.membership.nodes.retain(|node| node.node_id != node_id);
        })
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let ChangeMembershipRequest { voter_ids, expected, .. } = request.into_inner();
        let mut group = self.group.lock().unwrap();
        group.change(self.node_id, expected, format!("voters {voter_ids:?}"), |group| {
            let gone: Vec<u64> = group.voters().into_iter().filter(|id| !voter_ids.contains(id)).collect();
            group.membership.nodes.retain(|node| !gone.contains(&node.node_id));
            group.membership.configs = vec![VoterSet { node_ids: voter_ids }];
        })
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let to = request.into_inner().to;
        let mut group = self.group.lock().unwrap();
        let other =
            group.voters().into_iter().find(|id| if to == 0 { *id != self.node_id } else { *id == to });
        group.leader_id = other.ok_or_else(|| Status::failed_precondition("there is no such voter"))?;
        let leader_id = group.leader_id;
        group.changes.push(format!("transfer to {leader_id}"));
        Ok(Response::new(TransferLeaderResponse { leader_id }))
    }

    type SnapshotStream = Pin<Box<dyn futures_util::Stream<Item = Result<SnapshotChunk, Status>> + Send>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("there is nothing to save"))
    }

    async fn apply_access(
        &self,
        _: Request<ApplyAccessRequest>,
    ) -> Result<Response<ApplyAccessResponse>, Status> {
        Err(Status::unimplemented("nobody has rights here"))
    }

    async fn recover(&self, _: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        Err(Status::unimplemented("no quorum is lost here"))
    }
}
