//! Recovery from a quorum that is lost for good: this disk becomes the only voter of a new incarnation
//! of its cluster.
//!
//! Raft cannot do that while it runs. So the order is written down, the node stops, and its next start
//! carries it out before raft begins: the log goes on with a membership of this node alone and with the
//! begin of a new history. An order is for one exact log: where the log is another by then, the members
//! were not gone for good, and it is dropped. Each step can be repeated after a crash.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvorum_store::Store;
use kvorum_store::command::{Command, Kind, NewHistory};
use kvorum_store::data_dir::{DataDir, DataDirError, Identity, Origin};
use kvorum_store::entry::{Entry, LogId, encode_batch, encode_membership};
use kvorum_store::log::{Log, Vote};
use prost::Message as _;

use super::durably;
use crate::raft::founding_membership;
use crate::raft::recover::{ORDER, Order};
use crate::raft::went_back;

/// More revisions than any cluster makes between two looks of a client.
const REVISIONS: u64 = 1_000_000_000;
/// The entries that carry an order out: the membership, and the begin of the new history.
const ENTRIES: u64 = 2;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The operating system refused.
    #[error("carry out the recovery ordered in {}: {source}; check the disk and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The identity was not written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// Carries out what was ordered, before raft begins.
pub async fn carry_out(
    data_dir: &DataDir,
    log: &Log,
    store: &Store,
    advertise: (&str, &str),
    identity: Identity,
) -> Result<(), RecoverError> {
    let path = data_dir.path().join(ORDER);
    let Some(order) = read(data_dir, &path)? else { return Ok(()) };
    match log.state().last {
        Some(last) if last == order.last => {
            append(log, store, order, advertise, identity.node_id).await;
            data_dir.set_cluster(identity.cluster_id, order.incarnation, Origin::Joins)?;
        }
        // A crash came between the two.
        Some(last) if last == end(order) => {
            data_dir.set_cluster(identity.cluster_id, order.incarnation, Origin::Joins)?;
        }
        last => {
            let last = last.map_or_else(|| "nothing".into(), |last| last.to_string());
            tracing::warn!(
                "the ordered recovery is dropped: it was for a log that ends at {}, and this one ends at {last}",
                order.last
            );
        }
    }
    // What is left is what counts from now on.
    went_back::unmark(data_dir).map_err(io_error(&path))?;
    data_dir.remove(ORDER).map_err(io_error(&path))
}

/// The log's last entry once an order is carried out.
fn end(order: Order) -> LogId {
    LogId { term: order.last.term + 1, index: order.last.index + ENTRIES }
}

async fn append(log: &Log, store: &Store, order: Order, advertise: (&str, &str), node_id: u64) {
    let LogId { term, index } = end(order);
    let (peer, client) = advertise;
    let membership = encode_membership(&founding_membership(node_id, peer, client));
    let history = Command::from(Kind::NewHistory(NewHistory { revisions: REVISIONS }));
    let history = encode_batch(store.cluster_time_ms(), [Bytes::from(history.encode_to_vec())].iter());
    let entries = vec![
        Entry { log_id: LogId { term, index: index - 1 }, payload: membership },
        Entry { log_id: LogId { term, index }, payload: history },
    ];
    let voted = log.state().vote.map_or(0, |vote| vote.term);
    // First the vote: no entry of a term may be in a log that has not heard of that term.
    let vote = Vote { term: term.max(voted), node_id, committed: false };
    durably(|done| log.save_vote(vote, done)).await;
    durably(|done| log.append(entries, done)).await;
    tracing::warn!(
        incarnation = order.incarnation,
        "this node was made the only voter of a new incarnation of its cluster"
    );
}

fn read(data_dir: &DataDir, path: &Path) -> Result<Option<Order>, RecoverError> {
    let Some(text) = data_dir.read(ORDER).map_err(io_error(path))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&text);
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[term, index, incarnation]) => Ok(Some(Order { last: LogId { term, index }, incarnation })),
        _ => Err(io_error(path)(io::Error::new(io::ErrorKind::InvalidData, "it is no order"))),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RecoverError {
    let path = path.to_owned();
    move |source| RecoverError::Io { path, source }
}
