//! Kvorum's wire types, generated from `proto/`, and how they are put into bytes.
#![allow(missing_docs, clippy::all, clippy::unwrap_used)]

mod codec;

/// The client API.
pub mod kv {
    pub mod v1 {
        tonic::include_proto!("kv.v1");
    }
}

/// Users, roles and rights.
pub mod auth {
    pub mod v1 {
        tonic::include_proto!("auth.v1");
    }
}

/// Status and membership, on the peer port.
pub mod admin {
    pub mod v1 {
        tonic::include_proto!("admin.v1");
    }
}

/// What members say to each other.
pub mod peer {
    pub mod v1 {
        tonic::include_proto!("peer.v1");
    }
}

/// The encoded `FileDescriptorSet` of all of the above, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
