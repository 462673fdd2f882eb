//! Changes of the membership as a person asks for them: look, plan one step, do it, look again.
//!
//! Nothing is remembered between the steps, so that an operation which was interrupted anywhere is
//! finished by repeating it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_proto::admin::v1::{Node, State, StatusResponse};
use tokio::time::{Instant, sleep};

use super::AdminClient;
use super::plan::{Goal, Step, plan};
use crate::error::Tried;
use crate::{Client, ConnectOptions, Error};

/// Between two looks.
const POLL: Duration = Duration::from_millis(200);
/// How long one node may take to say what it knows. A node that is down must not hold up the rest.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one change may take: a joint change commits two log entries.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the same thing is waited for before it is given up. A learner that is sent a snapshot may
/// seem to stand still for that long.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a step is refused before the refusal is believed: the first ones may be due to a change
/// beside this one.
const REFUSALS_MAX: u32 = 5;
/// How many peers are known at most: members of a cluster, former ones, and room.
const PEERS_MAX: usize = 64;

/// Makes changes of one cluster's membership.
///
/// Each operation looks, takes one step, and looks again, until what was asked for holds; `report` is told each
/// step. It can be repeated at any point, and goes on where it was.
///
/// # Errors
/// Of every operation: [`Error::Membership`] where it cannot be done, or nothing has moved for two minutes;
/// [`Error::Unanswered`] where no leader is found in time, or a node that is to be added does not answer;
/// [`Error::Rpc`] where a node keeps refusing.
///
/// ```
/// # kvorum_mock::example(async |_| {
/// use std::time::Duration;
/// use kvorum_client::admin::{Operations, Voter};
///
/// # let peers = kvorum_mock::admin::Peers::start(3).addresses;
/// let mut operations = Operations::at(peers[..2].to_vec(), Duration::from_secs(20))?;
/// operations.found(&peers[..2], &mut |step| println!("{step}")).await?;
/// let third = operations.add(&peers[2], Voter::Yes, &mut |step| println!("{step}")).await?;
/// operations.remove(third, &mut |_| {}).await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug)]
pub struct Operations {
    /// By peer address, so that connections are kept.
    peers: BTreeMap<String, AdminClient>,
    /// How long a cluster may go without a leader, or without any answer.
    timeout: Duration,
    connect: ConnectOptions,
}

/// What a look at all peers showed.
struct View {
    /// The statuses of those that answered, by the address that was asked.
    statuses: BTreeMap<String, StatusResponse>,
    /// Why the others did not.
    failures: Vec<Tried>,
}

impl Operations {
    /// For the cluster that a client is connected to, over connections that are made as the client's are.
    /// `timeout` is how long the cluster may go without a leader, or without any answer.
    ///
    /// # Errors
    /// As [`Client::members`].
    pub async fn of(client: &Client, timeout: Duration) -> Result<Operations, Error> {
        let members = client.members().timeout(timeout).await?;
        let peers = members.members.into_iter().map(|member| member.peer_address);
        Ok(Operations::at(peers.collect(), timeout)?.connect_options(client.connect_options()))
    }

    /// For the nodes with these peer addresses, and what these know. `timeout` is how long the cluster may go
    /// without a leader, or without any answer.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`]: an address is no `host:port`.
    pub fn at(peers: Vec<String>, timeout: Duration) -> Result<Operations, Error> {
        let mut operations = Operations { peers: BTreeMap::new(), timeout, connect: ConnectOptions::new() };
        for peer in peers {
            operations.know(&peer)?;
        }
        Ok(operations)
    }

    /// How nodes are connected to from now on; [`ConnectOptions::new`] without this.
    #[must_use]
    pub fn connect_options(mut self, options: ConnectOptions) -> Operations {
        let anew = |(peer, admin): (String, AdminClient)| (peer, admin.connect_options(options.clone()));
        self.peers = self.peers.into_iter().map(anew).collect();
        self.connect = options;
        self
    }

    /// Founds a cluster on the first of these peers, unless one of them is in a cluster already, and
    /// makes all of them voters. Answers the cluster's id.
    ///
    /// # Errors
    /// See [`Operations`].
    pub async fn found(
        &mut self,
        peers: &[String],
        report: &mut (dyn FnMut(&Step) + Send),
    ) -> Result<u64, Error> {
        let statuses = self.all_of(peers).await?;
        let cluster_id = self.found_one(peers, &statuses, report).await?;
        let nodes = peers.iter().zip(&statuses).map(|(peer, status)| node_of(peer, status)).collect();
        self.reach(&Goal::Voters(nodes), report).await?;
        Ok(cluster_id)
    }

    /// Adds the node with this peer address; as a voter, it is waited for until it has caught up.
    /// Answers its id.
    ///
    /// # Errors
    /// See [`Operations`].
    pub async fn add(
        &mut self,
        peer: &str,
        voter: Voter,
        report: &mut (dyn FnMut(&Step) + Send),
    ) -> Result<u64, Error> {
        let statuses = self.all_of(std::slice::from_ref(&peer.to_owned())).await?;
        let Some(status) = statuses.first() else { return Err(unanswered(self.timeout, Vec::new())) };
        let node = node_of(peer, status);
        let id = node.node_id;
        let goal = match voter {
            Voter::Yes => Goal::Voters(vec![node]),
            Voter::No => Goal::Learner(node),
        };
        self.reach(&goal, report).await?;
        Ok(id)
    }

    /// Makes a learner a voter, once it has caught up.
    ///
    /// # Errors
    /// See [`Operations`].
    pub async fn promote(&mut self, id: u64, report: &mut (dyn FnMut(&Step) + Send)) -> Result<(), Error> {
        let node = self.member(id).await?;
        self.reach(&Goal::Voters(vec![node]), report).await
    }

    /// Removes a member. A leader hands over first.
    ///
    /// # Errors
    /// See [`Operations`].
    pub async fn remove(&mut self, id: u64, report: &mut (dyn FnMut(&Step) + Send)) -> Result<(), Error> {
        self.member(id).await?;
        self.reach(&Goal::Absent(id), report).await
    }

    /// Hands leadership to a voter, or to whoever is furthest. Answers who leads.
    ///
    /// # Errors
    /// See [`Operations`].
    pub async fn transfer_leader(&mut self, to: Option<u64>) -> Result<u64, Error> {
        if let Some(id) = to {
            self.member(id).await?;
        }
        let (address, _) = self.leader().await?;
        self.changing(&address)?.transfer_leader(to).await
    }

    /// The peer address of the leader, and its status.
    ///
    /// # Errors
    /// [`Error::Unanswered`]: there is none that answers in time.
    pub async fn leader(&mut self) -> Result<(String, StatusResponse), Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let view = self.look().await;
            if let Some(leader) = view.leader() {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(unanswered(self.timeout, view.without_leader()));
            }
            sleep(POLL).await;
        }
    }

    async fn member(&mut self, id: u64) -> Result<Node, Error> {
        let (_, leader) = self.leader().await?;
        let nodes = leader.membership.map(|membership| membership.nodes).unwrap_or_default();
        nodes.into_iter().find(|node| node.node_id == id).ok_or_else(|| {
            Error::Membership(format!("there is no member {id:016x}; `kvorum member list` prints them"))
        })
    }

    /// The statuses of all these peers, in their order.
    async fn all_of(&mut self, peers: &[String]) -> Result<Vec<StatusResponse>, Error> {
        for peer in peers {
            self.know(peer)?;
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            let view = self.look().await;
            let found: Vec<_> = peers.iter().filter_map(|peer| view.statuses.get(peer).cloned()).collect();
            if found.len() == peers.len() {
                return distinct(peers, found);
            }
            if Instant::now() >= deadline {
                let missing = view.failures.into_iter().filter(|tried| peers.contains(&tried.endpoint));
                return Err(unanswered(self.timeout, missing.collect()));
            }
            sleep(POLL).await;
        }
    }

    /// Founds a cluster of one node where there is none yet.
    async fn found_one(
        &mut self,
        peers: &[String],
        statuses: &[StatusResponse],
        report: &mut (dyn FnMut(&Step) + Send),
    ) -> Result<u64, Error> {
        let mut clusters = peers.iter().zip(statuses).filter(|(_, status)| status.cluster_id != 0);
        let first = clusters.next();
        for (peer, status) in clusters {
            let Some((other, known)) = first else { break };
            if status.cluster_id != known.cluster_id {
                return Err(Error::Membership(format!(
                    "{other} belongs to cluster {:016x} and {peer} to {:016x}: they cannot become one",
                    known.cluster_id, status.cluster_id
                )));
            }
        }
        let founded = statuses.iter().any(has_voters);
        match (first, peers.first()) {
            (Some((_, status)), _) if founded => Ok(status.cluster_id),
            // A crash came between the two halves of founding: the disk that began it knows. Those that were joined
            // to a cluster already wait for its founder, and found nothing.
            (Some(_), _) if !statuses.iter().any(|status| status.founding) => {
                Err(Error::Membership(joined_without_founder(peers, statuses)))
            }
            (Some((first, _)), _) | (None, Some(first)) => {
                let mut began = peers.iter().zip(statuses).filter(|(_, status)| status.founding);
                let peer = began.next().map_or(first, |(peer, _)| peer);
                report(&Step::Found(peer.clone()));
                Ok(self.changing(peer)?.initialize(0, None, false).await?.cluster_id)
            }
            (None, None) => Err(Error::Membership("a cluster needs at least one member".to_owned())),
        }
    }

    /// Goes towards a goal, a step at a time, until it is reached.
    async fn reach(&mut self, goal: &Goal, report: &mut (dyn FnMut(&Step) + Send)) -> Result<(), Error> {
        let mut refusals = 0;
        let mut waiting = Waiting::default();
        loop {
            let (address, leader) = self.leader().await?;
            let step = plan(goal, &leader);
            match &step {
                Step::Done => return Ok(()),
                Step::Impossible(reason) => return Err(Error::Membership(reason.clone())),
                Step::Wait(reason) => {
                    report(&step);
                    waiting.note(reason)?;
                    sleep(POLL).await;
                    continue;
                }
                step => report(step),
            }
            match self.take(&step, &address, &leader).await {
                Ok(()) => waiting = Waiting::default(),
                // What became of it is seen at the next look.
                Err(Error::OutcomeUnknown { problem, .. }) => {
                    waiting.note(&problem)?;
                    sleep(POLL).await;
                }
                Err(Error::Unanswered { tried, .. }) => {
                    waiting.note(&format!("{step}: {}", tried.first().map_or("", |tried| &tried.problem)))?;
                    sleep(POLL).await;
                }
                Err(error) if refusals >= REFUSALS_MAX => return Err(error),
                Err(_) => {
                    refusals += 1;
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn take(&mut self, step: &Step, address: &str, leader: &StatusResponse) -> Result<(), Error> {
        let expected = leader.membership.as_ref().and_then(|membership| membership.log_id);
        let admin = self.changing(address)?;
        match step {
            Step::AddLearner(node) => admin.add_learner(node.clone(), expected).await.map(drop),
            Step::RemoveLearner(id) => admin.remove_learner(*id, expected).await.map(drop),
            Step::ChangeVoters(ids) => {
                admin.change_membership(ids.iter().copied().collect(), expected).await.map(drop)
            }
            Step::TransferLeader => admin.transfer_leader(None).await.map(drop),
            Step::Found(_) | Step::Wait(_) | Step::Done | Step::Impossible(_) => Ok(()),
        }
    }

    /// Asks every known peer at the same time, and learns of more peers from what they answer.
    async fn look(&mut self) -> View {
        let answers = join_all(
            self.peers.iter().map(|(address, admin)| async move { (address.clone(), admin.status().await) }),
        )
        .await;
        let mut view = View { statuses: BTreeMap::new(), failures: Vec::new() };
        for (address, answer) in answers {
            match answer {
                Ok(status) => {
                    for node in status.membership.iter().flat_map(|membership| &membership.nodes) {
                        // An address that cannot be one is of no use, and the others may do.
                        let _ = self.know(&node.peer_address);
                    }
                    view.statuses.insert(address, status);
                }
                Err(Error::Unanswered { tried, .. }) => view.failures.extend(tried),
                Err(Error::OutcomeUnknown { endpoint, problem }) => {
                    view.failures.push(Tried { endpoint, problem });
                }
                Err(error) => {
                    view.failures.push(Tried { endpoint: address, problem: error.to_string() });
                }
            }
        }
        view
    }

    fn know(&mut self, peer: &str) -> Result<(), Error> {
        if !self.peers.contains_key(peer) && self.peers.len() < PEERS_MAX {
            let admin = AdminClient::new(peer, STATUS_TIMEOUT.min(self.timeout))?;
            self.peers.insert(peer.to_owned(), admin.connect_options(self.connect.clone()));
        }
        Ok(())
    }

    /// A client that leaves a change the time it takes.
    fn changing(&self, peer: &str) -> Result<AdminClient, Error> {
        let admin = AdminClient::new(peer, CHANGE_TIMEOUT.max(self.timeout))?;
        Ok(admin.connect_options(self.connect.clone()))
    }
}

/// Whether an added node becomes a voter.
///
/// ```no_run
/// # async fn example(mut operations: kvorum_client::admin::Operations) -> Result<(), kvorum_client::Error> {
/// use kvorum_client::admin::Voter;
///
/// let id = operations.add("10.0.0.4:2380", Voter::No, &mut |_| {}).await?;
/// operations.promote(id, &mut |_| {}).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voter {
    /// Once it has caught up.
    Yes,
    /// It stays a learner.
    No,
}

impl View {
    fn leader(&self) -> Option<(String, StatusResponse)> {
        let leaders = self.statuses.iter().filter(|(_, status)| status.state() == State::Leader);
        let (address, status) = leaders.max_by_key(|(_, status)| status.term)?;
        Some((address.clone(), status.clone()))
    }

    /// What to say of each peer when none leads.
    fn without_leader(self) -> Vec<Tried> {
        let answered = self.statuses.into_iter().map(|(endpoint, status)| {
            let problem = match status.state() {
                State::Unjoined => "it belongs to no cluster yet".to_owned(),
                _ if !status.status_only.is_empty() => status.status_only,
                _ => "it knows no leader that answers".to_owned(),
            };
            Tried { endpoint, problem }
        });
        self.failures.into_iter().chain(answered).collect()
    }
}

/// What is waited for, and since when.
#[derive(Default)]
struct Waiting {
    since: Option<(String, Instant)>,
}

impl Waiting {
    fn note(&mut self, reason: &str) -> Result<(), Error> {
        match &self.since {
            Some((same, since)) if same == reason => {
                if since.elapsed() < PATIENCE {
                    return Ok(());
                }
                let seconds = PATIENCE.as_secs();
                Err(Error::Membership(format!(
                    "gave up after {seconds}s without progress ({reason}); repeat the command to go on"
                )))
            }
            _ => {
                self.since = Some((reason.to_owned(), Instant::now()));
                Ok(())
            }
        }
    }
}

/// A node as the membership is to know it: by the addresses that it advertises itself.
fn node_of(peer: &str, status: &StatusResponse) -> Node {
    let peer_address = match status.peer_address.as_str() {
        "" => peer.to_owned(),
        advertised => advertised.to_owned(),
    };
    Node { node_id: status.node_id, peer_address, client_address: status.client_address.clone() }
}

fn has_voters(status: &StatusResponse) -> bool {
    let configs = status.membership.iter().flat_map(|membership| &membership.configs);
    configs.into_iter().any(|config| !config.node_ids.is_empty())
}

/// What to say where some nodes were joined to a cluster, and none of them has its membership.
fn joined_without_founder(peers: &[String], statuses: &[StatusResponse]) -> String {
    let joined = peers.iter().zip(statuses).filter(|(_, status)| status.cluster_id != 0);
    let cluster_id = joined.clone().next().map_or(0, |(_, status)| status.cluster_id);
    let joined: Vec<&str> = joined.map(|(peer, _)| peer.as_str()).collect();
    format!(
        "{} joined cluster {cluster_id:016x}, which none of these nodes founded: name the node that did as well, or, \
         where its disk is lost, empty the data directories of those that joined and repeat the command",
        joined.join(", ")
    )
}

/// Refuses two addresses of one node.
fn distinct(peers: &[String], statuses: Vec<StatusResponse>) -> Result<Vec<StatusResponse>, Error> {
    for (i, status) in statuses.iter().enumerate() {
        if let Some(same) = statuses[..i].iter().position(|other| other.node_id == status.node_id) {
            return Err(Error::Membership(format!(
                "{} and {} are the same node {:016x}; name each node once",
                peers[same], peers[i], status.node_id
            )));
        }
    }
    Ok(statuses)
}

fn unanswered(within: Duration, tried: Vec<Tried>) -> Error {
    Error::Unanswered { within, tried }
}
