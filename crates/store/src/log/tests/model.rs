//! Random histories against a plain vector.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// One step; positions are parts of 256 of what there is at that moment.
#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        bytes: usize,
        new_term: bool,
    },
    Truncate {
        keep: u8,
    },
    Purge {
        part: u8,
    },
    /// As after an installed snapshot: beyond the end, or of another history.
    Reset {
        ahead: u64,
    },
    OtherHistory {
        part: u8,
    },
    Vote {
        node_id: u64,
    },
    Commit {
        part: u8,
    },
    Read {
        from: u8,
        count: u64,
        bytes_max: usize,
    },
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![8 => 0..600usize, 2 => 600..5000usize, 1 => 15_000..40_000usize];
    prop_oneof![
        12 => (0..12u64, bytes, prop::bool::weighted(0.1))
            .prop_map(|(count, bytes, new_term)| Step::Append { count, bytes, new_term }),
        3 => any::<u8>().prop_map(|keep| Step::Truncate { keep }),
        2 => any::<u8>().prop_map(|part| Step::Purge { part }),
        1 => (0..20u64).prop_map(|ahead| Step::Reset { ahead }),
        1 => any::<u8>().prop_map(|part| Step::OtherHistory { part }),
        2 => (0..9u64).prop_map(|node_id| Step::Vote { node_id }),
        2 => any::<u8>().prop_map(|part| Step::Commit { part }),
        6 => (any::<u8>(), 0..40u64, 0..8000usize)
            .prop_map(|(from, count, bytes_max)| Step::Read { from, count, bytes_max }),
        3 => Just(Step::Sync),
        2 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Default)]
struct Model {
    purged: Option<LogId>,
    entries: Vec<Entry>,
    vote: Option<Vote>,
    term: u64,
    /// The index after the committed entries, which are never undone.
    committed: u64,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    /// How many entries a part of 256 is.
    fn part(&self, part: u8) -> usize {
        self.entries.len() * usize::from(part) / 256
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let inside = self.entries.iter().filter(|entry| range.contains(&entry.log_id.index));
        inside
            .enumerate()
            .take_while(|(at, entry)| {
                bytes += entry.payload.len();
                *at == 0 || bytes <= bytes_max
            })
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    fn reset(&mut self, upto: LogId) {
        self.committed = self.committed.max(upto.index + 1);
        self.purged = Some(upto);
        self.entries.clear();
        self.term = self.term.max(upto.term);
    }
}

fn nothing() -> Done {
    Box::new(|| ())
}

fn run(step: &Step, log: &Log, model: &mut Model) {
    match *step {
        Step::Append { count, bytes, new_term } => {
            model.term += u64::from(new_term);
            let new = entries(model.term, model.next(), count, bytes);
            model.entries.extend(new.clone());
            log.append(new, nothing());
        }
        Step::Truncate { keep } => {
            let committed = model.entries.partition_point(|entry| entry.log_id.index < model.committed);
            model.entries.truncate(model.part(keep).max(committed));
            model.term += 1;
            log.truncate_after(model.last(), nothing());
        }
        Step::Purge { part } => {
            let count = model.part(part);
            if count > 0 {
                let upto = model.entries[count - 1].log_id;
                model.entries.drain(..count);
                model.committed = model.committed.max(upto.index + 1);
                model.purged = Some(upto);
                log.purge(upto, nothing());
            }
        }
        Step::Reset { ahead } => {
            let upto = id(model.term + 1, model.next() + ahead);
            model.reset(upto);
            log.purge(upto, nothing());
        }
        Step::OtherHistory { part } => {
            let entry = model.entries.get(model.part(part));
            if let Some(entry) = entry.filter(|entry| entry.log_id.index >= model.committed) {
                let upto = id(model.term + 1, entry.log_id.index);
                model.reset(upto);
                log.purge(upto, nothing());
            }
        }
        Step::Vote { node_id } => {
            let vote = Vote { term: model.term, node_id, committed: node_id % 2 == 0 };
            model.vote = Some(vote);
            log.save_vote(vote, nothing());
        }
        Step::Commit { part } => {
            if let Some(entry) = model.entries.get(model.part(part)) {
                model.committed = model.committed.max(entry.log_id.index + 1);
                log.set_committed(entry.log_id);
            }
        }
        Step::Read { from, count, bytes_max } => {
            let from = model.next().saturating_sub(model.entries.len() as u64) + model.part(from) as u64;
            let range = from..from + count;
            assert_eq!(log.read(range.clone(), bytes_max).unwrap(), model.read(range, bytes_max));
        }
        Step::Sync => synced(|done| log.append(Vec::new(), done)),
        Step::Reopen => {}
    }
}

fn check(log: &Log, model: &Model) {
    let state = log.state();
    assert_eq!((state.purged, state.last, state.vote), (model.purged, model.last(), model.vote));
    assert!(state.durable.is_none_or(|durable| durable.index < model.next()));
    // The writer may have gone on in between.
    assert!(log.durable_index() >= state.durable.map(|durable| durable.index));
    assert!(state.committed.map_or(0, |committed| committed.index + 1) <= model.committed);
    for entry in &model.entries {
        assert_eq!(log.term_of(entry.log_id.index), Some(entry.log_id.term));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Goal: the log holds what it was told, before and after it is reopened, in tiny segments and
    /// caches. Method: random changes and reads beside a vector.
    #[test]
    fn random_histories_match_a_vector(steps in prop::collection::vec(step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        let mut model = Model::default();
        for step in &steps {
            run(step, &log, &mut model);
            if matches!(step, Step::Reopen) {
                drop(log);
                log = open(dir.path());
                prop_assert_eq!(log.state().durable, model.last());
                prop_assert_eq!(all(&log), model.entries.clone());
            }
            check(&log, &model);
        }
        prop_assert_eq!(all(&log), model.entries.clone());
        drop(log);
        let log = open(dir.path());
        check(&log, &model);
        prop_assert_eq!(all(&log), model.entries);
    }
}
