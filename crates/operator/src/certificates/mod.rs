//! The certificates of a cluster: its CA, the members' certificate, root's, and the CA as clients get it.
//!
//! One change goes `observe/secrets.rs` (what is there) -> `plan` (pure: one change, without Kubernetes, keys or a
//! clock) -> `content` (what that puts into the object) -> `apply_certificates.rs` (one write, for the version that was
//! seen). `mode` decides what the members' ports speak, and `own` is what the operator itself shows and believes.
//!
//! Architecture invariants: where a rotation stands is what `NAME-ca` holds, and the members' reports, and nothing else;
//! no certificate is shown whose CA some member does not believe; no key is printed.

mod content;
mod mode;
mod own;
mod plan;

pub use content::{AuthorityData, Content, LeafData, Target, Unmade, leaf_names, made};
pub use mode::{Members, Speak, speak};
pub use own::{Own, own};
pub use plan::{
    Authority, Ca, Change, Fingerprint, Held, Leaf, Look, Next, Problem, QUIET_SECONDS, RENEWED_AHEAD,
    ROTATED_AHEAD, Report, Slot, Stage, next,
};

/// The keys of a Secret with a certificate, and of the ConfigMap.
pub const CERTIFICATE: &str = "tls.crt";
/// See [`CERTIFICATE`].
pub const KEY: &str = "tls.key";
/// See [`CERTIFICATE`].
pub const BUNDLE: &str = "ca.crt";
