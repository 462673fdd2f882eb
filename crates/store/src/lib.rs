//! The store of a Kvorum node: multi-version data on RocksDB, and the raft log.
//!
//! Architecture invariant: nothing here knows of a network, of raft's rules or of an async runtime.
#![forbid(unsafe_code)]

mod apply;
pub mod auth;
pub mod command;
pub mod data_dir;
mod db;
pub mod entry;
mod error;
pub mod fatal;
pub mod feature;
pub mod files;
mod layout;
mod limits;
pub mod log;
mod machine;
mod places;
mod read;
mod snapshot;
pub mod space;
mod state;
mod store;
pub mod threads;
mod verify;

pub use apply::{Applying, Attempt, Event, EventKind, RevisionEvents, Run};
pub use auth::Auth;
pub use db::StoreOptions;
pub use error::{OpenError, ReadError, StoreError};
pub use layout::{Role, User};
pub use limits::Limits;
pub use machine::Machine;
pub use read::{Digest, Get, Page, Place, ReadBytes, Reader, Scan, SharedChanges, Slice};
pub use snapshot::{
    Begin, Checkpoint, Chunk, ReceiveError, Received, ReceivedSnapshot, SNAPSHOT_FORMAT, SnapshotReceiver,
    SnapshotSender,
};
pub use store::{Store, StoreStats};
pub use verify::{Finding, verify_state};
