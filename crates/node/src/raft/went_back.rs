//! A disk that lacks what it has acknowledged: it was put back from a copy, or it loses what it has synced.
//!
//! What was acknowledged counts as held by this member, and its vote elects who has it. A member that went on with such
//! a disk could make a majority for a log without acknowledged writes. So once its leader says that more was
//! acknowledged than there is, the disk is marked, the process ends, and from then on the disk serves nothing but its
//! status, until the member is replaced, or the disk is all that is left and a person has it go on alone.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kvorum_store::data_dir::DataDir;
use kvorum_store::entry::LogId;
use kvorum_store::fatal::end_process;
use tokio::time::Instant;
use tonic::Status;

use super::Raft;
use super::standing::Standing;

/// The mark's file in the data directory. It holds what was missing, for people.
const MARK: &str = "went-back";

/// For so long the leader must have said so, and nothing else, before the disk is marked.
const CERTAIN_AFTER: Duration = Duration::from_secs(1);

/// What the leader says of this disk.
#[derive(Debug, Default)]
pub struct Doubt(Mutex<Option<Instant>>);

impl Doubt {
    /// Takes note of whether the leader finds something missing. Answers for how long it has said so.
    fn note(&self, missing: bool, now: Instant) -> Duration {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !missing {
            *since = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*since.get_or_insert(now))
    }
}

/// Why a disk is set aside, if it was marked.
pub fn mark(data_dir: &DataDir) -> io::Result<Option<String>> {
    let content = data_dir.read(MARK)?;
    Ok(content.map(|content| String::from_utf8_lossy(&content).trim_end().to_owned()))
}

/// Takes the mark off a disk that is to go on alone.
pub fn unmark(data_dir: &DataDir) -> io::Result<()> {
    if data_dir.read(MARK)?.is_some() { data_dir.remove(MARK) } else { Ok(()) }
}

/// What is missing of what this node has acknowledged to a leader of this term, or of a later one.
fn missing(standing: &Standing, term: u64, acknowledged: Option<LogId>) -> Option<String> {
    let acknowledged = acknowledged.filter(|_| standing.term() <= term)?;
    // A snapshot is acknowledged once the store has it; the log may be cut a moment later.
    let held = standing.last.max(standing.committed);
    if held.map_or(0, |held| held.index) >= acknowledged.index {
        return None;
    }
    let held = held.map_or_else(|| "nothing".into(), |held| held.to_string());
    Some(format!("it has acknowledged {acknowledged} and holds {held}"))
}

impl Raft {
    /// Refuses what a leader of a term appends who knows that this node has acknowledged more than it holds.
    pub(super) async fn check_holds(
        &self,
        standing: &Standing,
        term: u64,
        acknowledged: Option<LogId>,
    ) -> Result<(), Status> {
        let missing = missing(standing, term, acknowledged);
        let doubted = self.inner.doubt.note(missing.is_some(), Instant::now());
        let Some(missing) = missing else { return Ok(()) };
        let refused = format!("the disk of this member went back: {missing}");
        if doubted < CERTAIN_AFTER {
            return Err(Status::failed_precondition(refused));
        }
        let raft = self.clone();
        let content = format!("{missing}\n");
        let marked = self.inner.blocking.run(move || raft.inner.data_dir.replace(MARK, content.as_bytes()));
        let marked = match marked.await.map_err(io::Error::from).flatten() {
            Ok(()) => "it takes no part from now on".to_owned(),
            Err(error) => format!("and it could not be marked: {error}"),
        };
        end_process(format_args!(
            "{refused}; it was put back from a copy, or loses what it has synced; {marked}. Remove this member and add \
             it again with an empty data directory"
        ))
    }
}

#[cfg(test)]
mod tests {
    use kvorum_store::log::Vote;

    use super::*;

    /// Goal: only what was surely acknowledged and is surely not there counts. Method: a table.
    #[test]
    fn what_is_missing_is_told_from_what_is_cut() {
        let id = |term, index| LogId { term, index };
        let standing = |term, last, committed| Standing {
            vote: Some(Vote { term, node_id: 1, committed: true }),
            last,
            committed,
            ..Standing::default()
        };
        let held = standing(3, Some(id(3, 40)), Some(id(3, 38)));
        assert_eq!(missing(&held, 3, None), None, "a release that does not say it");
        assert_eq!(missing(&held, 3, Some(id(3, 40))), None);
        let told = missing(&held, 3, Some(id(3, 41))).expect("one is missing");
        assert_eq!(told, "it has acknowledged 3.41 and holds 3.40");
        assert_eq!(
            missing(&standing(4, Some(id(4, 9)), None), 3, Some(id(3, 41))),
            None,
            "a later leader cut it"
        );
        assert!(
            missing(&standing(2, Some(id(2, 9)), None), 3, Some(id(3, 41))).is_some(),
            "the vote went back too"
        );
        let installed = standing(3, Some(id(2, 9)), Some(id(3, 41)));
        assert_eq!(missing(&installed, 3, Some(id(3, 41))), None, "a snapshot before the log is cut");
        assert!(missing(&standing(3, None, None), 3, Some(id(1, 1))).is_some(), "nothing is left");
    }

    /// Goal: one message makes nobody certain. Method: messages at moments.
    #[test]
    fn the_leader_must_say_so_for_a_while() {
        let (doubt, start) = (Doubt::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(doubt.note(true, at(0)), Duration::ZERO);
        assert_eq!(doubt.note(true, at(900)), Duration::from_millis(900));
        assert_eq!(doubt.note(false, at(950)), Duration::ZERO);
        assert_eq!(doubt.note(true, at(1200)), Duration::ZERO, "it is there again");
        assert_eq!(doubt.note(true, at(2200)), CERTAIN_AFTER);
    }
}
