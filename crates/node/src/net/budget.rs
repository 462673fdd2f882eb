//! A budget of bytes: one for everything that waits to be sent, where who finds no room waits, and reads only
//! once it has room; and one a port for what is received, see `inbox`.
//!
//! It is fair by connection. A connection that holds nothing is served before all that hold
//! something, in the order in which they came; one that holds something gets more, in turn, while it
//! holds no more than is left for others. So a client that reads nothing keeps at most half the budget,
//! several of them leave room for one more, and no number of streams makes a client's share larger.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::Duration;

/// What may wait to be sent by a node, in bytes: pages for dozens of clients that read slowly, and little beside the
/// store's caches.
pub const SEND_BUDGET_BYTES: u64 = 64 * 1024 * 1024;

/// While a connection that holds nothing waits for room, others are waited for this part of the patience.
const PRESSED_PART: u32 = 6;

/// Bytes in memory, on all connections of a node or of a port.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    patience: Duration,
    gauge: IntGauge,
}

impl Budget {
    /// A budget of so many bytes, whose use the gauge shows.
    pub fn new(bytes_max: usize, patience: Duration, gauge: IntGauge) -> Budget {
        Budget(Arc::new(Shared { state: Mutex::new(State::new(bytes_max)), patience, gauge }))
    }

    /// The account of a new connection.
    pub fn account(&self) -> Account {
        let id = self.lock().open();
        Account(Arc::new(Owner { id, budget: self.clone() }))
    }

    /// How long a stream may make no progress at the moment.
    pub fn patience(&self) -> Duration {
        let pressed = !self.lock().first.is_empty();
        if pressed { self.0.patience / PRESSED_PART } else { self.0.patience }
    }

    /// How long a stream waits for room.
    pub fn patience_max(&self) -> Duration {
        self.0.patience
    }

    /// How often a stream without progress is looked at.
    pub fn tick(&self) -> Duration {
        self.0.patience / PRESSED_PART
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves whom there is room for now, after a change.
    fn serve(&self, mut state: MutexGuard<'_, State>) {
        state.serve();
        self.0.gauge.set(i64::try_from(state.used).unwrap_or(i64::MAX));
    }
}

/// A connection's part in the budget.
#[derive(Clone)]
pub struct Account(Arc<Owner>);

struct Owner {
    id: u64,
    budget: Budget,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.budget.lock().close(self.id);
    }
}

impl Account {
    /// The budget it is part of.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// Waits until there is room for so many bytes. One message may be larger than the whole budget: it
    /// gets room when nothing else has any.
    pub async fn reserve(&self, bytes: usize) -> Permit {
        let (to, granted) = oneshot::channel();
        {
            let mut state = self.budget().lock();
            state.wait(self.0.id, Waiter { bytes, to });
            self.budget().serve(state);
        }
        Waiting { account: self, bytes, granted: Some(granted) }.wait().await
    }

    /// Room for so many bytes, if there is some now and nobody who comes first waits for it.
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let mut state = self.budget().lock();
        if !state.take_now(self.0.id, bytes) {
            return None;
        }
        self.budget().serve(state);
        Some(Permit { account: self.clone(), bytes })
    }

    /// Returns when the connection may have more to send, however little.
    pub async fn admitted(&self) {
        if !self.is_admitted() {
            drop(self.reserve(1).await);
        }
    }

    /// Whether the connection may have more to send now.
    pub fn is_admitted(&self) -> bool {
        self.budget().lock().admits(self.0.id)
    }

    /// Counts bytes that are in memory already, whether there is room or not.
    pub fn charge(&self, bytes: usize) -> Permit {
        let mut state = self.budget().lock();
        state.take(self.0.id, bytes);
        self.budget().serve(state);
        Permit { account: self.clone(), bytes }
    }
}

/// A place in the queue, which is left when nobody waits any more.
struct Waiting<'a> {
    account: &'a Account,
    bytes: usize,
    /// Absent once the grant was received.
    granted: Option<oneshot::Receiver<()>>,
}

impl Waiting<'_> {
    async fn wait(mut self) -> Permit {
        if let Some(granted) = &mut self.granted {
            granted.await.expect("a waiter leaves the queue only with its grant");
        }
        self.granted = None;
        Permit { account: self.account.clone(), bytes: self.bytes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        let budget = self.account.budget();
        let mut state = budget.lock();
        granted.close();
        if granted.try_recv().is_ok() {
            state.give_back(self.account.0.id, self.bytes);
        }
        budget.serve(state);
    }
}

/// Room for bytes. It is given back when the permit is dropped: with the bytes.
pub struct Permit {
    account: Account,
    bytes: usize,
}

impl Permit {
    /// Makes the permit fit what turned out to be needed. More is counted whether there is room or not.
    pub fn resize(&mut self, bytes: usize) {
        let budget = self.account.budget();
        let mut state = budget.lock();
        state.take(self.account.0.id, bytes);
        state.give_back(self.account.0.id, self.bytes);
        self.bytes = bytes;
        budget.serve(state);
    }

    /// Takes some of the bytes into a permit of their own.
    pub fn split(&mut self, bytes: usize) -> Permit {
        assert!(bytes <= self.bytes, "a part is no larger than the whole");
        self.bytes -= bytes;
        Permit { account: self.account.clone(), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = self.account.budget();
        let mut state = budget.lock();
        state.give_back(self.account.0.id, self.bytes);
        budget.serve(state);
    }
}

/// Who holds what and who waits: no clock, no tasks.
struct State {
    bytes_max: usize,
    used: usize,
    last_id: u64,
    holders: HashMap<u64, Holder>,
    /// Connections that hold nothing and wait, in the order in which they came. While the first of them
    /// does not fit, nobody else gets anything.
    first: VecDeque<u64>,
    /// Connections that hold something and wait for more, in turn.
    more: VecDeque<u64>,
}

#[derive(Default)]
struct Holder {
    used: usize,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    bytes: usize,
    to: oneshot::Sender<()>,
}

impl State {
    fn new(bytes_max: usize) -> State {
        let (holders, first, more) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        State { bytes_max, used: 0, last_id: 0, holders, first, more }
    }

    fn open(&mut self) -> u64 {
        self.last_id += 1;
        self.holders.insert(self.last_id, Holder::default());
        self.last_id
    }

    fn close(&mut self, id: u64) {
        let holder = self.holders.remove(&id);
        assert!(holder.is_none_or(|it| it.used == 0), "a permit holds its account");
        self.first.retain(|other| *other != id);
        self.more.retain(|other| *other != id);
    }

    fn holder(&mut self, id: u64) -> &mut Holder {
        self.holders.get_mut(&id).expect("an account is open until its last permit is gone")
    }

    fn wait(&mut self, id: u64, waiter: Waiter) {
        let holder = self.holder(id);
        holder.waiting.push_back(waiter);
        if holder.waiting.len() == 1 {
            self.queue(id);
        }
    }

    fn queue(&mut self, id: u64) {
        let queue = if self.holder(id).used == 0 { &mut self.first } else { &mut self.more };
        queue.push_back(id);
    }

    fn take(&mut self, id: u64, bytes: usize) {
        let holder = self.holder(id);
        let was_empty = holder.used == 0;
        holder.used += bytes;
        self.used += bytes;
        if was_empty && bytes > 0 && !self.holder(id).waiting.is_empty() {
            self.first.retain(|other| *other != id);
            self.more.push_back(id);
        }
    }

    fn give_back(&mut self, id: u64, bytes: usize) {
        let holder = self.holder(id);
        assert!(holder.used >= bytes, "nobody gives back more than he took");
        let was_empty = holder.used == 0;
        holder.used -= bytes;
        let is_first = holder.used == 0 && !holder.waiting.is_empty();
        self.used -= bytes;
        if !was_empty && is_first {
            self.more.retain(|other| *other != id);
            self.first.push_back(id);
        }
    }

    fn fits(&self, id: u64, bytes: usize) -> bool {
        let free = self.bytes_max.saturating_sub(self.used);
        let held = self.holders.get(&id).map_or(0, |holder| holder.used);
        match (self.used, held) {
            (0, _) => true,
            (_, 0) => bytes <= free,
            // What is left for others is as much as this connection then holds.
            _ => held + bytes <= free.saturating_sub(bytes),
        }
    }

    /// Takes without waiting, where that passes over nobody.
    fn take_now(&mut self, id: u64, bytes: usize) -> bool {
        let now = self.first.is_empty() && self.holder(id).waiting.is_empty() && self.fits(id, bytes);
        if now {
            self.take(id, bytes);
        }
        now
    }

    fn admits(&self, id: u64) -> bool {
        self.first.is_empty() && self.fits(id, 1)
    }

    fn serve(&mut self) {
        while let Some(id) = self.first.pop_front() {
            let Some(bytes) = self.wanted(id) else { continue };
            if !self.fits(id, bytes) {
                self.first.push_front(id);
                return;
            }
            self.grant(id);
        }
        let mut passed_over = 0;
        while passed_over < self.more.len()
            && let Some(id) = self.more.pop_front()
        {
            match self.wanted(id) {
                None => {}
                Some(bytes) if self.fits(id, bytes) => {
                    self.grant(id);
                    passed_over = 0;
                }
                Some(_) => {
                    self.more.push_back(id);
                    passed_over += 1;
                }
            }
        }
    }

    /// What the first waiter of a connection that still waits wants.
    fn wanted(&mut self, id: u64) -> Option<usize> {
        let waiting = &mut self.holder(id).waiting;
        while waiting.front().is_some_and(|waiter| waiter.to.is_closed()) {
            waiting.pop_front();
        }
        waiting.front().map(|waiter| waiter.bytes)
    }

    /// Grants the first waiter of a connection, which is in no queue now, and queues the next one.
    fn grant(&mut self, id: u64) {
        let holder = self.holder(id);
        let Some(Waiter { bytes, to }) = holder.waiting.pop_front() else { return };
        if to.send(()).is_ok() {
            holder.used += bytes;
            self.used += bytes;
        }
        if !self.holder(id).waiting.is_empty() {
            self.queue(id);
        }
    }
}

#[cfg(test)]
mod tests;
