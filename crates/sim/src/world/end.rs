//! The end of a process that it brings about itself: a panic, or a disk that it cannot go on from.
//!
//! A release ends at a panic; here the task that panicked is all that ends by itself, so a hook writes down that there
//! was one, and the world ends the host that was running.

use std::panic;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use super::runtime::Idle;

/// Why processes ended, one at a time: only one host runs.
#[derive(Clone, Debug, Default)]
pub struct Ends(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    why: Option<String>,
    /// A process that is dead already is taken apart.
    is_dead: bool,
    /// Who waits for the process that runs to have nothing more to do.
    running: Option<Idle>,
}

impl Ends {
    /// Is told of every panic from now on.
    pub fn install() -> Ends {
        let ends = Ends::default();
        let told = ends.clone();
        panic::set_hook(Box::new(move |panic| told.tell(&panic.to_string())));
        kvorum_store::fatal::end_by(|why| panic!("{why}"));
        ends
    }

    fn tell(&self, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_dead && state.why.is_none() {
            state.why = Some(why.replace('\n', " "));
            // What else it would do, for ever perhaps, a dead process does not.
            let waiting = state.running.as_ref().and_then(|idle| idle.lock().ok()?.take());
            waiting.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// This is the process that runs now.
    pub fn runs(&self, idle: Option<Idle>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running = idle;
    }

    /// Why the host that has just run is dead, if it is.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).why.take()
    }

    /// Takes a dead process apart; what panics then is no news.
    pub fn take_apart(&self, process: impl FnOnce()) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_dead = true;
        process();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_dead = false;
    }
}
