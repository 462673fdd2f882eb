//! Requests that only say how far the cluster has committed: they go with the next entries.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::raft::types::TypeConfig;

/// A request without entries only says how far the cluster has committed, as the next one with entries
/// says too. It waits so long for that one: while writes come one after the other, a peer gets one
/// request for each batch instead of two. A watcher on a follower waits with it, when there is no next write;
/// a linearizable read there ends the wait.
const COMMIT_DELAY: Duration = Duration::from_millis(1);

/// What openraft wants appended.
pub type AppendRequest = AppendEntriesRequest<TypeConfig>;

/// Holds back requests without entries, see [`COMMIT_DELAY`]. One that was held back is dropped for the
/// next one, which says the same or more; openraft takes the answer to that for an answer to both.
pub fn hold_commits(
    input: impl Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    wanted: Arc<Notify>,
) -> BoxStream<'static, AppendRequest> {
    let requests = stream::unfold((input.fuse(), wanted), async |(mut input, wanted)| {
        let mut held: Option<(AppendRequest, Instant)> = None;
        loop {
            let due = held.as_ref().map(|(_, due)| *due);
            let next = match due {
                None => Some(input.next().await),
                Some(due) => tokio::select! {
                    next = input.next() => Some(next),
                    () = sleep_until(due) => None,
                    () = wanted.notified() => None,
                },
            };
            match next {
                Some(Some(request)) if request.entries.is_empty() => {
                    held = Some((request, due.unwrap_or_else(|| Instant::now() + COMMIT_DELAY)));
                }
                Some(Some(request)) => return Some((request, (input, wanted))),
                // There is none for now, or none at all.
                Some(None) | None => return held.map(|(request, _)| (request, (input, wanted))),
            }
        }
    });
    requests.boxed()
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::{LogId, Vote};

    fn request(committed: u64, entries: u64) -> AppendRequest {
        let entry =
            |index| openraft::Entry { log_id: LogId::new_term_index(1, index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: None,
            entries: (0..entries).map(entry).collect(),
            leader_commit: Some(LogId::new_term_index(1, committed)),
        }
    }

    /// Goal: a request without entries is dropped for the next one, sent at once when there will be none,
    /// and sent after the delay when there is none for now. Method: a table of what comes in at once.
    #[tokio::test]
    async fn commits_go_with_the_next_entries() {
        /// Requests: what they say is committed, and how many entries they have.
        type Requests = &'static [(u64, u64)];
        let cases: [(Requests, Requests); 5] = [
            (&[(1, 2), (2, 1)], &[(1, 2), (2, 1)]),
            (&[(1, 2), (2, 0), (3, 0), (3, 1), (4, 2)], &[(1, 2), (3, 1), (4, 2)]),
            (&[(1, 0)], &[(1, 0)]),
            (&[(1, 1), (2, 0), (3, 0)], &[(1, 1), (3, 0)]),
            (&[], &[]),
        ];
        for (input, wanted) in cases {
            let input: Vec<_> =
                input.iter().map(|(committed, entries)| request(*committed, *entries)).collect();
            let seen = |request: AppendRequest| {
                (request.leader_commit.map_or(0, |id| id.index()), request.entries.len() as u64)
            };
            let ended: Vec<_> =
                hold_commits(stream::iter(input.clone()), Arc::default()).map(seen).collect().await;
            assert_eq!(ended, wanted);
            let goes_on = stream::iter(input).chain(stream::pending());
            let open: Vec<_> =
                hold_commits(goes_on, Arc::default()).map(seen).take(wanted.len()).collect().await;
            assert_eq!(open, wanted);
        }
    }
}
