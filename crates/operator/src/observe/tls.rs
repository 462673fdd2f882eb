//! Whether a cluster speaks TLS, and how far it is with that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kvorum_crd::{Keep, KvCluster, TlsMode};

use super::objects::Objects;
use super::outside::Outside;
use super::secrets::Secrets;
use crate::certificates::{Look, Members, Next, QUIET_SECONDS, Report, Speak, next, speak};
use crate::memory::Memory;
use crate::names;
use crate::observed::{Node, NodeTls};

/// How long both CAs are believed where the spec does not say it.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// What was seen of TLS.
#[derive(Debug, Default)]
pub struct Tls {
    /// What pods are made for, and what more waits for.
    pub speak: Option<Speak>,
    /// The certificates, where the cluster has or is to have some and the operator looks after them.
    pub secrets: Option<Secrets>,
    /// What comes next with them.
    pub next: Next,
    /// What others give.
    pub outside: Outside,
    /// Why the last change of them was not made.
    pub failed: Option<String>,
}

impl Tls {
    /// What pods are made for.
    pub fn mode(&self) -> TlsMode {
        self.speak.as_ref().map(|speak| speak.mode).unwrap_or_default()
    }
}

/// What pods were made for when they were made last; nothing where there are neither pods nor disks of members. A claim
/// that nothing is written on yet says nothing: the first pods may be being made at this moment.
pub fn on_record(objects: &Objects) -> Option<TlsMode> {
    let of_set = objects.set.as_ref().map(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
        let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
        annotations.and_then(|all| all.get(names::TLS)).map(|text| mode(text)).unwrap_or_default()
    });
    let of_pods = || objects.pods.values().map(of_pod).max();
    let of_claims = || objects.disks().iter().map(|claim| claim.tls).max();
    of_set.or_else(of_pods).or_else(of_claims)
}

/// What a pod was made for.
pub fn of_pod(pod: &Pod) -> TlsMode {
    pod.annotations().get(names::TLS).map(|text| mode(text)).unwrap_or_default()
}

/// An annotation's word.
pub fn mode(text: &str) -> TlsMode {
    match text {
        names::TLS_OPTIONAL => TlsMode::Optional,
        names::TLS_REQUIRED => TlsMode::Required,
        _ => TlsMode::Disabled,
    }
}

/// Whether there is anything to do about TLS.
pub fn concerns(cluster: &KvCluster, objects: &Objects) -> bool {
    let record = on_record(objects);
    let goal = cluster.spec.tls.mode.or(record).unwrap_or(TlsMode::Required);
    let pods = objects.pods.values().map(of_pod).max();
    goal.max(record.max(pods).unwrap_or_default()) != TlsMode::Disabled
}

/// What is seen of it. `nodes`: what the members that answered said.
pub fn look(
    cluster: &KvCluster,
    objects: &Objects,
    nodes: &BTreeMap<u32, Node>,
    secrets: Option<Secrets>,
    now: i64,
    memory: &mut Memory,
) -> Tls {
    let (reports, settled) = reports(cluster, objects, nodes);
    let old_clients =
        nodes.values().filter_map(|node| node.tls).map(|tls| tls.report.old_ca_clients).sum::<u32>();
    let quiet = memory.lasts("no client by the old CA", secrets.is_some() && old_clients == 0).as_secs();
    let next = match &secrets {
        Some(secrets) => next(&Look {
            held: secrets.held.clone(),
            members: reports,
            settled,
            users: users(cluster),
            retain: cluster.spec.storage.when_deleted == Keep::Retain,
            token: cluster.annotations().get(names::ROTATE_CA).cloned().filter(|token| !token.is_empty()),
            overlap: overlap(cluster),
            quiet: i64::try_from(quiet).unwrap_or(QUIET_SECONDS),
            now,
        }),
        // Whoever only looks on trusts that the operator has made what it needs.
        None => Next { ready: true, ..Next::default() },
    };
    let members = Members {
        none: objects.set.is_none() && objects.pods.is_empty(),
        pods: objects.pods.values().map(of_pod).collect(),
        plain: plain(cluster, objects, nodes),
    };
    let speak = speak(cluster.spec.tls.mode, on_record(objects), next.ready, &members);
    Tls { speak: Some(speak), secrets, next, outside: Outside::default(), failed: None }
}

/// Who is to have a certificate.
pub fn users(cluster: &KvCluster) -> BTreeSet<String> {
    let entries = cluster.spec.access.iter().filter(|entry| entry.certificate);
    entries.map(|entry| entry.name.clone()).collect()
}

/// How long both CAs are believed, in seconds.
fn overlap(cluster: &KvCluster) -> i64 {
    let text = cluster.spec.tls.overlap.as_deref();
    let overlap = text.and_then(|text| humantime::parse_duration(text).ok()).unwrap_or(OVERLAP);
    i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX)
}

/// What every pod and every member says of its certificates; and whether no change of the membership is under way.
fn reports(
    cluster: &KvCluster,
    objects: &Objects,
    nodes: &BTreeMap<u32, Node>,
) -> (Vec<(String, Option<Report>)>, bool) {
    let name = cluster.name_any();
    let leads = |node: &&Node| node.confirmed && node.role == crate::observed::Role::Leader;
    let leader = nodes.values().filter(leads).max_by_key(|node| node.term);
    let members = leader.map(|leader| &leader.membership);
    let of_members = members.iter().flat_map(|membership| &membership.nodes);
    let of_members: Vec<(u64, Option<u32>)> = of_members.map(|(id, ordinal)| (*id, *ordinal)).collect();
    let ordinals = objects.pods.keys().copied().chain(of_members.iter().filter_map(|(_, ordinal)| *ordinal));
    let ordinals: BTreeSet<u32> = ordinals.collect();
    let report = |ordinal: &u32| {
        let node = nodes.get(ordinal)?;
        // A member whose disk is being replaced has not said anything yet, whoever answers in its place.
        let others = of_members.iter().any(|(id, at)| *at == Some(*ordinal) && *id != node.node_id);
        if others { None } else { node.tls.map(|tls| tls.report) }
    };
    let reports = ordinals.iter().map(|ordinal| (names::pod(&name, *ordinal), report(ordinal))).collect();
    let step = cluster.status.as_ref().is_some_and(|status| status.step.is_some());
    let settled = !step && members.is_some_and(|membership| membership.configs.len() == 1);
    (reports, settled)
}

/// Why members and operator do not speak TLS alone among each other yet.
fn plain(cluster: &KvCluster, objects: &Objects, nodes: &BTreeMap<u32, Node>) -> Option<String> {
    let set = objects.set.as_ref().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or_default();
    let count = (set.max(0) as u32).max(objects.pods.keys().last().map_or(0, |last| last + 1));
    (0..count).find_map(|ordinal| {
        let pod = names::pod(&cluster.name_any(), ordinal);
        match nodes.get(&ordinal).map(|node| node.tls) {
            None => Some(format!("member {pod} to answer")),
            Some(None) => Some(format!("member {pod} to speak TLS, which its image may not know")),
            Some(Some(NodeTls { plain_peers: 0, .. })) => None,
            Some(Some(tls)) => Some(format!(
                "the end of {} connections without TLS to the port for members of {pod}",
                tls.plain_peers
            )),
        }
    })
}

/// Clients' connections without TLS, where both are taken.
pub fn plain_clients<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<i64> {
    let known: Vec<NodeTls> = nodes.filter_map(|node| node.tls).collect();
    let optional = known.iter().any(|tls| tls.mode == TlsMode::Optional);
    optional.then(|| known.iter().map(|tls| i64::from(tls.plain_clients)).sum())
}
