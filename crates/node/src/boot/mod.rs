//! What is done to a disk before raft begins.

pub mod recover;
pub mod restore;
