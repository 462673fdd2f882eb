//! A host's runtime: its time stands still until the world moves it, and it runs until it has nothing to do.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// Who wants to know when a runtime has nothing more to do.
pub type Idle = Arc<Mutex<Option<Waker>>>;

/// A runtime whose clock is the world's to move.
#[derive(Debug)]
pub struct HostRuntime {
    runtime: Runtime,
    /// Who wants to know when there is nothing more to do.
    idle: Idle,
}

impl HostRuntime {
    /// At the beginning of its time.
    pub fn new() -> io::Result<HostRuntime> {
        let idle = Arc::new(Mutex::new(None::<Waker>));
        let parked = idle.clone();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            // A runtime that is about to wait has done all there was. Woken just before, it does not
            // move its paused clock to the next timer by itself.
            .on_thread_park(move || {
                let waiting = parked.lock().unwrap_or_else(PoisonError::into_inner).take();
                waiting.iter().for_each(Waker::wake_by_ref);
            })
            .build()?;
        Ok(HostRuntime { runtime, idle })
    }

    /// To spawn tasks on it.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Who wants to know when there is nothing more to do.
    pub fn idle(&self) -> Idle {
        self.idle.clone()
    }

    /// Lets time pass, and does all there is to do then.
    pub fn run(&self, passes: Duration) {
        self.runtime.block_on(async {
            tokio::time::advance(passes).await;
            self.until_idle().await;
        });
    }

    async fn until_idle(&self) {
        let mut was_polled = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut was_polled, true) {
                return Poll::Ready(());
            }
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::task::yield_now;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Goal: time passes only when it is told to, and everything that is due then is done. Method: a task that sleeps
    /// and yields, and counts what it has got done.
    #[test]
    fn time_passes_only_when_it_is_told_to() {
        let runtime = HostRuntime::new().unwrap();
        let (done, at) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, seen) = (done.clone(), at.clone());
        runtime.handle().spawn(async move {
            let begun = Instant::now();
            loop {
                sleep(Duration::from_millis(10)).await;
                for _ in 0..100 {
                    yield_now().await;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                seen.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        });
        for millisecond in 0..1000 {
            runtime.run(Duration::from_millis(1));
            let done = done.load(Ordering::Relaxed);
            assert!(done.abs_diff(millisecond / 10) <= 1, "{done} after {millisecond} ms");
        }
        assert!((980..=1000).contains(&at.load(Ordering::Relaxed)), "{at:?}");
    }
}
