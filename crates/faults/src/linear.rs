//! Linearizability of registers: is there one order of all operations that explains every answer and
//! that contradicts no clock? The search is `porcupine-rs`, this is its model.
//!
//! Each value is written at most once to a register, so that a value stands for the revision that a
//! conditional write names.

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation};

use crate::{Result, ensure};

/// What a register holds before it is written.
pub const ABSENT: u64 = 0;

/// When an operation returned whose outcome is unknown: it stays concurrent with everything after it.
const NEVER: i64 = i64::MAX;

/// One operation of a client and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The client, for people who read a failure.
    pub client: u32,
    /// The register.
    pub register: u32,
    /// What was done and answered.
    pub action: Action,
    /// When the request was about to leave, on a clock that all clients share.
    pub called: Duration,
    /// When the answer was there; `None`: its outcome is unknown.
    pub returned: Option<Duration>,
}

/// What was done to a register and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was read, and held this.
    Read(u64),
    /// This was written; or perhaps it was, if the operation did not return.
    Write(u64),
    /// It held `from`, and now holds `to`; or perhaps, if the operation did not return.
    Swap {
        /// What it had to hold.
        from: u64,
        /// What was to be written.
        to: u64,
    },
    /// It did not hold this, so that a conditional write was refused.
    Refusal(u64),
}

/// The registers as `porcupine-rs` knows them. Its state is one register: they are independent, and
/// each is checked for itself.
#[derive(Clone, Debug)]
struct Register;

/// An action, and whether its outcome is known.
#[derive(Clone, Copy, Debug)]
struct Step {
    action: Action,
    known: bool,
}

impl Model for Register {
    type State = u64;
    type Op = (u32, Step);
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        let mut registers: BTreeMap<u32, Vec<Operation<Self>>> = BTreeMap::new();
        for operation in history {
            registers.entry(operation.op.0).or_default().push(operation.clone());
        }
        registers.into_values().collect()
    }

    fn init() -> u64 {
        ABSENT
    }

    /// A write with an unknown outcome needs no second branch for not having happened: it may take place
    /// after all reads, which is the same.
    fn step(state: &u64, (_, step): &(u32, Step)) -> (bool, u64) {
        match step.action {
            Action::Read(value) => (*state == value, *state),
            Action::Write(value) => (true, value),
            Action::Swap { from, to } if *state == from => (true, to),
            Action::Swap { .. } => (!step.known, *state),
            Action::Refusal(value) => (*state != value, *state),
        }
    }
}

/// Fails unless the histories of all registers are linearizable, and the search found that out within
/// the limit.
pub fn check(records: &[Record], limit: Duration) -> Result<()> {
    let history: Vec<_> = records.iter().map(operation).collect();
    let registers = Register::partition_operations(&history);
    for register in registers {
        let verdict = porcupine_rs::check_operations_timeout(&register, limit);
        let number = register[0].op.0;
        ensure!(verdict != CheckResult::Unknown, "register {number}: no verdict within {limit:?}");
        ensure!(
            verdict == CheckResult::Ok,
            "the history of register {number} is not linearizable: {}",
            describe(records, number)
        );
    }
    Ok(())
}

fn operation(record: &Record) -> Operation<Register> {
    let nanos = |at: Duration| i64::try_from(at.as_nanos()).unwrap_or(NEVER - 1);
    Operation {
        client_id: Some(record.client),
        call_time: nanos(record.called),
        return_time: record.returned.map_or(NEVER, nanos),
        op: (record.register, Step { action: record.action, known: record.returned.is_some() }),
        metadata: None,
    }
}

fn describe(records: &[Record], register: u32) -> String {
    let mut of_register: Vec<_> = records.iter().filter(|record| record.register == register).collect();
    of_register.sort_by_key(|record| record.called);
    let line = |record: &&Record| {
        let Record { client, action, called, returned, .. } = record;
        let returned = returned.map_or("…".to_owned(), |at| format!("{at:?}"));
        format!("\n  {called:?} to {returned}: client {client} {action:?}")
    };
    of_register.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    //! Goal: the checker accepts what a register may do and nothing else. Method: small histories whose
    //! verdict a person can find, one for each rule, and a large one for the time it takes.
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn done(action: Action, called: u64, returned: u64) -> Record {
        let returned = Some(Duration::from_millis(returned));
        Record { client: 0, register: 1, action, called: Duration::from_millis(called), returned }
    }

    fn unknown(action: Action, called: u64) -> Record {
        Record { returned: None, ..done(action, called, 0) }
    }

    fn is_legal(records: &[Record]) -> bool {
        check(records, LIMIT).is_ok()
    }

    use Action::{Read, Refusal, Swap, Write};

    #[test]
    fn a_read_sees_what_was_written_before_it() {
        assert!(is_legal(&[done(Read(0), 0, 1), done(Write(5), 2, 3), done(Read(5), 4, 5)]));
        assert!(!is_legal(&[done(Write(5), 0, 1), done(Read(0), 2, 3)]));
        assert!(!is_legal(&[done(Write(5), 0, 1), done(Write(6), 2, 3), done(Read(5), 4, 5)]));
        assert!(!is_legal(&[done(Read(7), 0, 1)]));
    }

    #[test]
    fn a_read_beside_a_write_may_see_either_but_not_go_back() {
        let write = done(Write(5), 0, 10);
        assert!(is_legal(&[write, done(Read(0), 1, 2), done(Read(5), 3, 4)]));
        assert!(!is_legal(&[write, done(Read(5), 1, 2), done(Read(0), 3, 4)]));
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_once() {
        let write = unknown(Write(5), 0);
        assert!(is_legal(&[write, done(Read(0), 10, 11)]));
        assert!(is_legal(&[write, done(Read(0), 10, 11), done(Read(5), 20, 21)]));
        let again =
            [write, done(Read(5), 1, 2), done(Write(6), 3, 4), done(Read(6), 5, 6), done(Read(5), 7, 8)];
        assert!(!is_legal(&again));
    }

    #[test]
    fn a_swap_happens_only_from_its_value() {
        let write = done(Write(5), 0, 1);
        let swap = Swap { from: 5, to: 6 };
        assert!(is_legal(&[write, done(swap, 2, 3), done(Read(6), 4, 5)]));
        assert!(!is_legal(&[write, done(Swap { from: 4, to: 6 }, 2, 3)]));
        assert!(!is_legal(&[write, done(swap, 2, 3), done(Swap { from: 5, to: 7 }, 4, 5)]));
        assert!(is_legal(&[write, unknown(swap, 2), done(Read(5), 4, 5), done(Read(6), 6, 7)]));
        assert!(!is_legal(&[write, done(Refusal(5), 2, 3)]));
        assert!(is_legal(&[write, done(Refusal(4), 2, 3)]));
        assert!(is_legal(&[done(Swap { from: ABSENT, to: 5 }, 0, 1), done(Read(5), 2, 3)]));
    }

    #[test]
    fn registers_do_not_touch_each_other() {
        let other = Record { register: 2, ..done(Write(9), 0, 1) };
        assert!(is_legal(&[other, done(Read(0), 2, 3)]));
    }

    /// A history such as the tests make: six clients at a time, and every thirtieth outcome unknown.
    #[test]
    fn a_long_history_is_checked_quickly() {
        let mut records = Vec::new();
        for at in 0..2_000_u64 {
            let value = at + 1;
            match at % 30 {
                0 => records.push(unknown(Write(1_000_000 + at), at * 10)),
                _ => records.push(done(Write(value), at * 10, at * 10 + 55)),
            }
        }
        let last = done(Read(2_000), 30_000, 30_001);
        records.push(last);
        assert!(is_legal(&records));
        records.push(done(Read(1_999), 30_002, 30_003));
        records.push(done(Read(2_000), 30_004, 30_005));
        assert!(!is_legal(&records[records.len() - 3..]));
    }
}
