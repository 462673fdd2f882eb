//! RocksDB: how it is opened, read and written.
//!
//! Architecture invariant: nothing is ever written with RocksDB's own log. The raft log is the redo
//! log; what a crash takes from the memtables is applied again from there.

mod families;
mod manifest;
mod open;
mod options;
mod range;
mod recent;
mod write;

pub(crate) use self::families::{FAMILIES, family};
pub(crate) use self::open::{create, open, open_read_only, open_to_read_through, unread};
pub(crate) use self::options::Caches;
pub use self::options::StoreOptions;
pub(crate) use self::range::{Bounds, iterate_current, successor};
pub(crate) use self::recent::{Recent, RecentRecord};
pub(crate) use self::write::{flush, flush_in_order, impatient_write_options, write, write_options};
