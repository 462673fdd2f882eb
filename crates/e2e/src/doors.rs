//! The way from here to each member's client port. A door is a fixed local address for one ordinal,
//! behind which is whatever pod has that ordinal at the moment: clients keep their endpoints while pods
//! come and go, as they do inside the cluster by name.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use kvorum_operator::memory::host_port;
use kvorum_operator::names;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{Context as _, Failure, Result, Test, settings};

/// How long a pod may take to accept: as long as clients give an endpoint.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long `kubectl port-forward` may take to be there.
const FORWARD_LIMIT: Duration = Duration::from_secs(10);

/// Doors to a cluster's members. Dropped, they are closed.
#[derive(Debug)]
pub struct Doors {
    addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where the pods are, by ordinal.
type Pods = Arc<Mutex<HashMap<u32, Whereabouts>>>;

#[derive(Clone, Debug)]
struct Whereabouts {
    name: String,
    uid: String,
    address: String,
}

impl Doors {
    /// Doors to the first `count` members of a cluster, which need not be there yet.
    pub async fn open(test: &Test, cluster: &str, count: u32) -> Result<Doors> {
        let pods = Pods::default();
        let mut doors = Doors { addresses: Vec::new(), tasks: Vec::new() };
        doors.tasks.push(tokio::spawn(follow(test.api(), cluster.to_owned(), pods.clone())));
        for ordinal in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            doors.addresses.push(listener.local_addr()?.to_string());
            let door = Door { namespace: test.namespace.clone(), pods: pods.clone(), ordinal };
            doors.tasks.push(tokio::spawn(door.serve(listener)));
        }
        Ok(doors)
    }

    /// The local addresses, by ordinal.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Keeps note of where the pods are.
async fn follow(api: Api<Pod>, cluster: String, pods: Pods) {
    let config = watcher::Config::default().labels(&names::selector_text(&cluster));
    let mut changes = watcher(api, config).default_backoff().boxed();
    // The watcher comes back by itself after an error.
    while let Some(change) = changes.next().await {
        let mut known = pods.lock().expect("no thread panics while it holds this lock");
        match change {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                let ordinal = names::ordinal(&pod.name_any(), &cluster);
                let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
                if let (Some(ordinal), Some(address)) = (ordinal, address) {
                    let uid = pod.uid().unwrap_or_default();
                    known.insert(ordinal, Whereabouts { name: pod.name_any(), uid, address });
                }
            }
            Ok(watcher::Event::Delete(pod)) => {
                let gone = pod.uid().unwrap_or_default();
                known.retain(|_, pod| pod.uid != gone);
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

struct Door {
    namespace: String,
    pods: Pods,
    ordinal: u32,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        let door = Arc::new(self);
        let forward = Arc::new(tokio::sync::Mutex::new(None));
        while let Ok((visitor, _)) = listener.accept().await {
            let (door, forward) = (door.clone(), forward.clone());
            tokio::spawn(async move {
                // A visitor whom nobody answers is turned away, as by a pod that is not there.
                if let Ok(pod) = door.reach(&forward).await {
                    let _ = visitor.set_nodelay(true);
                    connect(visitor, pod).await;
                }
            });
        }
    }

    async fn reach(&self, forward: &tokio::sync::Mutex<Option<Forward>>) -> Result<TcpStream> {
        let pod = {
            let pods = self.pods.lock().expect("no thread panics while it holds this lock");
            pods.get(&self.ordinal).cloned().context("there is no such pod")?
        };
        let address = match settings::forwards() {
            false => host_port(&pod.address, names::CLIENT_PORT),
            true => Forward::to(&self.namespace, &pod, &mut *forward.lock().await).await?,
        };
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Copies both ways until the pod has said its last. A pod that takes no more may have answers on their
/// way, which `copy_bidirectional` would drop.
async fn connect(visitor: TcpStream, pod: TcpStream) {
    let (mut from_visitor, mut to_visitor) = visitor.into_split();
    let (mut from_pod, mut to_pod) = pod.into_split();
    let requests = async {
        let _ = copy(&mut from_visitor, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
        std::future::pending::<()>().await;
    };
    let answers = async {
        let _ = copy(&mut from_pod, &mut to_visitor).await;
        let _ = to_visitor.shutdown().await;
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// A `kubectl port-forward` that runs.
struct Forward {
    uid: String,
    address: String,
    process: Child,
}

impl Forward {
    /// The local address of the one to this pod, which is started where there is none.
    async fn to(namespace: &str, pod: &Whereabouts, kept: &mut Option<Forward>) -> Result<String> {
        if let Some(forward) = kept
            && forward.uid == pod.uid
            && forward.process.try_wait()?.is_none()
        {
            return Ok(forward.address.clone());
        }
        let mut command = Command::new("kubectl");
        command.args(["port-forward", "-n", namespace, &format!("pod/{}", pod.name)]);
        command.arg(format!(":{}", names::CLIENT_PORT));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let printed = process.stdout.take().context("read what kubectl prints")?;
        let mut lines = BufReader::new(printed).lines();
        let line = timeout(FORWARD_LIMIT, lines.next_line()).await??;
        let address =
            line.as_deref().and_then(|line| line.strip_prefix("Forwarding from ")?.split(' ').next());
        let address =
            address.ok_or_else(|| Failure::new(format!("kubectl port-forward printed {line:?}")))?;
        let forward = Forward { uid: pod.uid.clone(), address: address.to_owned(), process };
        // What it prints from now on is read, so that it never waits for that.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(kept.insert(forward).address.clone())
    }
}
