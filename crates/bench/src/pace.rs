//! When the next request starts, and when there is none.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The pacing thread sleeps at least this long, so that a high rate costs it 1% of a core and not a whole one.
const PACER_SLEEP_MIN: Duration = Duration::from_micros(100);

/// Permits that wake every client once more after the last request of a paced run; more than there can be clients.
const PERMITS_AT_END: usize = 1 << 20;

/// What ends a run.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// So many requests.
    After(u64),
    /// Time.
    At(Instant),
}

/// A request that may start.
pub struct Slot {
    /// Its number, from 0.
    pub number: u64,
    /// When it should have started. Latency counts from here, so that a server which stalls is charged for every
    /// request that waited for it and not only for those under way.
    pub intended: Instant,
}

/// Hands out the requests of a run to its clients.
pub struct Pace {
    start: Instant,
    end: End,
    issued: AtomicU64,
    open: Option<Open>,
}

/// Requests start at a fixed rate, answered or not.
struct Open {
    rate: u64,
    /// A permit for each request that is due.
    due: Arc<Semaphore>,
}

impl Pace {
    /// Starts the run now.
    pub fn start(end: End, rate: Option<NonZeroU64>) -> Pace {
        let start = Instant::now();
        let open = rate.map(|rate| {
            let due = Arc::new(Semaphore::new(0));
            let pacer = due.clone();
            // A thread, since the runtime's timers have steps of a millisecond, which is more than a request takes.
            thread::spawn(move || release(&pacer, start, rate.get(), end));
            Open { rate: rate.get(), due }
        });
        Pace { start, end, issued: AtomicU64::new(0), open }
    }

    /// When the run started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Waits for the next request; `None` when the run is over.
    pub async fn next(&self) -> Option<Slot> {
        let Some(open) = &self.open else { return self.next_at(Instant::now()) };
        // The pacing thread closes it at the end of a run that time ends.
        open.due.acquire().await.ok()?.forget();
        let number = self.take()?;
        Some(Slot { number, intended: self.start + offset(number, open.rate) })
    }

    /// Requests that were due before the end and never started, because every client was waiting.
    pub fn unsent(&self) -> u64 {
        match (&self.open, self.end) {
            (Some(open), End::At(end)) => {
                due(end - self.start, open.rate).saturating_sub(self.issued.load(Ordering::Relaxed))
            }
            _ => 0,
        }
    }

    fn next_at(&self, now: Instant) -> Option<Slot> {
        if matches!(self.end, End::At(end) if now >= end) {
            return None;
        }
        Some(Slot { number: self.take()?, intended: now })
    }

    fn take(&self) -> Option<u64> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        if matches!(self.end, End::After(total) if number >= total) { None } else { Some(number) }
    }
}

fn release(permits: &Semaphore, start: Instant, rate: u64, end: End) {
    let mut released = 0;
    loop {
        let now = Instant::now();
        if matches!(end, End::At(end) if now >= end) {
            return permits.close();
        }
        let mut wanted = due(now - start, rate);
        if let End::After(total) = end {
            wanted = wanted.min(total);
        }
        permits.add_permits(
            usize::try_from(wanted - released).expect("a run's requests fit into memory's range"),
        );
        released = wanted;
        if matches!(end, End::After(total) if released == total) {
            return permits.add_permits(PERMITS_AT_END);
        }
        let next = start + offset(released, rate);
        thread::sleep(next.saturating_duration_since(Instant::now()).max(PACER_SLEEP_MIN));
    }
}

/// How long after the start the request with this number is due.
fn offset(number: u64, rate: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many requests are due after this long: number 0 at once.
fn due(elapsed: Duration, rate: u64) -> u64 {
    let whole = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
    u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: exactly the asked number of requests starts, each number once. Method: count, with and without a rate.
    #[tokio::test]
    async fn a_total_is_exact() {
        for rate in [None, NonZeroU64::new(2_000)] {
            let pace = Pace::start(End::After(100), rate);
            let mut numbers = Vec::new();
            while let Some(slot) = pace.next().await {
                numbers.push(slot.number);
            }
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
            assert_eq!(pace.unsent(), 0);
            assert!(pace.next().await.is_none());
        }
    }

    /// Goal: a stalled client is charged for what it held up. Method: stall for 50 of 100 ms at 1,000 a second, then
    /// look at the intended starts, which go on as if nothing had happened.
    #[tokio::test]
    async fn latency_counts_from_the_intended_start() {
        let end = Instant::now() + Duration::from_millis(100);
        let pace = Pace::start(End::At(end), NonZeroU64::new(1_000));
        thread::sleep(Duration::from_millis(50));
        let slot = pace.next().await.unwrap();
        assert_eq!(slot.intended, pace.started());
        assert!(slot.intended.elapsed() >= Duration::from_millis(50));
        let slot = pace.next().await.unwrap();
        assert_eq!(slot.intended, pace.started() + Duration::from_millis(1));
        thread::sleep(Duration::from_millis(100));
        assert!(pace.next().await.is_none());
        assert!((96..=100).contains(&pace.unsent()), "{}", pace.unsent());
    }
}
