//! The column families of a state.

use rocksdb::{ColumnFamily, DB};

use crate::layout::{CHANGES, CURRENT, DEADLINES, HISTORY, META};

/// All column families, in the order in which they are made.
pub(crate) const FAMILIES: [&str; 5] = [META, CURRENT, HISTORY, CHANGES, DEADLINES];
/// A column family that the database was opened with.
pub(crate) fn family<'db>(db: &'db DB, name: &str) -> &'db ColumnFamily {
    db.cf_handle(name).expect("the database was opened with all column families")
}
