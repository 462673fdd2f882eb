//! The machines, watched once for all clusters. Of each Node only that is kept which says whether a pod may be
//! scheduled there and whether a volume is there: a few hundred bytes of some ten thousand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nodes in one answer of the first list. Each has some ten thousand bytes, most of them names of images.
pub const PAGE_NODES: u32 = 100;

/// How long a look at a cluster waits for the first list. Without it the look knows nothing of machines.
const FIRST_LIST_MAX: Duration = Duration::from_secs(5);

/// All machines, as the watch has them. Dropped, the watch ends.
#[derive(Debug)]
pub struct Nodes {
    known: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

/// What is known of machines.
#[derive(Clone, Debug)]
pub enum Known {
    /// Nothing yet.
    Nothing,
    /// The operator may not watch them.
    Forbidden,
    /// These are all.
    All(Arc<[Node]>),
}

impl Nodes {
    /// Begins to watch.
    pub fn watch(client: Client) -> Nodes {
        let (sender, known) = watch::channel(Known::Nothing);
        Nodes { known, task: tokio::spawn(follow(client, sender)) }
    }

    /// What is known; the first list is waited for.
    pub async fn known(&self) -> Known {
        let mut known = self.known.clone();
        let listed = known.wait_for(|known| !matches!(known, Known::Nothing));
        match timeout(FIRST_LIST_MAX, listed).await {
            Ok(Ok(known)) => known.clone(),
            // The sender is gone with the operator.
            Ok(Err(_)) | Err(_) => Known::Nothing,
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, known: watch::Sender<Known>) {
    let config = watcher::Config::default().page_size(PAGE_NODES);
    let mut changes = watcher(Api::<Node>::all(client), config).default_backoff().boxed();
    let (mut nodes, mut listed) = (BTreeMap::new(), BTreeMap::new());
    // The watcher comes back by itself after an error.
    while let Some(change) = changes.next().await {
        let changed = match change {
            Ok(watcher::Event::Init) => {
                listed.clear();
                false
            }
            Ok(watcher::Event::InitApply(node)) => {
                listed.insert(node.name_any(), pruned(node));
                false
            }
            Ok(watcher::Event::InitDone) => {
                nodes = std::mem::take(&mut listed);
                true
            }
            Ok(watcher::Event::Apply(node)) => {
                let node = pruned(node);
                nodes.insert(node.name_any(), node.clone()) != Some(node)
            }
            Ok(watcher::Event::Delete(node)) => nodes.remove(&node.name_any()).is_some(),
            Err(error) => {
                if is_forbidden(&error) {
                    tracing::info!("the operator may not watch Nodes: it does nothing about machines");
                    known.send_replace(Known::Forbidden);
                } else {
                    tracing::warn!(%error, "watch Nodes");
                }
                false
            }
        };
        // A Node tells every few minutes that it is well, and nothing else: then all stays as it is.
        if changed {
            known.send_replace(Known::All(nodes.values().cloned().collect()));
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let forbidden = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_forbidden());
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            forbidden(error)
        }
        watcher::Error::WatchError(status) => status.is_forbidden(),
        _ => false,
    }
}

/// The parts of a Node that `schedule` looks at.
fn pruned(node: Node) -> Node {
    let mut kept = Node::default();
    kept.metadata.name = node.metadata.name;
    kept.metadata.labels = node.metadata.labels;
    kept.spec = node.spec.map(|spec| NodeSpec {
        unschedulable: spec.unschedulable,
        taints: spec.taints,
        ..NodeSpec::default()
    });
    let conditions = node.status.and_then(|status| status.conditions);
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    kept.status = ready.map(|mut ready| {
        // When it was last heard of changes all the time.
        (ready.last_heartbeat_time, ready.message, ready.reason) = (None, None, None);
        NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() }
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::schedule::{is_cordoned, is_ready, lets_on};
    use serde_json::{from_value, json};

    /// Goal: what is kept of a Node is small, says what the whole one does, and is the same after a heartbeat.
    #[test]
    fn what_is_kept_of_a_node_is_what_is_looked_at() {
        let images: Vec<_> = (0..50)
            .map(|n| json!({"names": [format!("registry.example.com/image@sha256:{n:064}")], "sizeBytes": 1}))
            .collect();
        let node = |heartbeat: &str| -> Node {
            from_value(json!({
                "metadata": {
                    "name": "a", "labels": {"pool": "kv"}, "annotations": {"long": "x".repeat(4000)},
                    "resourceVersion": heartbeat,
                },
                "spec": {"unschedulable": true, "taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
                "status": {"images": images, "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat},
                ]},
            }))
            .unwrap()
        };
        let whole = node("2026-01-01T00:00:00Z");
        let kept = pruned(whole.clone());
        assert!(serde_json::to_string(&kept).unwrap().len() < 500);
        assert_eq!((is_ready(&kept), is_cordoned(&kept)), (is_ready(&whole), is_cordoned(&whole)));
        let pod = from_value(json!({"containers": [], "nodeSelector": {"pool": "kv"},
            "tolerations": [{"operator": "Exists"}]}))
        .unwrap();
        assert!(lets_on(&pod, &kept) && lets_on(&pod, &whole));
        assert_eq!(pruned(node("2026-01-01T00:05:00Z")), kept);
    }
}
