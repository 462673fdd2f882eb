//! The one way to do what may wait for the disk: away from the threads that serve.

use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A piece of work.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where such work is done.
pub trait Pool: Send + Sync + 'static {
    /// Begins the work, and returns before it is done.
    fn begin(&self, work: Work);
}

/// The threads for blocking work of the caller's runtime. Their number is bounded there; who could take
/// them all has a bound of its own.
#[derive(Clone, Copy, Debug)]
pub struct ThreadPool;

impl Pool for ThreadPool {
    fn begin(&self, work: Work) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            // The runtime is gone, and nobody is held up any more.
            Err(_) => work(),
        }
    }
}

/// The work was given up: the node stops, or the work has panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node stops, and what was asked for was given up")]
pub struct GivenUp;

impl From<GivenUp> for io::Error {
    fn from(error: GivenUp) -> io::Error {
        io::Error::other(error)
    }
}

/// A handle to where blocking work is done. Clones are the same one.
#[derive(Clone)]
pub struct Blocking(Arc<dyn Pool>);

impl Blocking {
    /// Work is done there.
    pub fn new(pool: impl Pool) -> Blocking {
        Blocking(Arc::new(pool))
    }

    /// Begins the work at once, and answers what comes of it. It goes on when nobody waits for it any more.
    pub fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, GivenUp>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.0.begin(Box::new(move || _ = done.send(work())));
        async { result.await.map_err(|_| GivenUp) }
    }

    /// Begins the work at once; nobody waits for it.
    pub fn begin(&self, work: Work) {
        self.0.begin(work);
    }

    /// Drops something there whose end may wait for the disk.
    pub fn discard(&self, content: impl Send + 'static) {
        self.0.begin(Box::new(move || drop(content)));
    }
}
