//! The threads of a host: tasks of its runtime.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use kvorum_node::blocking::{Pool, Work};
use kvorum_store::threads::{Next, Running, Threads, Worker};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::disk::Disk;

/// The threads of one life of a process.
#[derive(Clone)]
pub struct HostThreads {
    disk: Arc<Disk>,
    workers: Arc<Mutex<Vec<Shared>>>,
    /// The process is dead: no thread takes another step, and nobody waits for one.
    dead: Arc<AtomicBool>,
}

/// A worker, until it has ended. It is away while it takes a step.
type Shared = Arc<Mutex<Option<Box<dyn Worker>>>>;

impl fmt::Debug for HostThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostThreads").field("dead", &self.dead).finish_non_exhaustive()
    }
}

impl HostThreads {
    /// None yet, of a host with this disk.
    pub(super) fn new(disk: Arc<Disk>) -> HostThreads {
        HostThreads { disk, workers: Arc::default(), dead: Arc::default() }
    }

    /// The process dies.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Lets go of the workers of a dead process, which hold each other.
    pub(super) fn clear(&self) {
        let workers =
            self.workers.lock().map(|mut workers| std::mem::take(&mut *workers)).unwrap_or_default();
        for worker in workers {
            let held = worker.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(held);
        }
    }
}

/// Takes a step, unless the worker has ended or is in the midst of one.
fn step(worker: &Shared, waker: &Waker) -> Next {
    let Ok(mut held) = worker.try_lock() else { return Next::Woken };
    let Some(at_work) = held.as_mut() else { return Next::Ended };
    let next = at_work.step(waker);
    if next == Next::Ended {
        let ended = held.take();
        drop(held);
        drop(ended);
    }
    next
}

async fn run(worker: Shared, threads: HostThreads) {
    let HostThreads { disk, dead, .. } = threads;
    while !dead.load(Ordering::Relaxed) {
        let mut woken = false;
        let next = poll_fn(|cx| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(Next::Again);
            }
            match step(&worker, cx.waker()) {
                Next::Woken => Poll::Pending,
                next => Poll::Ready(next),
            }
        });
        match next.await {
            Next::Ended => return,
            // It waits for the disk.
            Next::After(wait) => _ = timeout(wait, disk.healed()).await,
            // The others of the host come first.
            Next::Again | Next::Woken => yield_now().await,
        }
    }
}

impl Threads for HostThreads {
    fn start(&self, _: &str, worker: Box<dyn Worker>) -> io::Result<Box<dyn Running>> {
        let worker: Shared = Arc::new(Mutex::new(Some(worker)));
        if let Ok(mut workers) = self.workers.lock() {
            workers.push(worker.clone());
        }
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        runtime.spawn(run(worker.clone(), self.clone()));
        Ok(Box::new(Started { worker, threads: self.clone() }))
    }
}

struct Started {
    worker: Shared,
    threads: HostThreads,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Running for Started {
    /// Takes the steps of all the workers, as the one that is waited for may itself wait for another.
    fn join(self: Box<Self>) {
        let is_over = || {
            self.threads.dead.load(Ordering::Relaxed)
                || self.worker.try_lock().map_or(true, |worker| worker.is_none())
        };
        while !is_over() {
            let workers = self.threads.workers.lock().map(|workers| workers.clone()).unwrap_or_default();
            workers.iter().for_each(|worker| _ = step(worker, Waker::noop()));
        }
    }
}

/// Work that blocks: it takes a while, and is then done at once.
pub struct HostPool {
    pub(super) random: Mutex<StdRng>,
    /// How long it takes at most.
    pub(super) takes_max: Duration,
}

impl Pool for HostPool {
    fn begin(&self, work: Work) {
        let Ok(runtime) = Handle::try_current() else { return work() };
        let takes = match self.random.lock() {
            Ok(mut random) => random.random_range(Duration::ZERO..=self.takes_max),
            Err(_) => Duration::ZERO,
        };
        runtime.spawn(async move {
            sleep(takes).await;
            work();
        });
    }
}
