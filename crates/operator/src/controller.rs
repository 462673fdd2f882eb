//! The loop: one cluster, one look, one step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use kvorum_client::{Connector, Tcp};
use kvorum_crd::{KvCluster, KvClusterStatus};
use tokio::sync::{Mutex, watch};

use crate::access::Issuers;
use crate::apply::{ApplyError, apply, kubernetes};
use crate::apply_certificates::{apply_change, done};
use crate::apply_outside::apply_outside;
use crate::events::Events;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::names;
use crate::observe::{Follow, Nodes, ObserveError, Seen, observe};
use crate::options::Options;
use crate::plain;
use crate::plan::{Plan, plan};
use crate::status::status;
use crate::step::Step;
use crate::upgrade::{Key, Look, Upgrades};

/// The next look, after a step.
const AFTER_STEP: Duration = Duration::from_millis(50);
/// The next look while something is waited for that no watch tells of.
const WHILE_WAITING: Duration = Duration::from_secs(1);
/// The next look at a cluster that is as wanted: its nodes may have news that no watch tells of.
const AT_REST: Duration = Duration::from_secs(10);
/// The next look after something was refused.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// A step that was planned longer ago is not taken any more: the look it was planned on is too old.
const LOOK_VALID: Duration = Duration::from_secs(10);

/// What all reconciles share.
pub struct Context {
    client: Client,
    options: Options,
    metrics: Metrics,
    /// Held for a moment only.
    events: std::sync::Mutex<Events<Recorder>>,
    machines: Nodes,
    issuers: Arc<Issuers>,
    /// How members' addresses are connected to.
    network: Arc<dyn Connector>,
    /// Held for a moment only; each cluster's memory is locked while that cluster is looked at, so that
    /// none waits for another.
    clusters: std::sync::Mutex<Memories>,
    /// Held for a moment only.
    upgrades: std::sync::Mutex<Upgrades>,
}

/// A KvCluster, or one that an older definition let through and that cannot be read: it must not end the
/// watch of all others.
type Watched = DeserializeGuard<KvCluster>;

/// By namespace and name.
type Memories = HashMap<Key, Arc<Mutex<Memory>>>;

/// Why a look ended early. It is repeated.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Kubernetes could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The status could not be written.
    #[error("write the status: {0}")]
    Status(ApplyError),
}

impl Context {
    /// For one operator, which reaches members by TCP.
    pub fn new(client: Client, options: Options, metrics: Metrics) -> Context {
        let upgrades = std::sync::Mutex::new(Upgrades::new(Instant::now()));
        let machines = Nodes::watch(client.clone());
        let issuers = Arc::new(Issuers::new(client.clone()));
        Context {
            client,
            options,
            metrics,
            events: std::sync::Mutex::default(),
            machines,
            issuers,
            network: Arc::new(Tcp),
            clusters: std::sync::Mutex::default(),
            upgrades,
        }
    }

    /// Reaches members in another way: through a simulated network.
    pub fn through(self, network: impl Connector) -> Context {
        Context { network: Arc::new(network), ..self }
    }

    fn memory(&self, namespace: &str, name: &str) -> Arc<Mutex<Memory>> {
        let mut clusters = self.clusters.lock().expect("no thread panics while it holds this lock");
        let memory = || {
            let memory = Memory::sharing(self.issuers.clone(), self.network.clone());
            Arc::new(Mutex::new(memory))
        };
        clusters.entry((namespace.to_owned(), name.to_owned())).or_insert_with(memory).clone()
    }

    fn forget(&self, cluster: &Watched, namespace: &str, name: &str) {
        let status = cluster.0.as_ref().ok().and_then(|cluster| cluster.status.as_ref());
        let conditions = status.into_iter().flat_map(|status| &status.conditions);
        let conditions: Vec<String> = conditions.map(|condition| condition.type_.clone()).collect();
        self.metrics.forget(namespace, name, &conditions);
        let mut clusters = self.clusters.lock().expect("no thread panics while it holds this lock");
        let key = (namespace.to_owned(), name.to_owned());
        clusters.remove(&key);
        self.upgrades().forget(&key);
        self.events.lock().expect("no thread panics while it holds this lock").forget(&key);
    }

    fn recorder(&self, seen: &Seen, reason: &str, text: &str) -> Recorder {
        let mut events = self.events.lock().expect("no thread panics while it holds this lock");
        let key = (seen.namespace.clone(), seen.name.clone());
        let new = || Recorder::new(self.client.clone(), names::FIELD_MANAGER.into());
        events.recorder(&key, reason, text, Instant::now(), new)
    }

    fn upgrades(&self) -> std::sync::MutexGuard<'_, Upgrades> {
        self.upgrades.lock().expect("no thread panics while it holds this lock")
    }

    fn follow(&self, key: &Key) -> Follow {
        match self.options.upgrade_clusters && self.upgrades().may_follow(key) {
            true => Follow::Yes,
            false => Follow::No,
        }
    }

    fn looked(&self, key: &Key, seen: &Seen, plan: &Plan) {
        let look = match plan.step == Step::Rest {
            true if seen.update_pending => Look::Pending,
            true => Look::Settled,
            false => Look::Unsettled,
        };
        let begun = seen.cluster.status.as_ref().is_some_and(|status| status.following.is_some());
        self.upgrades().looked(key, look, begun, Instant::now());
    }

    /// The cluster for whose upgrade all others wait in vain.
    fn stopped_at(&self, key: &Key) -> Option<String> {
        let upgrades = self.options.upgrade_clusters.then(|| self.upgrades())?;
        let (namespace, name) = upgrades.stopped_at(Instant::now()).filter(|holder| *holder != key)?;
        Some(format!("{namespace}/{name}"))
    }
}

/// Watches until `stop`, and then lets what is under way come to its end.
pub async fn run(context: Context, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let context = Arc::new(context);
    let (told, stopped) = watch::channel(false);
    let namespaces = context.options.namespaces.clone();
    let ended = async {
        match namespaces.as_slice() {
            [] => watch_all(&context, None, stopped).await,
            some => {
                join_all(some.iter().map(|name| watch_all(&context, Some(name), stopped.clone()))).await;
            }
        }
    };
    let tell = async {
        stop.await;
        told.send_replace(true);
    };
    tokio::join!(ended, tell);
}

/// Watches one namespace, or all.
async fn watch_all(context: &Arc<Context>, namespace: Option<&str>, mut stop: watch::Receiver<bool>) {
    fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
    let client = &context.client;
    let ours = watcher::Config::default().labels(&format!("{}=kvorum", names::LABEL_NAME));
    Controller::new(api::<Watched>(client, namespace), watcher::Config::default())
        .owns(api::<StatefulSet>(client, namespace), ours.clone())
        .watches(api::<Pod>(client, namespace), ours.clone(), |pod| cluster_of(pod.meta()))
        .watches(api::<PersistentVolumeClaim>(client, namespace), ours, |claim| cluster_of(claim.meta()))
        .graceful_shutdown_on(async move {
            // A sender that is gone means that the operator ends.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(reconcile, after_error, context.clone())
        .for_each(async |_| {})
        .await;
}

/// The KvCluster that an object says it belongs to.
fn cluster_of(
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<ObjectRef<Watched>> {
    let name = meta.labels.as_ref()?.get(names::LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(meta.namespace.as_deref()?))
}

/// One look and one step.
async fn reconcile(cluster: Arc<Watched>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let memory = context.memory(&namespace, &name);
    let mut memory = memory.lock().await;
    let key = (namespace.clone(), name.clone());
    let follow = context.follow(&key);
    let seen =
        observe(&context.client, &context.options, &context.machines, &namespace, &name, follow, &mut memory)
            .await?;
    memory.forget_what_nobody_asks();
    let Some(mut seen) = seen else {
        context.forget(&cluster, &namespace, &name);
        return Ok(Action::await_change());
    };
    let certified = certify(&context, &mut seen, begun, &mut memory).await;
    if let Some(said) = plain::tell(&mut memory.plain, plain::left(&seen.observed), &name, Instant::now()) {
        publish(&context, &seen, "PlainConnections", EventType::Normal, said).await;
    }
    let plan = plan(&seen.observed);
    context.looked(&key, &seen, &plan);
    seen.stopped_at = context.stopped_at(&key);
    let outcome = match begun.elapsed() < LOOK_VALID {
        true => apply(&context.client, &seen, &plan.step, &mut memory).await,
        false => Err(ApplyError::Outdated("what was seen".into())),
    };
    tell(&context, &seen, &plan, &outcome, &mut memory).await;
    let status = status(&seen, &plan, &outcome, Timestamp::now());
    context.metrics.cluster(&seen, &status);
    write(&context.client, &seen, &plan, status).await.map_err(ReconcileError::Status)?;
    context.metrics.reconciled(if outcome.is_ok() { "ok" } else { "step_failed" }, begun.elapsed());
    Ok(Action::requeue(if certified { AFTER_STEP } else { pause(&plan, &outcome) }))
}

/// Makes the next change of the certificates, if there is one, and tells of it. Whatever becomes of it, members are looked
/// after as before.
async fn certify(context: &Context, seen: &mut Seen, begun: Instant, memory: &mut Memory) -> bool {
    let idle = seen.observed.deleting || seen.observed.wanted.paused || begun.elapsed() >= LOOK_VALID;
    if idle {
        return false;
    }
    let cluster = format!("{}/{}", seen.namespace, seen.name);
    let kind = "Certificates";
    let outcome = match (&seen.tls.next.change, &seen.tls.secrets) {
        (Some(change), Some(secrets)) => apply_change(&context.client, seen, secrets, change)
            .await
            .map(|()| Some(done(change, &seen.name))),
        _ => apply_outside(&context.client, seen, memory).await,
    };
    let said = match outcome {
        Ok(Some(said)) => said,
        Ok(None) => return false,
        // Another operator was first.
        Err(ApplyError::Outdated(_)) => return true,
        Err(error) => {
            tracing::warn!(cluster, %error, "change the certificates");
            seen.tls.failed = Some(format!("{error}. It is tried again."));
            return false;
        }
    };
    tracing::info!(cluster, step = kind, "{said}");
    context.metrics.stepped(kind, "ok");
    publish(context, seen, kind, EventType::Normal, format!("{said}.")).await;
    true
}

/// Tells people of something, by an event of the KvCluster.
async fn publish(context: &Context, seen: &Seen, kind: &str, type_: EventType, said: String) {
    let recorder = context.recorder(seen, kind, &said);
    let (reason, action) = (kind.to_owned(), kind.to_owned());
    let event = Event { type_, reason, note: Some(said), action, secondary: None };
    if let Err(error) = recorder.publish(&event, &seen.cluster.object_ref(&())).await {
        tracing::warn!(cluster = format!("{}/{}", seen.namespace, seen.name), %error, "publish an event");
    }
}

fn pause(plan: &Plan, outcome: &Result<(), ApplyError>) -> Duration {
    match (outcome, &plan.step) {
        (Err(ApplyError::Outdated(_)), _) => AFTER_STEP,
        (Err(ApplyError::Unknown(_) | ApplyError::Held(_)), _) => WHILE_WAITING,
        (Err(_), _) => AFTER_ERROR,
        (Ok(()), Step::Rest) => AT_REST,
        (Ok(()), Step::Wait) => WHILE_WAITING,
        (Ok(()), _) => AFTER_STEP,
    }
}

fn after_error(cluster: Arc<Watched>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let outdated = matches!(error, ReconcileError::Status(ApplyError::Outdated(_)));
    context.metrics.reconciled(if outdated { "outdated" } else { "error" }, Duration::ZERO);
    if outdated {
        return Action::requeue(AFTER_STEP);
    }
    tracing::warn!(cluster = %ObjectRef::from_obj(&*cluster), %error, "reconcile");
    Action::requeue(AFTER_ERROR)
}

/// Writes the status, if it differs from the one that was seen, and nobody wrote another one since.
async fn write(client: &Client, seen: &Seen, plan: &Plan, status: KvClusterStatus) -> Result<(), ApplyError> {
    let changed = seen.cluster.status.as_ref() != Some(&status);
    // A KvCluster that is deleted is gone with its last finalizer. Until then a risky step, such as the
    // deletion of a claim, is written down first as always.
    let gone = seen.observed.deleting && (!seen.observed.finalizer || plan.step == Step::RemoveFinalizer);
    if !changed || gone {
        return Ok(());
    }
    let mut cluster = seen.cluster.clone();
    cluster.status = Some(status);
    cluster.metadata.managed_fields = None;
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    let api: Api<KvCluster> = Api::namespaced(client.clone(), &seen.namespace);
    api.replace_status(&seen.name, &params, &cluster)
        .await
        .map(drop)
        .map_err(|error| kubernetes("write the status", error))
}

/// Logs and publishes what was done; what is waited for, once.
async fn tell(
    context: &Context,
    seen: &Seen,
    plan: &Plan,
    outcome: &Result<(), ApplyError>,
    memory: &mut Memory,
) {
    let cluster = format!("{}/{}", seen.namespace, seen.name);
    let kind = plan.step.kind();
    if !plan.step.is_idle() {
        context.metrics.stepped(kind, if outcome.is_ok() { "ok" } else { "failed" });
    }
    let said = match outcome {
        Ok(()) if plan.step.is_idle() => plan.reason.clone(),
        Ok(()) => format!("{}. {}", plan.step.done(&seen.name), plan.reason),
        Err(ApplyError::Held(why)) => format!("{}. {why}", plan.step.begun(&seen.name)),
        Err(error @ ApplyError::Unknown(_)) => format!("{}: {error}.", plan.step.begun(&seen.name)),
        Err(error) => format!("{}: {error}. It is tried again.", plan.step.failed(&seen.name)),
    };
    if memory.told.replace(said.clone()).as_ref() == Some(&said) {
        return;
    }
    let fine = matches!(outcome, Ok(()) | Err(ApplyError::Unknown(_) | ApplyError::Held(_)));
    match outcome {
        Err(_) if !fine => tracing::warn!(cluster, step = kind, "{said}"),
        _ => tracing::info!(cluster, step = kind, "{said}"),
    }
    let bookkeeping = matches!(plan.step, Step::Record(_) | Step::Forget(_) | Step::Rest);
    if bookkeeping && outcome.is_ok() {
        return;
    }
    publish(context, seen, kind, if fine { EventType::Normal } else { EventType::Warning }, said).await;
}
