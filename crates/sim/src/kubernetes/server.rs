//! The API server: objects behind the real client of Kubernetes, with a way to it that takes its time, and fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use kube::Client;
use kube::client::Body;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::service_fn;

use super::controllers::{CLAIMS, claim_name};
use super::objects::{NAMESPACE, Objects, Refusal, goes, name_of};
use super::patch;
use super::promises;
use super::request::{Request, Verb};
use super::watch::{Answer, Watch};
use crate::world::clock::{Clock, SECOND};
use crate::world::random::chance;
use crate::world::trace::{Trace, hash_bytes};

/// The KvCluster of the world.
pub const CLUSTER: &str = "demo";
/// How long a request takes to the server, and its answer from it, at the most.
const WAY_MAX: Duration = Duration::from_millis(15);
/// While the server is hard to reach, so many requests in a million do not come to it, and so many of the answers of the
/// others are lost.
const LOST: u32 = 500_000;
/// The second of its day in which every run begins; see `system.c`.
const BEGIN_S: u64 = 51_200;

/// Something that an operator has done, which is judged once the hosts stand still.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A claim is deleted.
    ClaimDeleted(u32),
    /// A pod is to go.
    PodTaken(u32),
    /// The StatefulSet has so many pods from now on, and had more.
    Shrunk(usize),
}

/// How an operator has a pod go.
#[derive(Clone, Copy, Debug)]
enum Way {
    Evicted,
    Deleted,
}

/// What the server holds.
#[derive(Debug)]
pub struct State {
    /// All objects.
    pub objects: Objects,
    /// What operators have done since that was last looked at.
    pub effects: Vec<Effect>,
    /// Pods that operators have had go, and in the place of which none has been ready since.
    pub taken: BTreeSet<u32>,
    /// Most disks are lost: what runs is not to be spared any more.
    pub is_lost: bool,
    /// What an operator did against what it promises.
    pub violation: Option<String>,
    /// The server is hard to reach.
    pub is_hard_to_reach: bool,
    /// How often all watches were broken off.
    pub broken_off: u64,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
}

/// The server, as operators and the rest of the world share it.
#[derive(Clone, Debug)]
pub struct Server(Arc<Mutex<State>>);

impl Server {
    /// Without any object.
    pub fn new(clock: Arc<Clock>, trace: Arc<Trace>) -> Server {
        Server(Arc::new(Mutex::new(State {
            objects: Objects::default(),
            effects: Vec::new(),
            taken: BTreeSet::new(),
            is_lost: false,
            violation: None,
            is_hard_to_reach: false,
            broken_off: 0,
            clock,
            trace,
        })))
    }

    /// Does something with what there is, and then wakes whom it concerns.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (state.objects.version(), state.broken_off);
        let result = work(&mut state);
        let is_news = (state.objects.version(), state.broken_off) != before;
        let waiting = if is_news { std::mem::take(&mut state.objects.waiting) } else { Vec::new() };
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        result
    }

    /// What one process of an operator reaches it by.
    pub fn client(&self, random: StdRng) -> Client {
        let (server, random) = (self.clone(), Arc::new(Mutex::new(random)));
        let service = service_fn(move |request| serve(server.clone(), random.clone(), request));
        Client::new(service, NAMESPACE)
    }
}

async fn serve(
    server: Server,
    random: Arc<Mutex<StdRng>>,
    request: http::Request<Body>,
) -> io::Result<http::Response<Answer>> {
    let (there, back, gets_lost, answer_lost, seed) = {
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut way = || random.random_range(Duration::ZERO..=WAY_MAX);
        let (there, back) = (way(), way());
        (there, back, chance(&mut random, LOST), chance(&mut random, LOST), random.random())
    };
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await.map_err(io::Error::other)?;
    sleep(there).await;
    if gets_lost && server.with(|state| state.is_hard_to_reach) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let answer = match Request::read(&parts, &body) {
        Some(request) if request.verb == Verb::Watch => {
            let watch = Watch::begin(server.clone(), &request, seed);
            http::Response::new(Answer::Watch(Box::new(watch)))
        }
        Some(request) => {
            let (code, answer) = server.with(|state| state.answer(&request));
            let mut response = http::Response::new(Answer::Whole(Some(Bytes::from(answer.to_string()))));
            *response.status_mut() = code;
            response
        }
        None => {
            return Err(io::Error::other(format!("nobody here understands {} {}", parts.method, parts.uri)));
        }
    };
    sleep(back).await;
    if answer_lost && server.with(|state| state.is_hard_to_reach) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(answer)
}

impl State {
    /// The time as objects have it.
    pub fn timestamp(&self) -> String {
        let second = BEGIN_S + self.clock.now() / SECOND;
        format!("2026-09-21T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }

    /// Answers an operator.
    fn answer(&mut self, request: &Request) -> (StatusCode, Value) {
        let answer = self.take(request);
        let is_refused = u64::from(answer.is_err());
        let numbers =
            [request.verb as u64, self.objects.version(), is_refused, hash_bytes(request.name.as_bytes())];
        self.trace.note("kubernetes", &numbers, request.kind.as_bytes());
        answer.map_or_else(|refusal| refused(&refusal, request), |answer| (StatusCode::OK, answer))
    }

    fn take(&mut self, request: &Request) -> Result<Value, Refusal> {
        let Request { verb, kind, name, part, body, .. } = request;
        if kind == "events" {
            // Nobody reads them here.
            return Ok(body.clone());
        }
        match verb {
            Verb::Get if kind == "namespaces" => Ok(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name},
            })),
            Verb::Get => self.objects.get(kind, name).cloned().ok_or(Refusal::NotFound),
            Verb::List => Ok(self.list(request)),
            Verb::Create if part == "eviction" => self.evict(request),
            Verb::Create => {
                let made = self.objects.create(kind, body.clone())?;
                self.objects.owns(kind, name_of(body), body.clone());
                Ok(made)
            }
            Verb::Replace => {
                self.objects.check(kind, name, &body["metadata"])?;
                let status = body["status"].clone();
                self.objects.change(kind, name, |object| object["status"] = status)
            }
            Verb::Apply => {
                let before = self.objects.get(kind, name).cloned();
                let applied = self.objects.apply(kind, name, body)?;
                let needed = promises::of_change(kind, before.as_ref(), &applied);
                let left = applied["spec"]["replicas"].as_u64().filter(|_| needed.is_some());
                self.effects.extend(left.map(|left| Effect::Shrunk(left as usize)));
                self.judge(needed);
                Ok(applied)
            }
            Verb::Merge => {
                self.objects.check(kind, name, &body["metadata"])?;
                let body = body.clone();
                self.objects.change(kind, name, |object| {
                    let version = object["metadata"]["resourceVersion"].clone();
                    patch::merge(object, &body);
                    object["metadata"]["resourceVersion"] = version;
                })
            }
            Verb::Delete => {
                if kind == "pods" {
                    self.objects.check(kind, name, &body["preconditions"])?;
                    self.judge_taking(name, Way::Deleted);
                    self.take_pod(name, body)?;
                } else {
                    self.delete(kind, name, body)?;
                }
                Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}))
            }
            Verb::Watch => Err(Refusal::NotFound),
        }
    }

    fn list(&self, request: &Request) -> Value {
        let items: Vec<Value> = match request.kind.as_str() {
            "endpointslices" => vec![self.endpoints()],
            kind => self.objects.list(kind, &request.labels).into_iter().cloned().collect(),
        };
        json!({
            "kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": self.objects.version().to_string()},
        })
    }

    /// Where the Service for clients leads.
    fn endpoints(&self) -> Value {
        let service = self.objects.get("services", CLUSTER);
        let selector = service.map(|service| service["spec"]["selector"].clone()).unwrap_or_default();
        let labels: BTreeMap<String, String> = serde_json::from_value(selector).unwrap_or_default();
        let pods = self.objects.list("pods", &labels.into_iter().collect::<Vec<_>>()).into_iter();
        let endpoint = |pod: &Value| {
            let is_ready = is_ready(pod) && !goes(pod);
            json!({"addresses": [pod["status"]["podIP"]], "conditions": {"ready": is_ready}})
        };
        let endpoints: Vec<Value> =
            pods.filter(|pod| pod["status"]["podIP"].is_string()).map(endpoint).collect();
        json!({"metadata": {"name": CLUSTER}, "addressType": "IPv4", "endpoints": endpoints})
    }

    /// A pod may be evicted while all are ready: one of them at a time, as the PodDisruptionBudget has it.
    fn evict(&mut self, request: &Request) -> Result<Value, Refusal> {
        let options = &request.body["delete_options"];
        self.objects.check("pods", &request.name, &options["preconditions"])?;
        // What is asked for is judged, be it granted or not: who drains a machine may have no budget in its way.
        self.judge_taking(&request.name, Way::Evicted);
        let wanted =
            self.objects.get("statefulsets", CLUSTER).and_then(|set| set["spec"]["replicas"].as_u64());
        let ready =
            self.objects.list("pods", &[]).into_iter().filter(|pod| is_ready(pod) && !goes(pod)).count();
        if (ready as u64) < wanted.unwrap_or_default() {
            return Err(Refusal::Budget);
        }
        self.take_pod(&request.name, options)?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}))
    }

    /// An operator deletes a pod, by its eviction or at once.
    fn take_pod(&mut self, name: &str, options: &Value) -> Result<(), Refusal> {
        self.delete("pods", name, options)?;
        if let Some(ordinal) = ordinal(name) {
            self.taken.insert(ordinal);
            self.effects.push(Effect::PodTaken(ordinal));
        }
        Ok(())
    }

    /// What is ready goes by its eviction alone, and not while another one is away that an operator has had go. A pod that
    /// holds up its claim's deletion goes whenever a quorum stands without it.
    fn judge_taking(&mut self, name: &str, way: Way) {
        let is_whole = |pod: &&Value| is_ready(pod) && !goes(pod);
        let claim = ordinal(name).and_then(|ordinal| self.objects.get(CLAIMS, &claim_name(ordinal as usize)));
        let is_claimed = claim.is_some_and(|claim| !goes(claim));
        let is_spared = self.objects.get("pods", name).as_ref().is_some_and(is_whole) && !self.is_lost;
        if !is_spared || !is_claimed {
            return;
        }
        let away = self.taken.iter().find(|other| Some(**other) != ordinal(name));
        let what = match (way, away) {
            (Way::Deleted, _) => "which is ready, and does not ask whether it may go".to_owned(),
            (Way::Evicted, Some(away)) => format!("and the pod of {away}, which it has had go, is not back"),
            (Way::Evicted, None) => return,
        };
        self.violation.get_or_insert(format!("an operator has pod {name} go, {what}"));
    }

    /// An operator deletes something.
    fn delete(&mut self, kind: &str, name: &str, options: &Value) -> Result<(), Refusal> {
        self.objects.check(kind, name, &options["preconditions"])?;
        let needed = promises::of_deletion(kind, name);
        self.judge_fence(needed.as_ref(), options);
        self.judge(needed);
        if kind == "persistentvolumeclaims"
            && let Some(ordinal) = ordinal(name)
        {
            self.effects.push(Effect::ClaimDeleted(ordinal));
        }
        self.trace.tell("kubernetes", format!("an operator deletes {kind} {name}"));
        match kind {
            "statefulsets" if options["propagationPolicy"] == "Orphan" => {
                self.objects.remove(kind, name).map(drop)
            }
            _ => self.begin_deletion(kind, name),
        }
    }

    /// Something is to go: pods end first, and what they hold on to goes with them.
    pub fn begin_deletion(&mut self, kind: &str, name: &str) -> Result<(), Refusal> {
        if !["pods", "persistentvolumeclaims", "statefulsets"].contains(&kind) {
            return self.objects.remove(kind, name).map(drop);
        }
        let now = self.timestamp();
        let deleted = self.objects.change(kind, name, |object| {
            if !goes(object) {
                object["metadata"]["deletionTimestamp"] = json!(now);
            }
        });
        deleted.map(drop)
    }

    /// What a risky effect is to be on record as; without it, the operator broke a promise.
    fn judge(&mut self, needed: Option<promises::Needed>) {
        let Some(needed) = needed else { return };
        if let Err(what) = promises::judge(&needed, &self.record()) {
            self.violation.get_or_insert(what);
        }
    }

    /// The same of what keeps a deletion from any other object.
    fn judge_fence(&mut self, needed: Option<&promises::Needed>, options: &Value) {
        let Some(needed) = needed else { return };
        if let Err(what) = promises::judge_fence(needed, options, &self.record()) {
            self.violation.get_or_insert(what);
        }
    }

    /// The step on record.
    fn record(&self) -> Value {
        let cluster = self.objects.get("kvclusters", CLUSTER);
        cluster.map(|cluster| cluster["status"]["step"].clone()).unwrap_or_default()
    }

    /// Tells people.
    pub fn tell(&self, line: String) {
        self.trace.tell("kubernetes", line);
    }
}

/// The ordinal at the end of a name.
pub fn ordinal(name: &str) -> Option<u32> {
    name.rsplit('-').next()?.parse().ok()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn refused(refusal: &Refusal, request: &Request) -> (StatusCode, Value) {
    let (code, reason) = match refusal {
        Refusal::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
        Refusal::Exists => (StatusCode::CONFLICT, "AlreadyExists"),
        Refusal::Conflict => (StatusCode::CONFLICT, "Conflict"),
        Refusal::Budget => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Refusal::Gone => (StatusCode::GONE, "Expired"),
    };
    let message = format!("{} {}: {reason}", request.kind, request.name);
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code.as_u16(),
    });
    (code, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an operator that has two members go at a time is found, or one that does not ask, and no other. Method: a table
    /// of what is ready, how it is to go, and what has gone before.
    #[test]
    fn one_member_goes_at_a_time() {
        let clock = Arc::new(Clock::new(None));
        let cases = [
            (true, Way::Evicted, None, true),
            (true, Way::Evicted, Some(1), false),
            (true, Way::Evicted, Some(0), true),
            (true, Way::Deleted, None, false),
            (false, Way::Deleted, Some(1), true),
        ];
        for (is_ready, way, gone, is_right) in cases {
            let server = Server::new(clock.clone(), Arc::new(Trace::new(clock.clone(), None)));
            let violation = server.with(|state| {
                let status = if is_ready { "True" } else { "False" };
                let ready = json!({"conditions": [{"type": "Ready", "status": status}]});
                let pod = json!({"metadata": {"name": "demo-0"}, "status": ready});
                let claim = json!({"metadata": {"name": claim_name(0)}});
                state.objects.create("pods", pod).unwrap();
                state.objects.create(CLAIMS, claim).unwrap();
                state.taken.extend(gone);
                state.judge_taking("demo-0", way);
                state.violation.take()
            });
            assert_eq!(violation.is_none(), is_right, "{is_ready} {way:?} {gone:?}: {violation:?}");
        }
    }
}
