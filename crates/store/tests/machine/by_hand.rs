//! Threads that are none: workers take a step when the test says so.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use kvorum_store::threads::{Next, Running, Threads, Worker};

/// The workers that were started, in that order.
#[derive(Debug, Default)]
pub struct ByHand {
    me: Weak<ByHand>,
    workers: Mutex<Vec<Arc<Hand>>>,
    /// The machine is dead: nothing goes on, whoever waits for it.
    dead: AtomicBool,
}

/// One worker.
pub struct Hand {
    worker: Mutex<Option<Box<dyn Worker>>>,
    woken: AtomicBool,
    next: Mutex<Next>,
}

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hand").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Wake for Hand {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
    }
}

impl Hand {
    /// Takes a step, if one is due; `After` is due at once, as no time passes here. Answers when the next one is.
    fn step(self: &Arc<Self>) -> Option<Next> {
        let mut worker = self.worker.try_lock().ok()?;
        let due = *self.next.lock().unwrap() != Next::Woken || self.woken.swap(false, Ordering::Relaxed);
        if !due {
            return None;
        }
        let next = worker.as_mut()?.step(&Waker::from(self.clone()));
        *self.next.lock().unwrap() = next;
        if next == Next::Ended {
            let ended = worker.take();
            drop(worker);
            drop(ended);
        }
        Some(next)
    }
}

impl ByHand {
    pub fn new() -> Arc<ByHand> {
        Arc::new_cyclic(|me| ByHand { me: me.clone(), ..ByHand::default() })
    }

    pub fn workers(&self) -> Vec<Arc<Hand>> {
        self.workers.lock().unwrap().clone()
    }

    /// Takes one step of the worker of this number, if one is due.
    pub fn step(&self, number: usize) -> Option<Next> {
        self.workers()[number].step()
    }

    /// Takes steps until none is due. Answers for how long workers wanted to wait in all.
    pub fn settle(&self) -> Duration {
        let mut waited = Duration::ZERO;
        loop {
            let steps: Vec<_> = self.workers().iter().filter_map(Hand::step).collect();
            if steps.is_empty() {
                return waited;
            }
            let wait = |next: &Next| if let Next::After(wait) = next { Some(*wait) } else { None };
            waited += steps.iter().filter_map(wait).sum::<Duration>();
        }
    }

    /// The machine dies: no worker takes another step.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for worker in self.workers() {
            drop(worker.worker.lock().unwrap().take());
        }
    }
}

impl Threads for ByHand {
    fn start(&self, _: &str, worker: Box<dyn Worker>) -> io::Result<Box<dyn Running>> {
        let worker = Mutex::new(Some(worker));
        let hand = Hand { worker, woken: AtomicBool::new(false), next: Mutex::new(Next::Again) };
        let hand = Arc::new(hand);
        self.workers.lock().unwrap().push(hand.clone());
        Ok(Box::new(Started { hand, all: self.me.clone() }))
    }
}

#[derive(Debug)]
struct Started {
    hand: Arc<Hand>,
    all: Weak<ByHand>,
}

impl Running for Started {
    fn join(self: Box<Self>) {
        let Some(all) = self.all.upgrade() else { return };
        // A worker that is in the midst of a step cannot be waited for.
        while !all.dead.load(Ordering::Relaxed)
            && self.hand.worker.try_lock().is_ok_and(|worker| worker.is_some())
        {
            all.workers().iter().for_each(|hand| _ = hand.step());
        }
    }
}
