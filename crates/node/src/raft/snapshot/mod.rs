//! Snapshots: whole stores on their way to another member, or to an administrator.

pub mod checkpoints;
pub mod chunks;
pub mod data;
pub mod holds;
pub mod outgoing;
pub mod places;
pub mod receive;
pub mod send;
