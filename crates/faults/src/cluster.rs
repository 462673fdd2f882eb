//! A cluster of real processes on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_client::admin::{Operations, Step, Voter};
use kvorum_client::{Client, ConnectOptions};
use kvorum_proto::admin::v1 as admin;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::network::Network;
use crate::process::{Node, Release, Setup};
use crate::{Context as _, Failure, Result, ensure, wait};

/// A cluster that has its quorum finds a leader within this, however the election goes.
pub const LEADER_LIMIT: Duration = Duration::from_secs(20);
/// A change of the membership on a machine that is busy with other nodes.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Another process may take a port between its choice and its use, but not again and again.
const START_ATTEMPTS_MAX: usize = 5;

/// How a cluster's nodes are set up.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Flags of every node, beside those for directories and ports.
    pub flags: Vec<String>,
    /// The nodes' data directories, in order. Without it, or beyond its end, they are in the cluster's
    /// temporary directory.
    pub data: Vec<PathBuf>,
    /// A system call that does nothing, see [`Setup::omitted_syscall`].
    pub omitted_syscall: Option<String>,
    /// Which release the nodes are first started as.
    pub release: Release,
    /// A network of their own, with a host for each node. It is taken down after them.
    pub network: Option<Arc<Network>>,
    /// The certificates by which nodes and clients speak TLS. The nodes want the flags for it too.
    pub tls: Option<Arc<Certificates>>,
}

impl Layout {
    /// Nodes with these flags.
    pub fn with_flags<const N: usize>(flags: [&str; N]) -> Layout {
        Layout { flags: flags.map(str::to_owned).to_vec(), ..Layout::default() }
    }
}

/// Nodes, and a temporary directory with their logs and data. It has to be closed by [`Cluster::close`];
/// one that is only dropped belongs to a test that failed, and its directory stays.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Arc<Node>>,
    layout: Layout,
    directory: Option<TempDir>,
}

impl Cluster {
    /// Starts nodes and makes them a cluster in which all vote, as `kvorum cluster init` does.
    pub async fn found(members: usize, layout: Layout) -> Result<Cluster> {
        let directory = tempfile::Builder::new().prefix("kvorum-faults-").tempdir()?;
        let mut cluster = Cluster { nodes: Vec::new(), layout, directory: Some(directory) };
        for _ in 0..members {
            cluster.add_node().await?;
        }
        let peers: Vec<_> = cluster.nodes.iter().map(|node| node.peer_address().to_owned()).collect();
        let founding = cluster.operations()?.found(&peers, &mut report).await;
        founding.context("found the cluster")?;
        cluster.wait_healthy().await?;
        Ok(cluster)
    }

    /// Starts one more node, which stays Unjoined until it is added.
    pub async fn add_node(&mut self) -> Result<Arc<Node>> {
        let number = self.nodes.len();
        let name = format!("node-{}", number + 1);
        let directory = self.directory()?;
        let data = self.layout.data.get(number).cloned();
        let setup = Setup {
            log: directory.join(format!("{name}.log")),
            data: data.unwrap_or_else(|| directory.join(&name)),
            flags: self.layout.flags.clone(),
            omitted_syscall: self.layout.omitted_syscall.clone(),
            tls: self.layout.tls.clone(),
            name,
        };
        for _ in 1..START_ATTEMPTS_MAX {
            let host = self.layout.network.as_ref().map(|network| network.host(number));
            let node = Node::on(setup.clone(), host)?;
            node.set_release(&self.layout.release);
            match node.start().await {
                Err(failure) if failure.to_string().contains("cannot be listened on") => continue,
                started => started?,
            }
            let node = Arc::new(node);
            self.nodes.push(node.clone());
            return Ok(node);
        }
        Err(Failure::new(format!("no ports for {}: another process takes them all", setup.name)))
    }

    /// Where the nodes' data and logs are, until the cluster is closed.
    ///
    /// # Errors
    ///
    /// It is closed.
    pub fn directory(&self) -> Result<&Path> {
        self.directory.as_ref().map(TempDir::path).context("the cluster is closed")
    }

    /// All nodes, also those that do not run.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The network that the nodes have to themselves, if they do.
    pub fn network(&self) -> Option<&Network> {
        self.layout.network.as_deref()
    }

    /// The client address of each node.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_address().to_owned()).collect()
    }

    /// A client of our own crate, which knows all nodes.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::builder(self.endpoints()).connect_options(self.connect_options()?).connect().await?)
    }

    /// How the cluster was connected to when it was founded: as root, where its flags said that it speaks TLS.
    pub fn connect_options(&self) -> Result<ConnectOptions> {
        let speaks_tls = self.layout.flags.iter().any(|flag| flag == "--tls");
        Ok(match &self.layout.tls {
            Some(tls) if speaks_tls => ConnectOptions::new().tls(tls.root()?),
            _ => ConnectOptions::new().plain(),
        })
    }

    /// The leader that a majority of its voters follows, and its status.
    async fn leader_now(&self) -> Result<(Arc<Node>, admin::StatusResponse)> {
        let running: Vec<_> = self.nodes.iter().filter(|node| node.is_running()).collect();
        let answers = join_all(running.iter().map(|node| node.status())).await;
        let known: Vec<_> = running
            .into_iter()
            .zip(answers)
            .filter_map(|(node, status)| Some((node, status.ok()?)))
            .collect();
        let led = |status: &admin::StatusResponse| status.state() == admin::State::Leader;
        let leader = known.iter().filter(|(_, status)| led(status)).max_by_key(|(_, status)| status.term);
        let (node, leader) = leader.context("no node leads")?;
        for config in leader.membership.iter().flat_map(|membership| &membership.configs) {
            let voters = &config.node_ids;
            let follows = |status: &admin::StatusResponse| {
                voters.contains(&status.node_id)
                    && (status.term, status.leader_id) == (leader.term, leader.node_id)
            };
            let followers = known.iter().filter(|(_, status)| follows(status)).count();
            ensure!(followers * 2 > voters.len(), "{} leads, and no majority follows", node.name());
        }
        Ok(((*node).clone(), leader.clone()))
    }

    /// Waits for a leader that a majority follows.
    pub async fn leader(&self) -> Result<Arc<Node>> {
        let found = wait::until("the election of a leader", LEADER_LIMIT, async || self.leader_now().await);
        Ok(found.await?.0)
    }

    /// A running voter that does not lead.
    pub async fn follower(&self) -> Result<Arc<Node>> {
        let (leader, status) =
            wait::until("the election of a leader", LEADER_LIMIT, async || self.leader_now().await).await?;
        for node in &self.nodes {
            if node.is_running()
                && !Arc::ptr_eq(node, &leader)
                && votes(&status, node.status().await?.node_id)
            {
                return Ok(node.clone());
            }
        }
        Err(Failure::new("nobody follows"))
    }

    /// Waits until there is a leader, and every running voter has applied what it had committed. Who
    /// votes is the leader's word: a member that was removed may not have heard of it.
    pub async fn wait_healthy(&self) -> Result<()> {
        wait::until("the recovery of the cluster", LEADER_LIMIT + CHANGE_LIMIT, async || {
            let (_, leader) = self.leader_now().await?;
            let committed = leader.committed.context("nothing is committed")?.index;
            let running: Vec<_> = self.nodes.iter().filter(|node| node.is_running()).collect();
            for (node, status) in running.iter().zip(join_all(running.iter().map(|node| node.status())).await)
            {
                let status = status?;
                let applied = status.applied.map_or(0, |id| id.index);
                let fit = applied >= committed && status.leader_id == leader.node_id;
                ensure!(
                    fit || !votes(&leader, status.node_id),
                    "{} applied {applied} of {committed} and follows {:016x}",
                    node.name(),
                    status.leader_id
                );
            }
            Ok(())
        })
        .await
    }

    /// Changes of the membership as the tool makes them.
    pub fn operations(&self) -> Result<Operations> {
        let peers = self.nodes.iter().map(|node| node.peer_address().to_owned()).collect();
        Ok(Operations::at(peers, LEADER_LIMIT)?.connect_options(self.connect_options()?))
    }

    /// Makes a running node a voter, as `kvorum member add` does.
    pub async fn add_voter(&self, node: &Node) -> Result<()> {
        let added = self.operations()?.add(node.peer_address(), Voter::Yes, &mut report).await;
        added.map(drop).context(format!("add {}", node.name()))
    }

    /// Removes the member with this id, as `kvorum member remove` does.
    pub async fn remove_member(&self, node_id: u64) -> Result<()> {
        let removed = self.operations()?.remove(node_id, &mut report).await;
        removed.context(format!("remove {node_id:016x}"))
    }

    /// Asks the leader for exactly these voters, all of which are members: one joint change, which the
    /// leader may itself be left out of. Repeats what an election interrupts.
    pub async fn change_voters(&self, voters: &[Arc<Node>]) -> Result<()> {
        wait::until("the change of the voters", CHANGE_LIMIT, async || {
            let (leader, _) = self.leader_now().await?;
            let mut voter_ids = Vec::new();
            for node in voters {
                voter_ids.push(node.status().await?.node_id);
            }
            let request = admin::ChangeMembershipRequest { voter_ids, expected: None, retain: false };
            Ok(leader.admin().change_membership(request).await.map(drop)?)
        })
        .await
    }

    /// Waits until the membership, as its leader has it, is these voters alone, with no change under way.
    pub async fn wait_voters(&self, voters: &[Arc<Node>]) -> Result<()> {
        wait::until("the end of the change of voters", CHANGE_LIMIT, async || {
            let (_, status) = self.leader_now().await?;
            let membership = status.membership.context("the leader has no membership")?;
            let mut wanted = Vec::new();
            for node in voters {
                wanted.push(node.status().await?.node_id);
            }
            wanted.sort_unstable();
            let mut members: Vec<_> = membership.nodes.iter().map(|member| member.node_id).collect();
            members.sort_unstable();
            ensure!(members == wanted, "the members are {members:x?} and not {wanted:x?}");
            let [config] = &membership.configs[..] else {
                return Err(Failure::new("a joint change is under way"));
            };
            ensure!(config.node_ids.len() == wanted.len(), "there are learners left");
            Ok(())
        })
        .await
    }

    /// Compares the stores of these nodes at the newest revision that all of them have, and answers it.
    pub async fn compare_stores(&self, nodes: &[Arc<Node>]) -> Result<u64> {
        self.wait_healthy().await?;
        let mut revision = u64::MAX;
        for node in nodes {
            revision = revision.min(node.status().await?.revision);
        }
        let mut hashes = Vec::new();
        for node in nodes {
            hashes.push((node.name(), node.hash(revision).await?));
        }
        let equal = hashes.iter().all(|(_, hash)| *hash == hashes[0].1 && *hash != 0);
        ensure!(equal, "the stores differ at revision {revision}: {hashes:x?}");
        let mut rights = Vec::new();
        for node in nodes {
            let status = node.status().await?;
            // A release from before there were users says none of it.
            if status.auth_hash != 0 {
                rights.push((status.auth_revision, status.auth_hash));
            }
        }
        let differ = |(a, b): ((u64, u64), (u64, u64))| a.0 == b.0 && a.1 != b.1;
        ensure!(!rights.iter().any(|one| differ((*one, rights[0]))), "users and roles differ: {rights:x?}");
        Ok(revision)
    }

    /// Fails if a node ended without being told to.
    pub fn check_alive(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.check_alive())
    }

    /// Ends the nodes of a test that went well, and removes their directory.
    pub fn close(mut self) -> Result<()> {
        self.check_alive()?;
        Node::kill_all(self.nodes.iter().map(Arc::as_ref))?;
        if let Some(directory) = self.directory.take() {
            directory.close().context("remove the temporary directory")?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            eprintln!("logs and data of the failed cluster are in {}", directory.keep().display());
        }
        for node in &self.nodes {
            // Tasks of the test may still hold the node.
            let _ = Node::kill_all([node.as_ref()]);
        }
    }
}

/// Whether a node votes, as the leader has it.
fn votes(leader: &admin::StatusResponse, node_id: u64) -> bool {
    let configs = leader.membership.iter().flat_map(|membership| &membership.configs);
    configs.into_iter().any(|config| config.node_ids.contains(&node_id))
}

/// The steps of a change are of interest when it failed, and then the error names the last one.
fn report(_: &Step) {}
