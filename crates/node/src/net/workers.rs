//! Threads that serve clients, each with a runtime of its own, for machines with cores to spare.
//!
//! A call on a runtime of one thread costs a quarter less CPU than on one of many, so that many cores
//! are used by many runtimes. The node's own runtime, that of raft, accepts the connections and deals
//! them out in turn; from then on a connection stays with its thread.

use std::io;
use std::thread;
use std::time::Duration;

use futures_util::stream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use super::listen::{self, Accepted, Port};
use super::network::Listener;
use super::router::Router;
use super::tls::Door;
use super::transport::{self, stopped};

/// More threads than this would only wait for the one of raft.
const WORKERS_MAX: usize = 8;

/// Cores that are left to raft and to the threads of log, apply and RocksDB.
const CORES_APART: usize = 2;

/// Connections that may wait for a thread to take them; then the next ones wait to be accepted.
const CONNECTIONS_WAITING_MAX: usize = 64;

/// Blocking reads of a thread's calls: the services allow no more of scans and watches together.
const BLOCKING_THREADS_MAX: usize = 16;

/// How long blocking reads that are still under way at the end are waited for.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// How many threads serve clients on a machine with so many cores; 0: the node's own runtime does.
pub fn workers(cores: usize) -> usize {
    cores.saturating_sub(CORES_APART).min(WORKERS_MAX)
}

/// The threads, ready for connections.
pub struct Workers {
    queues: Vec<mpsc::Sender<Accepted>>,
    /// Closed when the last thread has served its last call.
    done: mpsc::Receiver<()>,
    stop: watch::Receiver<bool>,
}

impl Workers {
    /// Starts the threads. They end when, after `stop`, their calls have ended, at the latest at `cut`.
    #[expect(clippy::disallowed_methods, reason = "a node with such threads is none that is simulated")]
    pub fn start(
        count: usize,
        door: &Door,
        router: &Router,
        stop: &watch::Receiver<bool>,
        cut: &watch::Receiver<bool>,
    ) -> io::Result<Workers> {
        let (serving, done) = mpsc::channel(1);
        let mut queues = Vec::with_capacity(count);
        for number in 0..count {
            let (queue, connections) = mpsc::channel(CONNECTIONS_WAITING_MAX);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS_MAX)
                .build()?;
            let (door, router) = (door.clone(), router.clone());
            let (stop, cut, serving) = (stop.clone(), cut.clone(), serving.clone());
            let work = move || {
                work(&runtime, connections, door, router, stop, cut);
                drop(serving);
                runtime.shutdown_timeout(CLOSE_MAX);
            };
            thread::Builder::new().name(format!("clients-{number}")).spawn(work)?;
            queues.push(queue);
        }
        Ok(Workers { queues, done, stop: stop.clone() })
    }

    /// Deals out connections until the stop, and returns when all calls have ended.
    pub async fn serve(mut self, listener: Box<dyn Listener>) {
        tokio::select! {
            () = deal(listener, self.queues) => tracing::error!("the client port is no longer served"),
            () = stopped(self.stop) => {}
        }
        // Nothing is ever sent: it ends when the threads have let go of the other end.
        let _ = self.done.recv().await;
    }
}

async fn deal(mut listener: Box<dyn Listener>, queues: Vec<mpsc::Sender<Accepted>>) {
    let room = listen::room(Port::Client);
    for queue in queues.iter().cycle() {
        let accepted = listen::accept(&mut *listener, &room).await;
        if queue.send(accepted).await.is_err() {
            return;
        }
    }
}

fn work(
    runtime: &Runtime,
    connections: mpsc::Receiver<Accepted>,
    door: Door,
    router: Router,
    stop: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
) {
    let incoming = stream::unfold(connections, async |mut connections| {
        let accepted: Accepted = connections.recv().await?;
        Some((accepted.take_over(), connections))
    });
    runtime.block_on(async {
        tokio::select! {
            () = transport::serve_connections(incoming, door, router, stopped(stop)) => {}
            () = stopped(cut) => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two cores, where one runtime costs least, nothing is apart.
    #[test]
    fn cores_beyond_two_serve_clients() {
        let table = [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (10, 8), (64, 8)];
        for (cores, expected) in table {
            assert_eq!(workers(cores), expected, "{cores} cores");
        }
    }
}
