//! The door: every request of an API passes here once, whichever API it came by. A write's size and the room
//! for it are looked at, it is proposed, and its outcome told; a read waits until this node may answer it, and
//! then reads, off the thread that serves where the disk may have to be waited for. Before all
//! that it is asked whether the caller may do what he asks for.
//!
//! Two things do not come by here: what members ask of each other as members, which is raft's own business
//! (a write that a member forwards has passed its own door), and what a leader does by itself, see `duties`.

mod auth;

use std::sync::Arc;

use bytes::Bytes;
use kvorum_auth::Passwords;
use kvorum_proto::admin::v1 as admin;
use kvorum_store::command::{Answer, Command, KeyRange, Kind, TtlSet, Written};
use kvorum_store::{Get, Store};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::access::{Authorizer, Caller, Checked, Grant, Needs};
use crate::blocking::Blocking;
use crate::error::{AuthError, MembershipError, RequestError, answered};
use crate::key_reads::{self, KeyReads, Read};
use crate::metrics::Metrics;
use crate::net::budget::Account;
use crate::place::Overview;
use crate::raft::Raft;
use crate::raft::gather::Applied;
use crate::shared_reads::SharedReads;
use crate::watch::{WatchHub, Watcher};

/// Reads of scans that may be under way at a time: each is a blocking thread, with a page in memory.
const BLOCKING_READS_MAX: usize = 8;

/// How often a write is checked: each time, rights changed between the check and its being applied.
const CHECKS_MAX: usize = 3;

/// The door of a node. Clones are the same one.
#[derive(Clone)]
pub struct Requests(Arc<Inner>);

struct Inner {
    raft: Raft,
    hub: Arc<WatchHub>,
    authorizer: Authorizer,
    passwords: Passwords,
    request_bytes_max: usize,
    scans: Reads,
    /// Of watches that fell behind. Apart from those of scans, so that neither holds up the other.
    changes: Arc<SharedReads>,
    /// And of single keys that are not in memory.
    keys: KeyReads,
}

/// Where an answer comes from, and which state it tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The cluster.
    pub cluster_id: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// The node that answers.
    pub node_id: u64,
    /// The term in which a write was committed; else the node's present one.
    pub term: u64,
    /// The revision of the answer.
    pub revision: u64,
}

/// What a read has to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was acknowledged, by any member, before the read began.
    Linearizable,
    /// What this node has: it never goes back, but may be behind.
    Serializable,
}

impl Consistency {
    /// As the APIs say it.
    pub fn of(serializable: bool) -> Consistency {
        if serializable { Consistency::Serializable } else { Consistency::Linearizable }
    }
}

/// A write that was applied.
#[derive(Debug)]
pub struct Done {
    /// Where, and the revision after it.
    pub head: Head,
    answer: Option<Answer>,
}

impl Done {
    /// What a write did. An answer of another kind cannot come from a store of this release.
    pub fn written(self) -> Result<Written, RequestError> {
        match self.answer {
            Some(Answer::Written(written)) => Ok(written),
            other => Err(unexpected(&other)),
        }
    }

    /// What a change of a TTL did.
    pub fn ttl_set(self) -> Result<TtlSet, RequestError> {
        match self.answer {
            Some(Answer::Ttl(set)) => Ok(set),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Option<Answer>) -> RequestError {
    RequestError::OutcomeUnknown(format!("it was answered in a way this release does not know: {answer:?}"))
}

/// Reads of the store that may wait for the disk, so many at a time.
#[derive(Clone)]
pub struct Reads {
    store: Store,
    blocking: Blocking,
    places: Arc<Semaphore>,
}

impl Reads {
    /// Reads of this store, at most so many at a time.
    pub fn new(store: Store, blocking: Blocking, places: usize) -> Reads {
        Reads { store, blocking, places: Arc::new(Semaphore::new(places)) }
    }

    /// Waits for a place, and reads. The place is taken until the read is over, though nobody waits for it.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| RequestError::ShuttingDown)?;
        let store = self.store.clone();
        let read = self.blocking.run(move || {
            let read = read(&store);
            drop(place);
            read
        });
        read.await.map_err(|_| RequestError::ShuttingDown)
    }
}

/// Who asks for a write.
#[derive(Clone, Copy)]
enum Asker<'a> {
    /// Somebody on the client port, who may or may not.
    Caller(&'a Caller),
    /// An administrator, whom the peer port has let in.
    Administrator,
}

impl Requests {
    /// The door of a node that takes requests of so many bytes.
    pub fn new(raft: Raft, hub: Arc<WatchHub>, request_bytes_max: usize) -> Requests {
        let scans = Reads::new(raft.store().clone(), raft.blocking().clone(), BLOCKING_READS_MAX);
        let keys = KeyReads::new(raft.store().clone(), raft.blocking().clone());
        let changes = SharedReads::new(raft.store().clone(), raft.blocking().clone());
        let authorizer = Authorizer::new(raft.clone());
        let blocking = raft.blocking().clone();
        let passwords = Passwords::new(move |work| blocking.begin(work));
        Requests(Arc::new(Inner {
            raft,
            hub,
            authorizer,
            passwords,
            request_bytes_max,
            scans,
            changes,
            keys,
        }))
    }

    /// The largest request, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.0.request_bytes_max
    }

    /// The store, for what is in memory.
    pub fn store(&self) -> &Store {
        self.0.raft.store()
    }

    /// The head of an answer that tells of this revision.
    pub fn head(&self, revision: u64) -> Head {
        let overview = self.0.raft.overview();
        let Overview { cluster_id, incarnation, node_id, term, .. } = *overview;
        Head { cluster_id, incarnation, node_id, term, revision }
    }

    /// Whether a caller may do something. He is refused only by what the cluster knows now: a right that he has just
    /// been given may not have come here yet.
    pub async fn may(
        &self,
        caller: &Caller,
        needs: Needs<'_>,
        deadline: Instant,
    ) -> Result<Checked, RequestError> {
        let authorizer = &self.0.authorizer;
        let mut look = authorizer.look(caller, needs);
        if look.is_denied() {
            self.0.raft.read_barrier(deadline).await?;
            look = authorizer.look(caller, needs);
        }
        Ok(authorizer.count(look)?)
    }

    /// Proposes what a caller may do, and answers what it did.
    pub async fn write(&self, caller: &Caller, kind: Kind, deadline: Instant) -> Result<Done, RequestError> {
        caller.trail.changes(&kind);
        let done = self.write_for(Asker::Caller(caller), kind, deadline).await?;
        caller.trail.at(done.head.revision);
        Ok(done)
    }

    /// Where rights changed before the command was applied, nothing was done, and who asks is checked anew.
    async fn write_for(&self, asker: Asker<'_>, kind: Kind, deadline: Instant) -> Result<Done, RequestError> {
        let mut command = Command::from(kind);
        for _ in 0..CHECKS_MAX {
            command.auth_revision = match (asker, &command.kind) {
                (Asker::Caller(caller), Some(kind)) => {
                    self.may(caller, Needs::Command(kind), deadline).await?.as_of
                }
                _ => self.store().auth_as_of(),
            };
            match self.write_checked(&command, deadline).await {
                Err(RequestError::Auth(AuthError::Moved)) => {
                    self.metrics().auth.moved();
                    // The change may not have come here yet.
                    self.0.raft.read_barrier(deadline).await?;
                }
                done => return done,
            }
        }
        Err(AuthError::Moved.into())
    }

    async fn write_checked(&self, command: &Command, deadline: Instant) -> Result<Done, RequestError> {
        let requested = match &command.kind {
            Some(Kind::Compact(compact)) => compact.revision,
            _ => 0,
        };
        // Applying it would refuse it too; but by then it would take room in the log of a full disk.
        if let Some(kind) = &command.kind
            && let Some(refused) = self.0.raft.store().refuse_growth(kind)
        {
            return Err(RequestError::refused(refused, requested));
        }
        let command = command.encoded();
        if command.len() > self.0.request_bytes_max {
            return Err(RequestError::TooLarge {
                bytes: command.len() as u64,
                limit: self.0.request_bytes_max as u64,
            });
        }
        let Applied { outcome, term } = self.0.raft.propose(command, deadline).await?;
        match outcome.answer {
            Some(Answer::Refused(refused)) => Err(RequestError::refused(refused, requested)),
            answer => Ok(Done { head: Head { term, ..self.head(outcome.revision) }, answer }),
        }
    }

    /// Returns when a caller's read may be answered from this node's state. What is read then may be shown once the
    /// grant [holds](Grant::holds).
    pub async fn may_read(
        &self,
        caller: Caller,
        range: KeyRange,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Grant, RequestError> {
        caller.trail.reads(&range);
        self.is_current(consistency, deadline).await?;
        caller.trail.at(self.store().revision());
        let authorizer = self.0.authorizer.clone();
        let checked = authorizer.check(&caller, Needs::Read(&range))?;
        Ok(Grant::new(authorizer, caller, range, checked))
    }

    /// Returns when this node's state is new enough.
    async fn is_current(&self, consistency: Consistency, deadline: Instant) -> Result<(), RequestError> {
        if self.0.raft.is_corrupt() {
            return Err(RequestError::Corrupt);
        }
        match consistency {
            Consistency::Serializable => self.0.raft.recovered(deadline).await,
            Consistency::Linearizable => self.0.raft.read_barrier(deadline).await,
        }
    }

    /// Reads a key at a revision (0: now), once the connection may have more to send, if one is named. With
    /// what was read there comes its place among such reads, to be kept until a large value is counted as
    /// waiting to be sent.
    pub async fn get(
        &self,
        key: Bytes,
        revision: u64,
        account: Option<&Account>,
        deadline: Instant,
    ) -> Result<(Get, Option<key_reads::Place>), RequestError> {
        let read = self.read_key(key, revision, account);
        timeout_at(deadline, read).await.map_err(|_| RequestError::Busy)?
    }

    /// What is in memory, as most is, costs least where it is asked for; where there are few cores, raft's own
    /// thread must not wait for the disk.
    async fn read_key(
        &self,
        key: Bytes,
        revision: u64,
        account: Option<&Account>,
    ) -> Result<(Get, Option<key_reads::Place>), RequestError> {
        loop {
            if let Some(account) = account {
                account.admitted().await;
            }
            if revision == 0
                && let Some(got) = answered(self.store().get_cached(&key))?
            {
                return Ok((got, None));
            }
            if let Read::Done(got, place) = self.0.keys.read(key.clone(), revision, account.cloned()).await? {
                return Ok((got?, Some(place)));
            }
        }
    }

    /// How long a key has yet that ends at this time, in milliseconds.
    pub fn remaining_ms(&self, deadline_ms: u64) -> u64 {
        deadline_ms.saturating_sub(self.0.raft.cluster_now_ms())
    }

    /// Where scans read their pages, once [`Requests::may_read`] has returned.
    pub fn scans(&self) -> &Reads {
        &self.0.scans
    }

    /// A new watcher of a range, where it reads when it is behind, and the grant that must hold before each event.
    pub async fn watch(
        &self,
        caller: Caller,
        range: KeyRange,
        deadline: Instant,
    ) -> Result<(Watcher, Arc<SharedReads>, Grant), RequestError> {
        caller.trail.reads(&range);
        self.is_current(Consistency::Serializable, deadline).await?;
        caller.trail.at(self.store().revision());
        let checked = self.may(&caller, Needs::Read(&range), deadline).await?;
        let grant = Grant::new(self.0.authorizer.clone(), caller, range.clone(), checked);
        Ok((self.0.hub.watch(range), self.0.changes.clone(), grant))
    }

    /// This node's place in its cluster; an error where it has none.
    pub fn overview(&self) -> Result<Arc<Overview>, RequestError> {
        let overview = self.0.raft.overview();
        if overview.cluster_id == 0 { Err(RequestError::Unjoined) } else { Ok(overview) }
    }

    /// What this node says of itself.
    pub fn status(&self) -> admin::StatusResponse {
        let authorizer = &self.0.authorizer;
        let let_pass = authorizer.let_pass().into_iter().map(|it| admin::LetPass {
            user: it.user.to_string(),
            proof: it.proof.to_owned(),
            why: it.why,
            requests: it.requests,
        });
        admin::StatusResponse {
            unknown_token_key: authorizer.saw_unknown_key(),
            let_pass: let_pass.collect(),
            ..self.0.raft.status()
        }
    }

    /// What this node says of itself; with the hash of its records at a revision other than 0, and whether it
    /// has just heard from a quorum, where that is asked for.
    pub async fn full_status(
        &self,
        asked: admin::StatusRequest,
        deadline: Option<Instant>,
    ) -> Result<admin::StatusResponse, RequestError> {
        let raft = &self.0.raft;
        let status = async {
            let confirmed = asked.confirm && raft.confirm().await;
            let mut status = admin::StatusResponse { confirmed, ..self.status() };
            if asked.hash_revision != 0 {
                status.hash = raft.hash(asked.hash_revision).await?;
            }
            Ok(status)
        };
        within(deadline, status).await.unwrap_or(Err(RequestError::Deadline { outcome_unknown: false }))
    }

    /// Changes the cluster. What was begun goes on when the caller goes, or when his time is up,
    /// to its end or the node's.
    pub async fn change<T, C>(
        &self,
        deadline: Option<Instant>,
        change: impl FnOnce(Raft) -> C,
    ) -> Result<T, MembershipError>
    where
        T: Send + 'static,
        C: Future<Output = Result<T, MembershipError>> + Send + 'static,
    {
        let mut stopping = self.0.raft.watch_stopping();
        let change = change(self.0.raft.clone());
        let begun = tokio::spawn(async move {
            tokio::select! {
                changed = change => changed,
                // It would keep the store open.
                _ = stopping.wait_for(|stopping| *stopping) => Err(RequestError::ShuttingDown.into()),
            }
        });
        match within(deadline, begun).await {
            Some(Ok(changed)) => changed,
            Some(Err(_)) => Err(RequestError::ShuttingDown.into()),
            None => {
                Err(MembershipError::Unfinished("the caller's time was up before the change was made".into()))
            }
        }
    }

    /// For what reads no key and changes nothing of the cluster: a backup's stream.
    pub fn raft(&self) -> &Raft {
        &self.0.raft
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.0.raft.metrics()
    }
}

/// What comes of it by the deadline, if there is one.
pub async fn within<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}
