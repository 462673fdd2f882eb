//! What the operator counts, for Prometheus.

use std::time::Duration;

use kvorum_crd::KvClusterStatus;
use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::certificates::Stage;
use crate::observe::Seen;

/// Seconds: a look takes some calls, a change of the membership up to ten seconds.
const BUCKETS: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// The certificates whose end is told.
const CERTIFICATES: [&str; 3] = ["ca", "member", "root"];

/// The operator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    leader: IntGauge,
    reconciles: IntCounterVec,
    seconds: HistogramVec,
    steps: IntCounterVec,
    members: IntGaugeVec,
    ready: IntGaugeVec,
    conditions: IntGaugeVec,
    leaderless: GaugeVec,
    expiry: IntGaugeVec,
    rotation: IntGaugeVec,
    overdue: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid");
            registry.register(Box::new(counter.clone())).expect("each is registered once");
            counter
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect("the names are valid");
            registry.register(Box::new(gauge.clone())).expect("each is registered once");
            gauge
        };
        let cluster = ["namespace", "name"];
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "kvorum_operator_reconcile_seconds",
                "Time that a look at one cluster and its step take",
            )
            .buckets(BUCKETS.to_vec()),
            &["result"],
        )
        .expect("the names are valid");
        registry.register(Box::new(seconds.clone())).expect("each is registered once");
        let leaderless = GaugeVec::new(
            Opts::new(
                "kvorum_operator_cluster_leaderless_seconds",
                "For how long no quorum has confirmed a leader to the operator",
            ),
            &cluster,
        )
        .expect("the names are valid");
        registry.register(Box::new(leaderless.clone())).expect("each is registered once");
        let build = gauge("kvorum_operator_build_info", "The operator's version", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let leader = IntGauge::new(
            "kvorum_operator_is_leader",
            "1 on the operator that holds the Lease and works, 0 on those that stand by",
        )
        .expect("the name is valid");
        registry.register(Box::new(leader.clone())).expect("each is registered once");
        Metrics {
            leader,
            reconciles: counter("kvorum_operator_reconciles_total", "Looks at a cluster", &["result"]),
            steps: counter("kvorum_operator_steps_total", "Steps that were taken", &["kind", "result"]),
            members: gauge("kvorum_operator_cluster_members", "Members that the spec wants", &cluster),
            ready: gauge("kvorum_operator_cluster_ready_members", "Members that are ready", &cluster),
            conditions: gauge(
                "kvorum_operator_cluster_condition",
                "1 where the condition is True, -1 where it is Unknown",
                &["namespace", "name", "condition"],
            ),
            expiry: gauge(
                "kvorum_operator_certificate_expiry_timestamp_seconds",
                "When a certificate ends, in seconds since 1970: ca, member or root",
                &["namespace", "name", "certificate"],
            ),
            rotation: gauge(
                "kvorum_operator_rotation_phase",
                "The step in which the whole CA is replaced: 0 none, 1 Trust, 2 Issue, 3 Drop",
                &cluster,
            ),
            overdue: gauge(
                "kvorum_operator_rotation_overdue_seconds",
                "For how long that step has waited beyond its overlap",
                &cluster,
            ),
            seconds,
            leaderless,
            registry,
        }
    }

    /// Whether this operator is the one that works.
    pub fn holds_lease(&self, holds: bool) {
        self.leader.set(i64::from(holds));
    }

    /// A look ended.
    pub fn reconciled(&self, result: &str, took: Duration) {
        self.reconciles.with_label_values(&[result]).inc();
        self.seconds.with_label_values(&[result]).observe(took.as_secs_f64());
    }

    /// A step was tried.
    pub fn stepped(&self, kind: &str, result: &str) {
        self.steps.with_label_values(&[kind, result]).inc();
    }

    /// What a cluster is like.
    pub fn cluster(&self, seen: &Seen, status: &KvClusterStatus) {
        let labels = [seen.namespace.as_str(), seen.name.as_str()];
        self.members.with_label_values(&labels).set(i64::from(seen.observed.wanted.members));
        self.ready.with_label_values(&labels).set(i64::from(status.ready_members));
        self.leaderless.with_label_values(&labels).set(seen.leaderless.as_secs_f64());
        self.certificates(&labels, seen);
        for condition in &status.conditions {
            let value = match condition.status.as_str() {
                "True" => 1,
                "Unknown" => -1,
                _ => 0,
            };
            self.conditions.with_label_values(&[labels[0], labels[1], &condition.type_]).set(value);
        }
    }

    fn certificates(&self, labels: &[&str; 2], seen: &Seen) {
        let Some(secrets) = &seen.tls.secrets else { return self.forget_certificates(labels[0], labels[1]) };
        let held = &secrets.held;
        let signer = held.authority.there().and_then(|authority| authority.signer.as_ref());
        let ends = [
            (CERTIFICATES[0], signer.map(|ca| ca.not_after)),
            (CERTIFICATES[1], held.members.there().map(|leaf| leaf.not_after)),
            (CERTIFICATES[2], held.root.there().map(|leaf| leaf.not_after)),
        ];
        for (certificate, end) in ends {
            if let Some(end) = end {
                self.expiry.with_label_values(&[labels[0], labels[1], certificate]).set(end);
            }
        }
        let phase = match seen.tls.next.stage {
            Stage::Trust => 1,
            Stage::Issue => 2,
            Stage::Settled if seen.tls.next.drops => 3,
            Stage::Settled => 0,
        };
        self.rotation.with_label_values(labels).set(phase);
        self.overdue.with_label_values(labels).set(seen.tls.next.overdue);
    }

    fn forget_certificates(&self, namespace: &str, name: &str) {
        for certificate in CERTIFICATES {
            let _ = self.expiry.remove_label_values(&[namespace, name, certificate]);
        }
        let _ = self.rotation.remove_label_values(&[namespace, name]);
        let _ = self.overdue.remove_label_values(&[namespace, name]);
    }

    /// A cluster is gone.
    pub fn forget(&self, namespace: &str, name: &str, conditions: &[String]) {
        // A label that was never set is not an error worth telling.
        let _ = self.members.remove_label_values(&[namespace, name]);
        let _ = self.ready.remove_label_values(&[namespace, name]);
        let _ = self.leaderless.remove_label_values(&[namespace, name]);
        self.forget_certificates(namespace, name);
        for condition in conditions {
            let _ = self.conditions.remove_label_values(&[namespace, name, condition]);
        }
    }

    /// As Prometheus reads it.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}
