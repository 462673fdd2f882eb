//! Every bound that only large commands, large runs and long logs reach.

/// The size of a log segment on any disk but a small one.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// The bounds of apply, reads, log and snapshots that bite only where something is large.
///
/// Architecture invariant: they are the same on all members, always, and so are no flags. Those under
/// "outcomes" say what a command does; a member with others would come to another state from the same
/// log. The rest only says how the work is cut up, which no outcome may depend on. They are a value so
/// that tests can make them so small that ordinary histories reach them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Outcomes: so many keys may the range deletes of one write take with them. A larger one would hold
    /// up everything else for seconds, and its changes would not fit in memory.
    pub deleted_keys_max: usize,
    /// Outcomes: so many logical bytes likewise, below the feature level that bounds all of a write.
    pub deleted_bytes_max: u64,
    /// Outcomes: so many logical bytes may all that one write replaces and deletes take, however it names the keys, and
    /// what one expiry deletes. It goes to history in one write of the database, and is in memory about three times
    /// for that: a write that takes more ended every member of the cluster that applied it, at each start again.
    pub superseded_bytes_max: u64,
    /// Outcomes: so many logical bytes where the deleted records are asked for. With room for what comes
    /// around them, it is an answer that any gRPC client accepts (4 MiB by default).
    pub previous_bytes_max: u64,
    /// Outcomes: no compaction step removes more changes, whatever it asks for, as it holds up the
    /// writes behind it.
    pub step_changes_max: u32,
    /// Outcomes, as it counts in the store's size: of so many versions of a record that only differ in
    /// their TTL, one has its value to itself in `history`. A read in the past walks past the others.
    pub shared_values_max: u64,
    /// Outcomes: so many users there may be.
    pub users_max: usize,
    /// Outcomes: so many roles.
    pub roles_max: usize,
    /// Outcomes: so many ranges a role may have.
    pub permissions_max: usize,
    /// Outcomes: so many logical bytes users and roles may take, all of which every member has in memory.
    pub auth_bytes_max: u64,
    /// Work: what a run has gathered is written when it has grown to so many bytes, in the middle of an
    /// entry if need be: range deletes can make far more of an entry than its own bytes.
    pub batch_bytes_max: usize,
    /// Work: what a run has read of the database is kept until it is written up to so many bytes; the rest is read
    /// again where its value is needed.
    pub held_bytes_max: usize,
    /// Work: the records before the changes of a run are told with its events up to so many bytes. Beyond them, who
    /// watches reads them from the disk.
    pub previous_told_bytes_max: usize,
    /// Work: records that were written lately take so many bytes in memory at most, whatever part of the
    /// cache they may have.
    pub recent_bytes_max: u64,
    /// Work: larger values are not kept among them. Copying them would cost more than the look-up that it
    /// saves, and push out many others.
    pub recent_value_bytes_max: usize,
    /// Work: a page of a scan ends when it has looked at so many keys that do not exist at its revision: a range
    /// whose keys came later, or went before, must not hold a reader for seconds.
    pub skipped_keys_max: usize,
    /// Work: a read of changes ends after so many, whether they concerned anybody or not: some ten milliseconds.
    pub looked_at_changes_max: usize,
    /// Work: a frame of the log takes changes until it is so large; one change may be larger. It bounds the
    /// writer's buffer and the time of one write, and is far above what a group of requests needs.
    pub frame_bytes_max: usize,
    /// Work: no segment of the log is longer, however large the disk, unless a single write is.
    pub segment_bytes_max: u64,
    /// Work: bytes of one chunk of a snapshot: a few of them are in memory at a time, and one fits in a message.
    pub chunk_bytes: usize,
    /// Work: RocksDB does nothing by itself, and nobody asks what its cache holds, so that the same history is the
    /// same steps each time. It is for simulations: without compaction a store grows slow.
    pub repeatable: bool,
}

impl Default for Limits {
    /// The limits of every node.
    fn default() -> Self {
        Limits {
            deleted_keys_max: 1_000_000,
            deleted_bytes_max: 256 << 20,
            superseded_bytes_max: 64 << 20,
            previous_bytes_max: 3 << 20,
            step_changes_max: 10_000,
            shared_values_max: 256,
            users_max: 10_000,
            roles_max: 1_000,
            permissions_max: 1_000,
            auth_bytes_max: 64 << 20,
            batch_bytes_max: 32 << 20,
            held_bytes_max: 16 << 20,
            previous_told_bytes_max: 16 << 20,
            recent_bytes_max: u64::MAX,
            recent_value_bytes_max: 4096,
            skipped_keys_max: 10_000,
            looked_at_changes_max: 30_000,
            frame_bytes_max: 4 << 20,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            chunk_bytes: 1 << 20,
            repeatable: false,
        }
    }
}
