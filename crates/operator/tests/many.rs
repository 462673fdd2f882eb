//! Goal: an operator of many clusters on many machines stays under its memory limit, and does not read all machines
//! again and again. Method: made objects (2,000 Nodes of a real one's size, 200 clusters of three members none of
//! which answers, so that each is looked at every second, and 50 of which have a pod that does not run), served by an
//! API server that is made of them, in a process of its own. The operator's loop runs here for a while.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use kube::{Client, Config};
use kvorum_operator::controller::{Context, run};
use kvorum_operator::metrics::Metrics;
use kvorum_operator::options::Options;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

const NODES: usize = 2_000;
const CLUSTERS: usize = 200;
/// Clusters with a pod that does not run.
const DEGRADED: usize = 50;
const MEMBERS: usize = 3;
/// The chart's limit for the operator.
const MEMORY_LIMIT_KIB: u64 = 128 << 10;
/// How long the operator works.
const WORKS_FOR: Duration = Duration::from_secs(20);
/// In the environment of the process that is the API server.
const SERVES: &str = "KVORUM_TEST_SERVES";
const NAMESPACE: &str = "many";

#[test]
fn many_clusters_and_machines_fit_into_the_operators_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if std::env::var_os(SERVES).is_some() {
        return runtime.block_on(serve());
    }
    let mut server = Command::new(std::env::current_exe().unwrap());
    server.args(["--exact", "many_clusters_and_machines_fit_into_the_operators_memory", "--nocapture"]);
    let mut server = server.env(SERVES, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines.find_map(|line| line.unwrap().strip_prefix("serves ").map(str::to_owned)).unwrap();
    let (counts, metrics) = runtime.block_on(operate(&url));
    server.kill().unwrap();
    server.wait().unwrap();

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let looks = metrics.matches("kvorum_operator_reconcile_seconds_count").count();
    let count = |what: &str| counts[what].as_u64().unwrap_or_default();
    eprintln!("many: {} MiB at the most; pages of Nodes {}, {counts}", peak >> 10, count("LIST nodes"));
    assert!(looks > 0, "nothing was looked at:\n{metrics}");
    assert!(count("GET kvclusters") > CLUSTERS as u64, "not every cluster was looked at: {counts}");
    assert!(count("LIST nodes") <= NODES as u64 / 50, "Nodes are listed again and again: {counts}");
    assert!(peak < MEMORY_LIMIT_KIB, "the operator took {peak} KiB");
}

/// Runs the operator's loop, and answers what it asked for and what it counted.
async fn operate(url: &str) -> (Value, String) {
    let client = Client::try_from(Config::new(url.parse().expect("it is a URL"))).expect("it needs no more");
    let options = Options { image: "kvorum:test".into(), ..Options::default() };
    let metrics = Metrics::new();
    let context = Context::new(client.clone(), options, metrics.clone());
    run(context, sleep(WORKS_FOR)).await;
    let counts = client.request_text(http_request("/counts")).await.expect("the other process answers");
    (serde_json::from_str(&counts).expect("it is JSON"), metrics.encode())
}

fn http_request(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("it is a path")
}

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// The API server.
#[expect(clippy::print_stdout, reason = "the other process reads the address")]
async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the other process answers");
    println!("\nserves http://{}", listener.local_addr().expect("it listens"));
    let router = Router::new().fallback(answer).with_state(Counts::default());
    axum::serve(listener, router).await.expect("the other process answers");
}

async fn answer(State(counts): State<Counts>, method: Method, uri: Uri, body: Bytes) -> Response {
    if uri.path() == "/counts" {
        return json_of(&json!(*counts.lock().expect("nobody panics while he counts")));
    }
    let query: BTreeMap<String, String> = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",")))
        })
        .collect();
    let parts: Vec<&str> =
        uri.path().split('/').filter(|part| !part.is_empty() && *part != "status").collect();
    // api/v1/… or apis/GROUP/VERSION/…, then namespaces/NAME/ where there is one.
    let rest = &parts[if parts[0] == "api" { 2 } else { 3 }..];
    let rest = if rest.len() > 2 && rest[0] == "namespaces" { &rest[2..] } else { rest };
    let (kind, name) = (rest[0], rest.get(1).copied());
    let watches = query.contains_key("watch");
    let verb = match (&method, name) {
        (&Method::GET, None) if watches => "WATCH",
        (&Method::GET, None) => "LIST",
        (other, _) => other.as_str(),
    };
    *counts.lock().expect("nobody panics while he counts").entry(format!("{verb} {kind}")).or_default() += 1;
    match verb {
        "WATCH" => {
            // Nothing ever happens.
            let silent = stream::pending::<Result<Bytes, Infallible>>();
            Response::new(Body::from_stream(silent))
        }
        "LIST" => json_of(&list(kind, &query)),
        "GET" => match name.and_then(|name| get(kind, name)) {
            Some(object) => json_of(&object),
            None => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "reason": "NotFound", "code": 404, "message": "there is none"});
                (StatusCode::NOT_FOUND, json_of(&status)).into_response()
            }
        },
        // What is written is taken, and changes nothing.
        "PATCH" => json_of(&name.and_then(|name| get(kind, name)).unwrap_or_else(|| from(&body))),
        _ => json_of(&from(&body)),
    }
}

fn from(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| json!({}))
}

fn json_of(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

fn list(kind: &str, query: &BTreeMap<String, String>) -> Value {
    let of = query.get("labelSelector").and_then(|selector| {
        selector.split(',').find_map(|one| one.strip_prefix("app.kubernetes.io/instance=").map(str::to_owned))
    });
    let clusters: Vec<usize> = match &of {
        Some(name) => name.trim_start_matches("c-").parse().into_iter().collect(),
        None => (0..CLUSTERS).collect(),
    };
    let members = |make: fn(usize, usize) -> Value| {
        clusters.iter().flat_map(|c| (0..MEMBERS).map(|m| make(*c, m))).collect::<Vec<Value>>()
    };
    let mut more = None;
    let items = match kind {
        "nodes" => {
            let number =
                |key: &str, usual: usize| query.get(key).and_then(|text| text.parse().ok()).unwrap_or(usual);
            let (from, limit) = (number("continue", 0), number("limit", NODES));
            let end = NODES.min(from + limit);
            more = (end < NODES).then(|| end.to_string());
            (from..end).map(node).collect()
        }
        "kvclusters" => clusters.iter().map(|c| cluster(*c)).collect(),
        "statefulsets" => clusters.iter().map(|c| stateful_set(*c)).collect(),
        "pods" => members(pod),
        "persistentvolumeclaims" => members(claim),
        _ => Vec::new(),
    };
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": more}, "items": items})
}

fn get(kind: &str, name: &str) -> Option<Value> {
    let of = |name: &str| name.strip_prefix("c-")?.split('-').next()?.parse::<usize>().ok();
    match kind {
        "kvclusters" => of(name).map(cluster),
        "statefulsets" => of(name).map(stateful_set),
        "services" | "poddisruptionbudgets" => {
            let c = of(name)?;
            Some(json!({"metadata": metadata(name, c, true), "spec": {}}))
        }
        "persistentvolumes" => {
            let n: usize = name.strip_prefix("v-")?.parse().ok()?;
            let term = json!({"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [format!("node-{n}")]}]});
            Some(json!({"metadata": {"name": name}, "spec": {"local": {"path": "/disk"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}}))
        }
        "nodes" => name.strip_prefix("node-")?.parse().ok().map(node),
        _ => None,
    }
}

fn metadata(name: &str, c: usize, owned: bool) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "kvorum", "app.kubernetes.io/instance": format!("c-{c}"),
        "app.kubernetes.io/managed-by": "kvorum-operator",
    });
    let mut metadata = json!({"name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}"), "labels": labels,
        "resourceVersion": "1", "generation": 1});
    if owned {
        metadata["ownerReferences"] = json!([{"apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster",
            "name": format!("c-{c}"), "uid": format!("uid-c-{c}"), "controller": true}]);
    }
    metadata
}

fn cluster(c: usize) -> Value {
    json!({"apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": metadata(&format!("c-{c}"), c, false),
        "spec": {"members": MEMBERS}, "status": {"clusterID": format!("{:016x}", c + 1)}})
}

fn stateful_set(c: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(&format!("c-{c}"), c, true),
        "spec": {"replicas": MEMBERS, "serviceName": "x", "selector": {}, "template": {"metadata": {"annotations":
            {"kvorum.io/template": "t"}}, "spec": {"containers": []}}}})
}

fn pod(c: usize, m: usize) -> Value {
    let runs = !(c < DEGRADED && m == 0);
    let state =
        if runs { json!({"running": {}}) } else { json!({"waiting": {"reason": "ImagePullBackOff"}}) };
    let mut pod = json!({"metadata": metadata(&format!("c-{c}-{m}"), c, false),
        "spec": {"containers": [], "nodeName": format!("node-{}", c * MEMBERS + m)},
        "status": {"conditions": [{"type": "Ready", "status": if runs { "True" } else { "False" }}],
            "containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": runs, "restartCount": 0,
                "state": state}]}});
    if runs {
        // Nobody listens there.
        pod["status"]["podIP"] = json!("127.0.0.1");
    }
    pod
}

fn claim(c: usize, m: usize) -> Value {
    let mut metadata = metadata(&format!("data-c-{c}-{m}"), c, false);
    metadata["annotations"] = json!({"kvorum.io/cluster-id": format!("{:016x}", c + 1),
        "kvorum.io/node-id": format!("{:016x}", c * MEMBERS + m + 1)});
    json!({"metadata": metadata, "spec": {"volumeName": format!("v-{}", c * MEMBERS + m),
        "resources": {"requests": {"storage": "10Gi"}}}})
}

/// A machine as a kubelet describes it: most of it is images.
fn node(n: usize) -> Value {
    let images: Vec<Value> = (0..50)
        .map(|image| {
            let digest = format!("registry.example.com/some/team/image-{image}@sha256:{:064x}", n * 50 + image);
            json!({"names": [digest, format!("registry.example.com/some/team/image-{image}:v1.2.3")], "sizeBytes": 1})
        })
        .collect();
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "KubeletSaysSo", "message": "as it was found",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node-{n}"), "uid": format!("n{n}"), "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": format!("node-{n}"), "topology.kubernetes.io/zone": "a",
                "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "m"},
            "annotations": {"csi.volume.kubernetes.io/nodeid": "x".repeat(200)}},
        "spec": {"podCIDR": "10.0.0.0/24", "providerID": format!("cloud://{n}")},
        "status": {"conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"), condition("Ready", "True")],
            "images": images, "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"}}})
}
