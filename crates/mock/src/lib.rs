//! Pretended nodes, for the tests of whoever talks to a cluster: they answer from memory, count, and fail
//! as they are told to.
//!
//! [`Mock`] serves `kv.v1`. It runs on a thread and a runtime of its own, so that stopping it breaks its
//! connections as a crash does. [`admin::Peers`] serve `admin.v1`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "what goes wrong here fails the test that runs it")]

pub mod admin;
mod kv;
mod serve;
mod store;

use std::collections::VecDeque;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use kvorum_proto::kv::v1::Member;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use self::store::Store;

/// What a node does with the next call that is scripted.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers as it should.
    Serve,
    /// Refuses with this reason, and applies nothing.
    Refuse(&'static str),
    /// Refuses as NOT_LEADER, naming this client address.
    Redirect(String),
    /// Applies nothing and answers this bare code.
    Fail(Code),
    /// Applies the call, and answers this bare code.
    ApplyAndFail(Code),
    /// Writes this value to the key of the call first, as another client would, and answers this code.
    OvertakeAndFail(&'static str, Code),
    /// Never answers.
    Hang,
    /// Streams so many chunks or events, and breaks off.
    Cut(usize),
}

/// One node, which crashes when it is dropped.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    node: Arc<Mutex<Node>>,
    running: Option<(oneshot::Sender<Stop>, JoinHandle<()>)>,
}

/// How a node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Crash,
    Gracefully,
}

/// What a node is and remembers.
#[derive(Debug)]
pub struct Node {
    /// The cluster that it says it belongs to.
    pub cluster_id: u64,
    /// 0: as an older release, it does not say.
    pub incarnation: u64,
    /// Its id.
    pub node_id: u64,
    /// The term that its answers tell.
    pub term: u64,
    /// Taken by scripted calls, one each; without any, calls are served.
    pub script: VecDeque<Act>,
    /// Taken by calls without a script.
    pub otherwise: Act,
    /// The name of each call, and its grpc-timeout.
    pub calls: Vec<(&'static str, Option<String>)>,
    /// What `Members` answers: node id, client address.
    pub members: Vec<(u64, String)>,
    /// What it says of them otherwise.
    pub describe: fn(Member) -> Member,
    /// Who leads, as `Members` tells it; 0: nobody.
    pub leader_id: u64,
    /// The cluster's feature level; 0: as an older release, it does not say.
    pub feature_level: u32,
    /// What it serves, which several nodes may share.
    pub store: Arc<Mutex<Store>>,
    /// It refuses new calls.
    pub stopping: bool,
}

impl Mock {
    /// Starts node 1 with an empty store.
    pub fn start() -> Mock {
        Mock::with(1, Arc::default())
    }

    /// Starts a node with this store, at a port that is free.
    pub fn with(node_id: u64, store: Arc<Mutex<Store>>) -> Mock {
        let node = Node {
            cluster_id: 0xc1,
            incarnation: 1,
            node_id,
            term: 1,
            script: VecDeque::new(),
            otherwise: Act::Serve,
            calls: Vec::new(),
            members: Vec::new(),
            describe: |member| member,
            leader_id: 0,
            feature_level: 1,
            store,
            stopping: false,
        };
        let mut mock =
            Mock { address: "127.0.0.1:0".parse().unwrap(), node: Arc::new(Mutex::new(node)), running: None };
        mock.restart();
        mock.node().members = vec![(node_id, mock.address.to_string())];
        mock
    }

    /// Serves again, under the same address.
    pub fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let node = Arc::clone(&self.node);
        node.lock().unwrap().stopping = false;
        let thread = std::thread::spawn(move || serve::serve(listener, node, stopped));
        self.running = Some((stop, thread));
    }

    /// Breaks every connection.
    pub fn crash(&mut self) {
        self.stop(Stop::Crash);
    }

    /// Refuses new calls, finishes those that are open, and goes.
    pub fn stop_gracefully(&mut self) {
        self.node().stopping = true;
        self.stop(Stop::Gracefully);
    }

    fn stop(&mut self, how: Stop) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(how);
            thread.join().unwrap();
        }
    }

    /// What it is and remembers, to be looked at and changed.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap()
    }

    /// What it serves.
    pub fn store(&self) -> Arc<Mutex<Store>> {
        Arc::clone(&self.node().store)
    }

    /// What it does with the calls that come next, one each.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.node().script.extend(acts);
    }

    /// `host:port` where it serves.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// How many calls of this name came in.
    pub fn count(&self, name: &str) -> usize {
        self.node().calls.iter().filter(|(call, _)| *call == name).count()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop(Stop::Crash);
    }
}

/// Runs the example of a doc comment with the endpoint of a node of its own, and panics where it fails.
pub fn example<E: fmt::Debug>(example: impl AsyncFnOnce(String) -> Result<(), E>) {
    let mock = Mock::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(example(mock.endpoint())).unwrap();
}

/// A status with a machine-readable reason, as nodes answer it.
pub fn reason(name: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let details = ErrorDetails::with_error_info(
        name,
        "kvorum.io",
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    );
    Status::with_error_details(Code::Unavailable, format!("refused: {name}"), details)
}
