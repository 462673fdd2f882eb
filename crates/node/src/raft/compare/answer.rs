//! Reading a slice, for the leader or as it.

use std::time::Duration;

use kvorum_proto::peer::v1 as peer;
use kvorum_store::{Digest, Slice};
use tokio::time::{Instant, sleep};

use super::SLICE_BYTES;
use crate::error::RequestError;
use crate::raft::Raft;

/// How long a member waits for a revision that the leader has applied already.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// So many times as many keys as the leader has, and some, are read: who has more differs in any case.
const MORE_FACTOR: usize = 2;
/// See [`MORE_FACTOR`].
const MORE_KEYS: usize = 1_000;

impl Raft {
    /// Answers the leader what is held here of a slice.
    pub async fn answer_digest(
        &self,
        request: peer::DigestRequest,
    ) -> Result<peer::DigestResponse, RequestError> {
        self.core()?;
        let peer::DigestRequest { revision, after, through, keys, .. } = request;
        if revision == 0 {
            return Err(RequestError::Invalid("members are compared at a revision".into()));
        }
        let until = Instant::now() + BEHIND_MAX;
        while self.store().revision() < revision && Instant::now() < until {
            sleep(POLL).await;
        }
        let keys_max = usize::try_from(keys).unwrap_or(usize::MAX).saturating_mul(MORE_FACTOR);
        let keys_max = keys_max.saturating_add(MORE_KEYS);
        let slice = Slice { revision, after, through, keys_max, bytes_max: MORE_FACTOR * SLICE_BYTES };
        let Digest { hash, keys, next, .. } = self.read_digest(slice).await?;
        Ok(peer::DigestResponse { hash, keys, more: next.is_some(), auth: Some(self.auth_digest()) })
    }

    /// Users, roles and rights as they are here now. Each change has a revision, by which two members know whether they
    /// speak of the same ones.
    pub(super) fn auth_digest(&self) -> peer::AuthDigest {
        let auth = self.store().auth();
        peer::AuthDigest { revision: auth.revision(), hash: auth.hash() }
    }

    /// Reads a slice here. One is read at a time, or the whole store hashed; meanwhile the next one is refused.
    pub(super) async fn read_digest(&self, slice: Slice) -> Result<Digest, RequestError> {
        let turn = self.inner.hashing.clone().try_acquire_owned().map_err(|_| RequestError::Busy)?;
        self.read_in_turn(turn, move |store| store.digest(&slice)).await
    }
}
