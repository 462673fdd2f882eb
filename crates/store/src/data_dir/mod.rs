//! The data directory: held by one process, and of one disk's identity.
//!
//! `LOCK` is empty and locked while a process works on the directory. `identity` says whose disk it
//! is, see [`identity`].

mod directory;
mod error;
mod identity;
#[cfg(test)]
mod tests;

pub use self::directory::DataDir;
pub use self::error::DataDirError;
pub use self::identity::{Identity, Origin};
