//! The leader compares what the members hold, slice by slice of the keys, again and again.
//!
//! Checksums find what a disk has changed. What a bug, or memory that flips a bit before the checksum is made,
//! has changed is found only by looking at what the others have. So each slice is read on all members at one
//! revision. Who differs from a majority is marked as corrupt, through the log: it serves no reads and does
//! not lead from then on, and whoever looks after the cluster replaces its disk.
//!
//! It costs no more than [`SHARE`] of one core on each member, and what the disk gives in that time.

mod answer;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kvorum_proto::peer::v1 as peer;
use kvorum_store::command::{Command, CorruptAlarm, Kind};
use kvorum_store::feature::CORRUPT_ALARM;
use kvorum_store::{Digest, Slice};
use tokio::time::{Instant, sleep, timeout};

use super::Raft;
use crate::error::RequestError;
use verdict::{Held, Verdict};

/// What one slice holds: some milliseconds of reading.
const SLICE_KEYS: usize = 20_000;
/// See [`SLICE_KEYS`].
const SLICE_BYTES: usize = 4 << 20;

/// After a slice the leader rests so many times as long as reading it has taken: one part in so many, of one
/// core, goes into comparing.
const SHARE: u32 = 20;
/// And so long at least.
const REST_MIN: Duration = Duration::from_millis(100);

/// How long a member may take to answer: to catch up with the revision, and to read.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the mark may take to be applied before it is tried anew, at the next look.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Compares until the node stops.
pub async fn follow(raft: Raft) {
    let interval = raft.options().compare_interval;
    if interval.is_zero() {
        return;
    }
    let mut stopping = raft.watch_stopping();
    tokio::select! {
        () = passes(&raft, interval) => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

/// Pass after pass over all keys, each an interval after the one before has begun, or when a member has
/// installed a snapshot.
async fn passes(raft: &Raft, interval: Duration) {
    loop {
        let begun = Instant::now();
        if raft.compares() {
            match pass(raft).await {
                Ok(()) => raft.metrics().store.compare_passes.inc(),
                Err(error) => tracing::debug!(%error, "what members hold was not compared to its end"),
            }
        }
        let _ = timeout(interval.saturating_sub(begun.elapsed()), raft.inner.snapshots.sent()).await;
    }
}

/// Compares all keys, while this node leads.
async fn pass(raft: &Raft) -> Result<(), RequestError> {
    let mut after = None;
    while raft.compares() {
        let begun = Instant::now();
        let (mut found, own) = raft.compare(after.clone()).await?;
        let took = begun.elapsed();
        if found != Verdict::Equal {
            tracing::warn!(%found, from = %Start(&after), "members differ; looking again");
            sleep(REST_MIN).await;
            let again = raft.compare(after.clone()).await?.0;
            // What is seen once may be memory that flips a bit while it is read.
            found = if again == found { found } else { Verdict::Equal };
        }
        match found {
            Verdict::Equal => {}
            Verdict::Odd(ids) => {
                raft.metrics().store.differences.inc();
                for id in ids {
                    mark(raft, id, &after).await?;
                }
            }
            Verdict::Unclear => {
                raft.metrics().store.differences.inc();
                tracing::error!(
                    from = %Start(&after),
                    "members differ, and no majority agrees, so that nobody can say who is right; take a backup \
                     of each member and ask for help"
                );
            }
        }
        after = own.next;
        if after.is_none() {
            return Ok(());
        }
        sleep((took * SHARE).max(REST_MIN)).await;
    }
    Ok(())
}

async fn mark(raft: &Raft, node_id: u64, after: &Option<Bytes>) -> Result<(), RequestError> {
    tracing::error!(
        node = format!("{node_id:016x}"),
        from = %Start(after),
        "a member's data differs from what a majority holds: it is marked as CORRUPT, serves no reads and does \
         not lead; replace it by an empty disk"
    );
    let alarm = Kind::CorruptAlarm(CorruptAlarm { node_id, raised: true });
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    raft.propose_here(Command::from(alarm).encoded(), deadline).await.map(drop)
}

impl Raft {
    /// Whether it is for this node to compare.
    fn compares(&self) -> bool {
        self.store().feature_level() >= CORRUPT_ALARM && self.overview().is_leader()
    }

    /// Reads the next slice here and on all members that answer.
    async fn compare(&self, after: Option<Bytes>) -> Result<(Verdict, Digest), RequestError> {
        let slice = Slice { after, keys_max: SLICE_KEYS, bytes_max: SLICE_BYTES, ..Slice::default() };
        let own = self.read_digest(slice.clone()).await?;
        let overview = self.overview();
        let others: Vec<u64> = (overview.members.iter().map(|member| member.node_id))
            .filter(|id| *id != overview.node_id && !self.store().is_corrupt(*id))
            .collect();
        let asked = others.iter().map(|id| self.ask_digest(*id, &slice, &own));
        let answers = join_all(asked).await;
        let mut held: BTreeMap<u64, Held> =
            others.into_iter().zip(answers).filter_map(|(id, held)| Some((id, held?))).collect();
        held.insert(overview.node_id, Held { hash: own.hash, keys: own.keys, more: false });
        let voters = overview.members.iter().filter(|member| member.voter).map(|member| member.node_id);
        Ok((verdict::of(&held, &voters.collect()), own))
    }

    /// What a member holds of a slice that was read here; nothing where it does not say.
    async fn ask_digest(&self, node_id: u64, slice: &Slice, own: &Digest) -> Option<Held> {
        let core = self.core().ok()?;
        let mut client = core.connections.open_client(node_id)?;
        let request = peer::DigestRequest {
            envelope: core.identity.envelope(node_id),
            revision: own.revision,
            after: slice.after.clone(),
            through: own.next.clone(),
            keys: own.keys,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(ANSWER_TIMEOUT);
        match timeout(ANSWER_TIMEOUT, client.digest(request)).await {
            Ok(Ok(answer)) => {
                let peer::DigestResponse { hash, keys, more } = answer.into_inner();
                Some(Held { hash, keys, more })
            }
            // It is down, behind, busy, or of a release that does not compare: the next pass asks again.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// Where a slice begins, for people.
struct Start<'a>(&'a Option<Bytes>);

impl std::fmt::Display for Start<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(after) => write!(f, "the keys after \"{}\"", after.escape_ascii()),
            None => f.write_str("the first key"),
        }
    }
}
