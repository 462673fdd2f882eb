//! Founding a cluster, and joining one: how an empty disk comes to its cluster.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kvorum_store::data_dir::{Identity, Origin};
use openraft::errors::{InitializeError, RaftError};
use rand::Rng as _;

use super::Raft;
use super::feature::unknown_level;
use crate::error::MembershipError;

impl Raft {
    /// Founds a cluster of this one node, and answers its id. Repeating it finishes what a crash
    /// left, and is a no-op after that. With 0 the node chooses the cluster's id. One that is founded closed
    /// lets no client in, and nobody be added, before it is declared what clients may do.
    pub async fn initialize(&self, wanted: u64, closed: bool) -> Result<u64, MembershipError> {
        let _joining = self.inner.joining.lock().await;
        let founded = self.overview().members.iter().any(|member| member.voter);
        let origin = if closed { Origin::FoundsClosed } else { Origin::Founds };
        match self.disk_cluster() {
            0 => {
                let own = || self.inner.options.cluster_id.unwrap_or_else(|| rand::rng().next_u64().max(1));
                let cluster_id = if wanted == 0 { own() } else { wanted };
                self.set_cluster(cluster_id, 1, origin).await?;
            }
            actual if wanted != 0 && wanted != actual => {
                return Err(MembershipError::OtherCluster { actual, wanted });
            }
            cluster_id if founded => return Ok(cluster_id),
            cluster_id if !self.inner.data_dir.founds() => {
                return Err(MembershipError::Refused(format!(
                    "this disk was joined to cluster {cluster_id:016x} and founds none: add it there with `kvorum \
                     member add {}`, or, where that cluster is gone, empty its data directory first",
                    self.inner.options.advertise_peer
                )));
            }
            // A crash came between the two halves of founding.
            cluster_id => drop(self.note_cluster(cluster_id, 0, origin)?),
        }
        let core = self.core()?;
        let node_id = core.identity.node_id;
        let founder = BTreeMap::from([(node_id, self.address())]);
        match core.raft.initialize(founder).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(core.identity.cluster_id),
            Err(error) => Err(MembershipError::Refused(format!("found the cluster: {error}"))),
        }
    }

    /// Makes this Unjoined node one that a cluster may add; durable when it returns.
    pub async fn join(
        &self,
        cluster_id: u64,
        incarnation: u64,
        feature_level: u32,
    ) -> Result<(), MembershipError> {
        let known = self.inner.options.feature_level_max;
        if feature_level > known {
            return Err(MembershipError::Refused(unknown_level("the cluster", feature_level, known)));
        }
        let _joining = self.inner.joining.lock().await;
        match self.disk_cluster() {
            0 => self.set_cluster(cluster_id, incarnation, Origin::Joins).await,
            actual if actual != cluster_id => {
                Err(MembershipError::OtherCluster { actual, wanted: cluster_id })
            }
            // It may have begun to found the cluster that another disk founded then: now it joins.
            // Its incarnation stays: of what it missed, no message tells it.
            _ => self.note_cluster(cluster_id, 0, Origin::Joins).map(drop),
        }
    }

    /// The cluster that this disk belongs to; 0: none.
    fn disk_cluster(&self) -> u64 {
        self.inner.data_dir.identity().map_or(0, |identity| identity.cluster_id)
    }

    async fn set_cluster(
        &self,
        cluster_id: u64,
        incarnation: u64,
        origin: Origin,
    ) -> Result<(), MembershipError> {
        if let Some(wanted) = self.inner.options.cluster_id.filter(|wanted| *wanted != cluster_id) {
            return Err(MembershipError::Refused(format!(
                "this node is for cluster {wanted:016x}, as --cluster-id says, not for {cluster_id:016x}"
            )));
        }
        let wanted = self.inner.options.incarnation_min;
        if incarnation < wanted {
            return Err(MembershipError::Refused(format!(
                "the cluster is of incarnation {incarnation}, --incarnation-min says {wanted}; start this node with \
                 a lower one"
            )));
        }
        let identity = self.note_cluster(cluster_id, incarnation, origin)?;
        tracing::info!(cluster_id = format!("{cluster_id:016x}"), "this disk belongs to a cluster now");
        self.start_core(identity).await.map_err(|error| MembershipError::Io(error.to_string()))
    }

    /// Writes down to which cluster this disk belongs, and how it came to it.
    fn note_cluster(
        &self,
        cluster_id: u64,
        incarnation: u64,
        origin: Origin,
    ) -> Result<Identity, MembershipError> {
        let noted = self.inner.data_dir.set_cluster(cluster_id, incarnation, origin);
        self.inner.closed.store(self.inner.data_dir.is_closed(), Ordering::Release);
        noted.map_err(|error| MembershipError::Io(error.to_string()))
    }

    /// Whether the cluster was founded closed, and nobody has declared yet what clients may do. It has no other
    /// member then, so that none other need know.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire) && self.inner.store.auth_as_of() == 0
    }

    /// Lets clients in, once that was declared.
    pub async fn open(&self) -> Result<(), MembershipError> {
        let _joining = self.inner.joining.lock().await;
        if !self.inner.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.inner.data_dir.open_cluster().map_err(|error| MembershipError::Io(error.to_string()))?;
        self.inner.closed.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether this disk began to found a cluster, and a crash came before it had.
    pub fn founding(&self) -> bool {
        self.inner.data_dir.founds() && !self.overview().members.iter().any(|member| member.voter)
    }
}
