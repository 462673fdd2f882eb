//! The raft log: entries, votes, truncations and purges in preallocated segments on disk.
//!
//! All changes go through one ordered queue to one writer, which puts what has gathered into
//! one frame, writes it with one call, syncs it with one fdatasync, and then calls the callbacks in
//! order. Entries can be read as soon as [`Log::append`] returns, from the cache of the log's tail.
//!
//! Invariants:
//! - A frame is written only after the one before it is synced. So only the last one can be torn,
//!   and nothing in a torn frame was ever acknowledged.
//! - Frames are written into zeros and never over anything. A segment gets its name when its zeros
//!   and its head are durable, and its predecessor is sealed after that.
//! - What a log holds when it is opened is made durable before anybody is told of it: a process that was killed
//!   between a write and its sync has left a frame that no sync covers.
//! - Segments are written directly, past the page cache, and read through it; no page of it is ever
//!   dirty while a segment is in use.
//! - A failed write or fsync stops the process, see [`crate::fatal`].
//! - Memory is bounded by the cache, the queue and one mark per 16 KiB of log, as long as whoever
//!   appends awaits [`Log::room`] first. No call but [`Log::open`] and [`Log::read`] waits for the
//!   disk; the drop of the last handle does.
//! - It knows nothing of RocksDB. The disk and what its two workers run on is a [`Machine`](crate::Machine).
//! - The clock is read only for the observer's durations.

mod cache;
mod check;
mod encode;
mod error;
mod files;
mod frame;
mod handle;
mod housekeeper;
mod options;
mod output;
mod queue;
mod reader;
mod record;
mod recovery;
mod scanner;
mod segment;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use self::check::{Held, look, verify};
pub use self::error::LogError;
pub(crate) use self::files::DIR;
pub use self::handle::Log;
pub use self::options::{LogObserver, LogOptions};
pub use self::state::{Done, LogState, Pending, Vote};
