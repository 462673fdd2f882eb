//! Groups of keys that are written and read together: is there one order of all that was done to a group which
//! explains every answer? The search is `porcupine-rs`, this is its model.
//!
//! Each value is written at most once, so that a value stands for the revision that a condition names.

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation};

/// Keys of a group.
pub const GROUP_KEYS: usize = 3;
/// What a key holds that does not exist.
pub const ABSENT: u64 = 0;
/// When an operation returned whose outcome is unknown.
const NEVER: i64 = i64::MAX;

/// For each key of a group a value, or nothing.
pub type Values = [Option<u64>; GROUP_KEYS];

/// One operation of a client and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The client, for people who read a failure.
    pub client: u32,
    /// The group.
    pub group: u32,
    /// What was done and answered.
    pub action: Action,
    /// When the request was about to leave, on a clock that all clients share.
    pub called: Duration,
    /// When the answer was there; `None`: its outcome is unknown.
    pub returned: Option<Duration>,
}

/// What was done to a group and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All its keys were read at once, and held this.
    Read([u64; GROUP_KEYS]),
    /// Where keys held what was expected, these values were written; or perhaps, if the operation did not return.
    Batch {
        /// What keys had to hold.
        expected: Values,
        /// What they hold then.
        written: Values,
    },
    /// A key did not hold what was expected. It need not be the first one: where an attempt had an unknown outcome the
    /// client looks at one of the keys by itself, and names that.
    Refusal {
        /// What keys had to hold.
        expected: Values,
        /// The key that did not.
        number: usize,
    },
}

#[derive(Clone, Debug)]
struct Group;

impl Model for Group {
    type State = [u64; GROUP_KEYS];
    type Op = (Action, bool);
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        vec![history.to_vec()]
    }

    fn init() -> Self::State {
        [ABSENT; GROUP_KEYS]
    }

    fn step(state: &Self::State, (action, known): &Self::Op) -> (bool, Self::State) {
        let fits =
            |number: usize, expected: &Values| expected[number].is_none_or(|value| value == state[number]);
        match action {
            Action::Read(values) => (values == state, *state),
            Action::Batch { expected, written } if (0..GROUP_KEYS).all(|number| fits(number, expected)) => {
                let mut next = *state;
                for (value, written) in next.iter_mut().zip(written) {
                    *value = written.unwrap_or(*value);
                }
                (true, next)
            }
            Action::Batch { .. } => (!known, *state),
            Action::Refusal { expected, number } => (!fits(*number, expected), *state),
        }
    }
}

/// Fails unless the history of every group is linearizable, and the search found that out within the limit.
pub fn check(records: &[Record], limit: Duration) -> Result<(), String> {
    let mut groups: BTreeMap<u32, Vec<&Record>> = BTreeMap::new();
    records.iter().for_each(|record| groups.entry(record.group).or_default().push(record));
    for (number, mut group) in groups {
        let history: Vec<Operation<Group>> = group.iter().map(|record| operation(record)).collect();
        match porcupine_rs::check_operations_timeout(&history, limit) {
            CheckResult::Ok => {}
            CheckResult::Unknown => return Err(format!("group {number}: no verdict within {limit:?}")),
            _ => {
                group.sort_by_key(|record| record.called);
                let lines: String = group.iter().map(|record| format!("\n  {record:?}")).collect();
                return Err(format!("the history of group {number} is not linearizable: {lines}"));
            }
        }
    }
    Ok(())
}

fn operation(record: &Record) -> Operation<Group> {
    let nanos = |at: Duration| i64::try_from(at.as_nanos()).unwrap_or(NEVER - 1);
    Operation {
        client_id: Some(record.client),
        call_time: nanos(record.called),
        return_time: record.returned.map_or(NEVER, nanos),
        op: (record.action, record.returned.is_some()),
        metadata: None,
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what is all or nothing is told from what is not. Method: small histories, one for each rule.
    use super::*;

    fn done(action: Action, called: u64, returned: u64) -> Record {
        let returned = Some(Duration::from_millis(returned));
        Record { client: 0, group: 1, action, called: Duration::from_millis(called), returned }
    }

    fn is_legal(records: &[Record]) -> bool {
        check(records, Duration::from_secs(10)).is_ok()
    }

    #[test]
    fn a_batch_is_all_or_nothing() {
        let both = Action::Batch { expected: [None; 3], written: [Some(5), Some(6), None] };
        assert!(is_legal(&[done(both, 0, 1), done(Action::Read([5, 6, 0]), 2, 3)]));
        assert!(!is_legal(&[done(both, 0, 9), done(Action::Read([5, 0, 0]), 2, 3)]));
        let unknown = Record { returned: None, ..done(both, 0, 0) };
        assert!(is_legal(&[unknown, done(Action::Read([0; 3]), 2, 3), done(Action::Read([5, 6, 0]), 4, 5)]));
        assert!(!is_legal(&[unknown, done(Action::Read([5, 6, 0]), 2, 3), done(Action::Read([0; 3]), 4, 5)]));
    }

    #[test]
    fn conditions_hold_where_a_batch_does() {
        let first = Action::Batch { expected: [None; 3], written: [Some(5), None, None] };
        let second =
            |value| Action::Batch { expected: [Some(value), None, None], written: [None, None, Some(7)] };
        let refusal = |value, number| Action::Refusal { expected: [Some(value), Some(0), None], number };
        assert!(is_legal(&[done(first, 0, 1), done(second(5), 2, 3), done(Action::Read([5, 0, 7]), 4, 5)]));
        assert!(!is_legal(&[done(first, 0, 1), done(second(4), 2, 3)]));
        assert!(is_legal(&[done(first, 0, 1), done(refusal(4, 0), 2, 3)]));
        assert!(!is_legal(&[done(first, 0, 1), done(refusal(5, 0), 2, 3)]));
        assert!(
            !is_legal(&[done(first, 0, 1), done(refusal(4, 1), 2, 3)]),
            "that one held what was expected"
        );
    }
}
