//! TLS of a node's ports: who is let in, for how long, and what is said and counted of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvorum_tls::{
    Accepted, Bytes, COMPARE_INTERVAL, Fault, Identity, Loaded, MaterialError, MemberTls, Mode, Peer, Port,
    Reason, Reload, TlsPort, is_http1,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::network::Stream;
use crate::blocking::Blocking;
use crate::metrics::{Held, TlsMetrics};

/// Between two lines of the log about connections that fail for one reason.
pub const LOG_PERIOD: Duration = Duration::from_secs(60);
/// How long a connection may go on whose certificate is not good any more, once it was told.
pub const FAREWELL_MAX: Duration = Duration::from_secs(30);
/// A certificate's end is compared with the machine's clock so often at least: the clock may be set meanwhile.
const EXPIRY_CHECK_MAX: Duration = Duration::from_secs(3600);

/// How a node speaks TLS on its ports and to other members.
#[derive(Clone, Debug)]
pub struct NodeTls {
    /// Its certificate, and whom it believes.
    pub member: MemberTls,
    /// Whether it speaks without TLS too.
    pub mode: Mode,
}

/// What stands before a port. Clones are the same door.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    name: &'static str,
    /// Without it every connection is plain.
    tls: Option<TlsPort>,
    metrics: TlsMetrics,
    /// When a line was last written about a reason.
    said: Mutex<HashMap<Reason, Instant>>,
}

/// A connection that was let in.
pub struct Admitted {
    /// Its bytes, without TLS.
    pub io: Box<dyn Bytes>,
    /// Whether it was taken out of TLS, or its network is as good.
    pub secured: bool,
    /// Whether it speaks HTTP/1.1: to scrape metrics.
    pub http1: bool,
    /// Who is at the other end, where a certificate says it.
    pub peer: Option<Arc<Peer>>,
    /// Its place among those that are counted.
    pub held: Held,
}

impl Door {
    /// A door that anybody passes in plain text.
    pub fn open(name: &'static str, metrics: TlsMetrics) -> Door {
        Door::new(name, None, metrics)
    }

    /// A door of a node that speaks TLS.
    pub fn of(tls: Option<&NodeTls>, port: Port, metrics: TlsMetrics) -> Door {
        let name = match port {
            Port::Peer => "peer",
            Port::Client => "client",
        };
        Door::new(name, tls.map(|tls| TlsPort::new(tls.member.clone(), port, tls.mode)), metrics)
    }

    fn new(name: &'static str, tls: Option<TlsPort>, metrics: TlsMetrics) -> Door {
        Door(Arc::new(Inner { name, tls, metrics, said: Mutex::default() }))
    }

    /// Takes part in a connection's handshake, in the caller's task; nothing where it is not let in.
    pub async fn admit(&self, stream: Stream, from: IpAddr) -> Option<Admitted> {
        let Inner { name, tls, metrics, .. } = &*self.0;
        let Some(tls) = tls else {
            let peer = stream.vouched().map(|identity| Arc::new(Peer::vouched(identity)));
            let secured = peer.is_some();
            return Some(Admitted { secured, peer, ..Admitted::plain(stream, metrics.plain(name)) });
        };
        match tls.accept(stream, from).await {
            Ok(Accepted::Plain(stream)) => Some(Admitted::plain(Box::new(stream), metrics.plain(name))),
            Ok(Accepted::Tls(stream, peer, took)) => {
                metrics.handshake(name, took);
                let by_current_ca = peer.as_ref().map(|peer| tls.tls().current().by_current_ca(peer));
                let is_member = peer.as_ref().is_some_and(|peer| peer.identity == Identity::Member);
                let held = match by_current_ca {
                    Some(by_current_ca) if is_member => metrics.secured_member(name, by_current_ca),
                    by_current_ca => metrics.secured(name, by_current_ca),
                };
                let http1 = is_http1(&stream);
                Some(Admitted { io: stream, secured: true, http1, peer: peer.map(Arc::new), held })
            }
            Err(fault) => {
                metrics.failed(name, fault.reason);
                self.tell(&fault, from);
                None
            }
        }
    }

    /// Returns when a connection's certificate has ended, or its CA is believed no more.
    pub async fn until_over(&self, peer: Option<&Arc<Peer>>, held: &mut Held) {
        let (Some(peer), Some(tls)) = (peer, &self.0.tls) else { return std::future::pending().await };
        let mut changes = tls.tls().changes();
        loop {
            let loaded: Arc<Loaded> = changes.borrow_and_update().clone();
            if !loaded.still_takes(tls.port(), peer) {
                return;
            }
            held.set_ca(loaded.by_current_ca(peer));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    // The node goes.
                    return std::future::pending().await;
                },
                () = sleep(peer.time_left().min(EXPIRY_CHECK_MAX)) => {}
            }
        }
    }

    /// One line a minute for each reason: whoever is refused comes again and again.
    fn tell(&self, fault: &Fault, from: IpAddr) {
        if fault.reason == Reason::Left {
            return;
        }
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let last = said.get(&fault.reason);
        if last.is_none_or(|last| last.elapsed() >= LOG_PERIOD) {
            said.insert(fault.reason, Instant::now());
            let (port, reason) = (self.0.name, fault.reason.label());
            tracing::warn!(port, %from, reason, %fault, "a connection was not let in");
        }
    }
}

impl Admitted {
    fn plain(io: Box<dyn Bytes>, held: Held) -> Admitted {
        Admitted { io, secured: false, http1: false, peer: None, held }
    }
}

/// Looks at the files again and again until `stop`, and takes what fits.
pub async fn keep_fresh(
    tls: MemberTls,
    blocking: Blocking,
    metrics: TlsMetrics,
    mut stop: watch::Receiver<bool>,
) {
    metrics.loaded(&tls.current());
    let mut refused = None;
    while !*stop.borrow() {
        let again = tls.clone();
        let Ok(beside) = blocking.run(move || again.reload_beside()).await else { return };
        for outcome in beside {
            told_beside(&tls, outcome, &metrics);
        }
        let again = tls.clone();
        match blocking.run(move || again.reload()).await {
            Ok(Reload::Same) => {}
            Ok(Reload::Taken) => {
                let loaded = tls.current();
                metrics.reloaded(Ok(&loaded));
                tracing::info!(
                    leaf = kvorum_tls::hex(&loaded.leaf_fingerprint()),
                    bundle = kvorum_tls::hex(&loaded.bundle_fingerprint()),
                    until = kvorum_tls::date(loaded.facts().not_after),
                    "the TLS files have changed and were taken"
                );
                refused = None;
            }
            Ok(Reload::Refused(error)) => {
                metrics.reloaded(Err(&error));
                if refused.as_ref() != Some(&error) {
                    tracing::error!(%error, "the TLS files have changed and were not taken; the old ones go on");
                }
                refused = Some(error);
            }
            // The node stops.
            Err(_) => return,
        }
        // A sender that is gone means that the node is.
        let _ = timeout(COMPARE_INTERVAL, stop.changed()).await;
    }
}

/// What others give is not there perhaps, or not yet, and is told of once.
fn told_beside(tls: &MemberTls, outcome: Result<(), MaterialError>, metrics: &TlsMetrics) {
    match outcome {
        Ok(()) => {
            let loaded = tls.current();
            metrics.reloaded(Ok(&loaded));
            let names = loaded.outside_facts().map(|facts| facts.names.join(", "));
            let client_ca = loaded.client_ca_not_after().map(kvorum_tls::date);
            tracing::info!(names, client_ca, "the files of --tls-client-ca or --tls-outside-dir were taken");
        }
        Err(error) => {
            metrics.reloaded(Err(&error));
            tracing::warn!(%error, "files of --tls-client-ca or --tls-outside-dir were not taken; what was there before goes on");
        }
    }
}
