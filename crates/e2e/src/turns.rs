//! Who may run beside whom. Each test has its own namespace, and most of what a test waits for is no work, so that
//! several run at a time. What they share is the operator and the machines.
//!
//! Those that share the operator come first, then those that want none but their own, and last, one by one, those that
//! want the whole Kubernetes.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::settings;

/// What a test has to itself, beside its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing: it shares the operator as users have it.
    Operator,
    /// Its own operators, which look after its namespace alone: no other may be there.
    OwnOperator,
    /// Everything: it does something to machines, or to the operator that all share.
    Everything,
}

/// Whose turn it is.
static TURNS: Turns = Turns { state: Mutex::new(State::new()), changed: Condvar::new() };

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// Tests at work, and what they need.
    at_work: Vec<Needs>,
    /// Tests whose clusters and namespaces are going away.
    leaving: usize,
    /// Tests that wait for their turn.
    waiting: Vec<Needs>,
}

/// A test's turn. It ends when this is dropped, whatever became of the test.
#[derive(Debug)]
pub struct Turn {
    needs: Needs,
    leaves: bool,
}

impl Turn {
    /// Waits until it is the turn of a test that needs this.
    pub fn wait(needs: Needs) -> Turn {
        let jobs = settings::jobs();
        let mut state = TURNS.lock();
        state.waiting.push(needs);
        while !state.may_begin(needs, jobs) {
            state = TURNS.changed.wait(state).expect("no thread panics while it holds this lock");
        }
        state.begins(needs);
        drop(state);
        TURNS.changed.notify_all();
        Turn { needs, leaves: false }
    }

    /// All that is left of the test is what goes away by itself: the next of those that share the operator may begin.
    pub fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaves, true) {
            TURNS.lock().leaves(self.needs);
            TURNS.changed.notify_all();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
        TURNS.lock().leaving -= 1;
        TURNS.changed.notify_all();
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}

impl State {
    const fn new() -> State {
        State { at_work: Vec::new(), leaving: 0, waiting: Vec::new() }
    }

    fn may_begin(&self, needs: Needs, jobs: usize) -> bool {
        let first = self.waiting.iter().all(|other| *other >= needs);
        let beside = self.at_work.iter().all(|other| *other == needs) && self.at_work.len() < jobs;
        match needs {
            Needs::Operator => beside,
            Needs::OwnOperator => first && beside && (self.leaving == 0 || !self.at_work.is_empty()),
            Needs::Everything => first && self.at_work.is_empty() && self.leaving == 0,
        }
    }

    fn begins(&mut self, needs: Needs) {
        let at = self.waiting.iter().position(|other| *other == needs).expect("it waits");
        self.waiting.swap_remove(at);
        self.at_work.push(needs);
    }

    fn leaves(&mut self, needs: Needs) {
        let at = self.at_work.iter().position(|other| *other == needs).expect("it is at work");
        self.at_work.swap_remove(at);
        self.leaving += 1;
    }
}

#[cfg(test)]
mod tests {
    //! Goal: whoever needs something alone has it alone, and everybody gets a turn. Method: a table of who waits and
    //! who is at work.
    use super::Needs::{Everything, Operator, OwnOperator};
    use super::*;

    #[test]
    fn nobody_is_disturbed_and_nobody_is_forgotten() {
        let may = |at_work: &[Needs], leaving, waiting: &[Needs]| {
            let state = State { at_work: at_work.to_vec(), leaving, waiting: waiting.to_vec() };
            let begins = |needs: &Needs| state.may_begin(*needs, 2);
            waiting.iter().copied().filter(begins).collect::<Vec<_>>()
        };
        assert_eq!(may(&[], 0, &[Everything, OwnOperator, Operator]), [Operator]);
        assert_eq!(may(&[Operator], 1, &[Everything, Operator]), [Operator]);
        assert_eq!(may(&[Operator, Operator], 0, &[Operator]), [], "two at a time");
        assert_eq!(may(&[Operator], 0, &[Everything, OwnOperator]), []);
        assert_eq!(may(&[], 1, &[Everything, OwnOperator]), [], "their clusters need the operator");
        assert_eq!(may(&[], 0, &[Everything, OwnOperator]), [OwnOperator]);
        assert_eq!(may(&[OwnOperator], 1, &[Everything, OwnOperator]), [OwnOperator]);
        assert_eq!(may(&[], 0, &[Everything, Everything]), [Everything, Everything], "the first to be woken");
        assert_eq!(may(&[Everything], 0, &[Everything, Operator]), []);
    }
}
