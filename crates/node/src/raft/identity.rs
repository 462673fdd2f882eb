//! Who this node is to the other members.

use kvorum_proto::peer::v1 as peer;

/// Who this node is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id, not 0.
    pub cluster_id: u64,
    /// The cluster's incarnation.
    pub incarnation: u64,
    /// This node's id.
    pub node_id: u64,
}

impl Identity {
    /// The envelope of an RPC to a peer.
    pub fn envelope(&self, to: u64) -> Option<peer::Envelope> {
        let Identity { cluster_id, incarnation, node_id: from } = *self;
        Some(peer::Envelope { cluster_id, incarnation, from, to })
    }
}
