//! What is counted of TLS and of connections.

use std::time::Duration;

use kvorum_tls::{Loaded, MaterialError, Reason};
use prometheus::{Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::{Make, buckets};

/// What is counted of TLS and of connections. Clones share it.
#[derive(Clone)]
pub struct TlsMetrics {
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
    handshakes: IntCounterVec,
    seconds: Histogram,
    connections: IntGaugeVec,
    /// Connections of other members by another CA than this node's own.
    old_members: IntGauge,
}

/// A connection that is counted, until it is dropped.
pub struct Held {
    connections: IntGaugeVec,
    port: &'static str,
    tls: &'static str,
    gauge: IntGauge,
    is_old: bool,
    /// Where it is another member's: those that are by another CA.
    old_members: Option<IntGauge>,
}

/// Connections of a port that matter to whoever changes how a cluster speaks TLS.
pub struct Open {
    /// Without TLS.
    pub plain: u32,
    /// Whose certificate is of another CA than this node's own.
    pub old_ca: u32,
}

impl TlsMetrics {
    pub(super) fn new(make: &Make) -> TlsMetrics {
        TlsMetrics {
            expiry: make.gauge_vec(
                "kvorum_tls_certificate_expiry_timestamp_seconds",
                "When a certificate that this node shows ends, in seconds since 1970.",
                &["certificate"],
            ),
            reloads: make.counter_vec(
                "kvorum_tls_reloads_total",
                "Changed TLS files, by whether they were taken: taken, or refused.",
                &["result"],
            ),
            handshakes: make.counter_vec(
                "kvorum_tls_handshakes_total",
                "Handshakes with those who connect, by port and result: ok, or why there is no connection.",
                &["port", "result"],
            ),
            seconds: make.histogram(
                "kvorum_tls_handshake_seconds",
                "Time from the first word of a client's handshake to its end.",
                buckets(0.000_2, 2.0, 15),
            ),
            connections: make.gauge_vec(
                "kvorum_connections",
                "Open connections by port, whether they speak TLS, and by the CA of the other side's certificate: \
                 current is the one of the node's own, old another that is believed.",
                &["port", "tls", "ca"],
            ),
            old_members: IntGauge::new("old_members", "Read by the node itself.").expect("the name is valid"),
        }
    }

    /// A connection without TLS.
    pub fn plain(&self, port: &'static str) -> Held {
        self.held(port, "no", "none")
    }

    /// A connection with TLS, and whether its certificate is of the current CA, if it has one.
    pub fn secured(&self, port: &'static str, by_current_ca: Option<bool>) -> Held {
        let mut held = self.held(port, "yes", by_current_ca.map_or("none", ca));
        held.is_old = by_current_ca == Some(false);
        held
    }

    /// A connection of another member, with TLS.
    pub fn secured_member(&self, port: &'static str, by_current_ca: bool) -> Held {
        let mut held = self.secured(port, Some(by_current_ca));
        self.old_members.add(i64::from(held.is_old));
        held.old_members = Some(self.old_members.clone());
        held
    }

    /// Connections of other members that are by another CA than this node's own.
    pub fn old_members(&self) -> u32 {
        u32::try_from(self.old_members.get()).unwrap_or_default()
    }

    /// The connections of a port that are open now.
    pub fn open(&self, port: &str) -> Open {
        let count = |tls, ca| {
            let count = self.connections.with_label_values(&[port, tls, ca]).get();
            u32::try_from(count).unwrap_or_default()
        };
        Open { plain: count("no", "none"), old_ca: count("yes", "old") }
    }

    fn held(&self, port: &'static str, tls: &'static str, ca: &'static str) -> Held {
        let gauge = self.connections.with_label_values(&[port, tls, ca]);
        gauge.inc();
        Held { connections: self.connections.clone(), port, tls, gauge, is_old: false, old_members: None }
    }

    /// A handshake came to a good end after so long.
    pub fn handshake(&self, port: &str, took: Duration) {
        self.handshakes.with_label_values(&[port, "ok"]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A handshake came to no good end.
    pub fn failed(&self, port: &str, reason: Reason) {
        self.handshakes.with_label_values(&[port, reason.label()]).inc();
    }

    /// These are what the node shows and believes.
    pub fn loaded(&self, loaded: &Loaded) {
        self.expiry.with_label_values(&["member"]).set(loaded.facts().not_after);
        self.expiry.with_label_values(&["ca"]).set(loaded.bundle_not_after());
        if let Some(not_after) = loaded.client_ca_not_after() {
            self.expiry.with_label_values(&["client_ca"]).set(not_after);
        }
        if let Some(outside) = loaded.outside_facts() {
            self.expiry.with_label_values(&["outside"]).set(outside.not_after);
        }
    }

    /// Files have changed.
    pub fn reloaded(&self, outcome: Result<&Loaded, &MaterialError>) {
        let result = if outcome.is_ok() { "taken" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
        if let Ok(loaded) = outcome {
            self.loaded(loaded);
        }
    }
}

impl Held {
    /// Its certificate is of the current CA, or of another.
    pub fn set_ca(&mut self, by_current_ca: bool) {
        let gauge = self.connections.with_label_values(&[self.port, self.tls, ca(by_current_ca)]);
        self.gauge.dec();
        gauge.inc();
        self.gauge = gauge;
        if let Some(old) = &self.old_members {
            old.add(i64::from(!by_current_ca) - i64::from(self.is_old));
        }
        self.is_old = !by_current_ca;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some(old) = &self.old_members {
            old.sub(i64::from(self.is_old));
        }
    }
}

fn ca(is_current: bool) -> &'static str {
    if is_current { "current" } else { "old" }
}
