//! The threads of the store's own making, as values.
//!
//! What runs beside its callers is a [`Worker`], which does one thing at a time and then says when it has
//! the next one to do. In production a thread of its own takes the steps; a simulation takes them in simulated
//! time, many workers on one thread. The step is the same code in both.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

/// When a worker takes its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Again,
    /// When the waker of this step is woken, which the worker has left with what it waits for. It may also be
    /// stepped before: it looks again whether there is something to do.
    Woken,
    /// When so long has passed, and not before, whoever wakes it.
    After(Duration),
    /// Never.
    Ended,
}

impl Next {
    /// The next step comes so long after this one; at once if that is no time.
    pub fn after(wait: Duration) -> Next {
        if wait.is_zero() { Next::Again } else { Next::After(wait) }
    }
}

/// What runs beside its callers, step by step.
pub trait Worker: Send {
    /// Does one thing. It may wait for the disk, and for nothing else: whoever else it waits for
    /// gets the waker, and it answers [`Next::Woken`].
    fn step(&mut self, waker: &Waker) -> Next;
}

/// Makes workers run.
pub trait Threads: Debug + Send + Sync {
    /// Lets a worker take its steps until it has ended. The name is for people: at most 15 bytes of it are shown.
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Box<dyn Running>>;
}

/// A worker that was started. It goes on when this is dropped.
pub trait Running: Debug + Send + Sync {
    /// Returns when the worker has ended; at once where the worker itself asks, in one of its steps.
    fn join(self: Box<Self>);

    /// How much CPU time the worker has used, where that is known: it tells one that is at work from one that
    /// hangs.
    fn cpu_time(&self) -> Option<Duration> {
        None
    }
}

/// The operating system's threads, one for each worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemThreads;

#[derive(Debug)]
struct SystemThread {
    handle: thread::JoinHandle<()>,
    cpu_time: CpuTime,
}

/// The CPU time of a thread, as the kernel tells it: the thread itself opens the file. None where there is no /proc.
type CpuTime = Arc<OnceLock<Option<File>>>;

impl Threads for SystemThreads {
    #[expect(clippy::disallowed_methods, reason = "these are the threads of its own that the system has")]
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Box<dyn Running>> {
        let cpu_time = CpuTime::default();
        let own = cpu_time.clone();
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || {
            own.get_or_init(|| File::open("/proc/thread-self/schedstat").ok());
            run(worker);
        })?;
        Ok(Box::new(SystemThread { handle, cpu_time }))
    }
}

impl Running for SystemThread {
    fn join(self: Box<Self>) {
        let name = self.handle.thread().name().unwrap_or_default().to_owned();
        if self.handle.thread().id() != thread::current().id() && self.handle.join().is_err() {
            tracing::error!("the thread {name} panicked");
        }
    }

    fn cpu_time(&self) -> Option<Duration> {
        let mut text = [0; 64];
        let bytes = self.cpu_time.get()?.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = String::from_utf8_lossy(&text[..bytes]);
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

#[expect(clippy::disallowed_methods, reason = "here a worker has a thread of its own")]
fn run(mut worker: Box<dyn Worker>) {
    let bell = Arc::new(Bell { rung: AtomicBool::new(false), thread: thread::current() });
    let waker = Waker::from(bell.clone());
    loop {
        match worker.step(&waker) {
            Next::Again => {}
            Next::Woken => bell.wait(),
            Next::After(wait) => thread::sleep(wait),
            Next::Ended => return,
        }
    }
}

/// Wakes a thread. It remembers that it was rung: a step may itself park the thread, and take what
/// [`thread::Thread::unpark`] leaves for that.
struct Bell {
    rung: AtomicBool,
    thread: thread::Thread,
}

impl Bell {
    fn wait(&self) {
        while !self.rung.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever has rung before wakes the thread for both.
        if !self.rung.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    /// Hands on numbers from a queue, and waits where there is none.
    struct Passer {
        queue: Arc<Mutex<(Vec<u32>, Option<Waker>)>>,
        out: mpsc::Sender<u32>,
    }

    impl Worker for Passer {
        fn step(&mut self, waker: &Waker) -> Next {
            let mut queue = self.queue.lock().unwrap();
            match queue.0.pop() {
                None => {
                    queue.1 = Some(waker.clone());
                    drop(queue);
                    // Takes what an unpark has left.
                    thread::park_timeout(Duration::from_micros(50));
                    Next::Woken
                }
                Some(0) => Next::Ended,
                Some(number) => {
                    self.out.send(number).unwrap();
                    Next::after(Duration::from_micros(u64::from(number % 2)))
                }
            }
        }
    }

    /// Goal: no call of a waker is lost, whenever it comes. Method: thousands of numbers, each awaited, so that the
    /// worker is about to wait whenever it is woken; its steps park the thread themselves.
    #[test]
    fn a_worker_is_woken_every_time() {
        let queue = Arc::new(Mutex::new((Vec::new(), None::<Waker>)));
        let (out, numbers) = mpsc::channel();
        let worker = Passer { queue: queue.clone(), out };
        let running = SystemThreads.start("passer", Box::new(worker)).unwrap();
        let pass = |number| {
            let waker = {
                let mut queue = queue.lock().unwrap();
                queue.0.push(number);
                queue.1.take()
            };
            waker.iter().for_each(Waker::wake_by_ref);
        };
        for number in 1..=5000 {
            pass(number);
            assert_eq!(numbers.recv_timeout(Duration::from_secs(60)), Ok(number));
        }
        assert!(running.cpu_time().is_some_and(|used| !used.is_zero()), "where there is a /proc");
        pass(0);
        running.join();
        assert!(numbers.recv().is_err(), "the worker is gone");
    }
}
