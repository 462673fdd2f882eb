//! The leader compares what the members hold, slice by slice of the keys, again and again.
//!
//! Checksums find what a disk has changed. What a bug, or memory that flips a bit before the checksum is made,
//! has changed is found only by looking at what the others have. So each slice is read on all members at one
//! revision, and with it users, roles and rights, among members that have seen the same changes of these. Who differs from a majority is marked as corrupt, through the log: it serves no reads and does
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
        if found != Found::default() {
            let Found { keys, users } = &found;
            tracing::warn!(%keys, %users, what = %What::Keys(&after), "members differ; looking again");
            sleep(REST_MIN).await;
            // What is seen once may be memory that flips a bit while it is read.
            found = found.seen_again(raft.compare(after.clone()).await?.0);
        }
        act(raft, found.keys, What::Keys(&after)).await?;
        act(raft, found.users, What::Users).await?;
        after = own.next;
        if after.is_none() {
            return Ok(());
        }
        sleep((took * SHARE).max(REST_MIN)).await;
    }
    Ok(())
}

/// Does what a verdict calls for.
async fn act(raft: &Raft, verdict: Verdict, what: What<'_>) -> Result<(), RequestError> {
    match verdict {
        Verdict::Equal => {}
        Verdict::Odd(ids) => {
            raft.metrics().store.differences.inc();
            for id in ids {
                mark(raft, id, &what).await?;
            }
        }
        Verdict::Unclear => {
            raft.metrics().store.differences.inc();
            tracing::error!(
                %what,
                "members differ, and no majority agrees, so that nobody can say who is right; take a backup \
                 of each member and ask for help"
            );
        }
    }
    Ok(())
}

async fn mark(raft: &Raft, node_id: u64, what: &What<'_>) -> Result<(), RequestError> {
    tracing::error!(
        node = format!("{node_id:016x}"),
        %what,
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
    async fn compare(&self, after: Option<Bytes>) -> Result<(Found, Digest), RequestError> {
        let slice = Slice { after, keys_max: SLICE_KEYS, bytes_max: SLICE_BYTES, ..Slice::default() };
        let own = self.read_digest(slice.clone()).await?;
        let own_auth = self.auth_digest();
        let overview = self.overview();
        let others: Vec<u64> = (overview.members.iter().map(|member| member.node_id))
            .filter(|id| *id != overview.node_id && !self.store().is_corrupt(*id))
            .collect();
        let asked = others.iter().map(|id| self.ask_digest(*id, &slice, &own));
        let answers = join_all(asked).await;
        let answers: BTreeMap<u64, peer::DigestResponse> =
            others.into_iter().zip(answers).filter_map(|(id, answer)| Some((id, answer?))).collect();
        let voters = overview.members.iter().filter(|member| member.voter).map(|member| member.node_id);
        let voters = voters.collect();
        let held =
            |answer: &peer::DigestResponse| Held { hash: answer.hash, keys: answer.keys, more: answer.more };
        let mut keys: BTreeMap<u64, Held> = answers.iter().map(|(id, answer)| (*id, held(answer))).collect();
        keys.insert(overview.node_id, Held { hash: own.hash, keys: own.keys, more: false });
        let mut users = same_rights(&own_auth, &answers);
        users.insert(overview.node_id, Held { hash: own_auth.hash, keys: 0, more: false });
        Ok((Found { keys: verdict::of(&keys, &voters), users: verdict::of(&users, &voters) }, own))
    }

    /// What a member holds of a slice that was read here; nothing where it does not say.
    async fn ask_digest(&self, node_id: u64, slice: &Slice, own: &Digest) -> Option<peer::DigestResponse> {
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
            Ok(Ok(answer)) => Some(answer.into_inner()),
            // It is down, behind, busy, or of a release that does not compare: the next pass asks again.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// What members hold of users, roles and rights, where they have seen as many changes of these as this node: the others
/// are behind, ahead, or of a release that does not say.
fn same_rights(own: &peer::AuthDigest, answers: &BTreeMap<u64, peer::DigestResponse>) -> BTreeMap<u64, Held> {
    let digests = answers.iter().filter_map(|(id, answer)| Some((*id, answer.auth?)));
    digests
        .filter(|(_, theirs)| theirs.revision == own.revision)
        .map(|(id, theirs)| (id, Held { hash: theirs.hash, keys: 0, more: false }))
        .collect()
}

/// What comes of comparing a slice, and users, roles and rights beside it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    keys: Verdict,
    users: Verdict,
}

impl Found {
    /// What both looks have found.
    fn seen_again(self, again: Found) -> Found {
        let both = |one: Verdict, other: Verdict| if one == other { one } else { Verdict::Equal };
        Found { keys: both(self.keys, again.keys), users: both(self.users, again.users) }
    }
}

/// What was compared, for people.
enum What<'a> {
    /// A slice, and where it begins.
    Keys(&'a Option<Bytes>),
    Users,
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Keys(Some(after)) => write!(f, "the keys after \"{}\"", after.escape_ascii()),
            What::Keys(None) => f.write_str("the keys from the first on"),
            What::Users => f.write_str("users, roles and rights"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only who has seen the same changes of rights is compared: others are behind, or cannot say.
    #[test]
    fn who_has_seen_other_changes_of_rights_is_not_compared() {
        let own = peer::AuthDigest { revision: 7, hash: 1 };
        let answer = |auth| peer::DigestResponse { auth, ..Default::default() };
        let auth = |revision, hash| Some(peer::AuthDigest { revision, hash });
        let answers = [auth(7, 1), auth(7, 2), auth(6, 3), auth(8, 4), None];
        let answers = answers.into_iter().zip(1..).map(|(auth, id)| (id, answer(auth))).collect();
        let held = same_rights(&own, &answers);
        assert_eq!(held.iter().map(|(id, held)| (*id, held.hash)).collect::<Vec<_>>(), [(1, 1), (2, 2)]);
    }
}
