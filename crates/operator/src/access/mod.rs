//! Users, roles and rights of a cluster, as its spec declares them.
//!
//! One declaration goes `observe/access.rs` (what is wanted, and what is known) -> `plan/access.rs` (whether the leader may
//! have something else) -> `apply.rs` (one call, which replaces all that was declared before).
//!
//! Architecture invariant: what the leader has is never read back. A declaration is repeated until the leader's revision of
//! users and rights was the same before it and after it: then it has changed nothing, and nobody else has either. So an
//! operator that was started anew, one that comes late and a recovery that goes back all end in what the spec says.

mod declared;
mod issuer;
pub mod mode;

pub use declared::Declared;
pub use issuer::{Issuer, Issuers};

/// Users and rights as a node has applied them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthState {
    /// The incarnation of the cluster: a recovery may go back to what was there before, and on from there another way.
    pub incarnation: u64,
    /// How often they have changed.
    pub revision: u64,
    /// A hash over them.
    pub hash: u64,
}

/// A declaration that the leader took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its fingerprint.
    pub fingerprint: u64,
    /// What the leader had when it was planned.
    pub before: AuthState,
}
