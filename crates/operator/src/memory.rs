//! What the operator remembers of one cluster between two looks. None of it is needed for safety: an
//! operator that was restarted learns it again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_client::admin::AdminClient;
use kvorum_client::{ConnectOptions, Connecting, Connector, Tcp};

use crate::access::{Issuers, Sent};
use crate::certificates::{Content, Own, own};
use crate::names::PEER_PORT;
use crate::plain;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What nobody has asked about in so many looks is over: pods and claims have a name of their own each time that
/// they are made. A few looks may fail half-way and ask about nothing.
const UNASKED_LOOKS_MAX: u64 = 10;

/// What Kubernetes has refused is not asked for again before.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// Users and rights that a leader has not taken are not declared again before. It may have handed over, so it is soon.
const UNDECLARED_FOR: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Memory {
    /// How nodes are connected to by whoever has another way than their addresses.
    through: Option<ConnectOptions>,
    /// How an address is connected to.
    network: Arc<dyn Connector>,
    /// What this operator shows, and whom it believes, once there is a CA.
    own: Option<Own>,
    /// Who signs the tokens of ServiceAccounts, where users are looked after here.
    issuers: Option<Arc<Issuers>>,
    /// Users and rights as they were declared last.
    declared: Option<Sent>,
    /// Those that were not taken.
    undeclared: Option<Undeclared>,
    /// How long a node may take to answer.
    answer_max: Duration,
    /// For each object that was applied, its hash and the version it had then.
    applied: BTreeMap<&'static str, (String, String)>,
    /// Objects that Kubernetes has refused.
    refused: BTreeMap<&'static str, Refused>,
    /// Since when something has been so without a break.
    since: BTreeMap<String, Lasting>,
    /// Looks so far.
    looks: u64,
    /// Connections, by pod address.
    nodes: BTreeMap<(String, Security), AdminClient>,
    /// Events that were published, so that a wait is told once.
    pub(crate) told: Option<String>,
    /// Connections without TLS, as they were last told of.
    pub(crate) plain: Option<plain::Told>,
}

/// A declaration of users and rights that was not taken.
#[derive(Clone, Debug)]
struct Undeclared {
    fingerprint: u64,
    /// It is not tried again before.
    until: Instant,
    /// Why, and what to do: whole sentences.
    said: String,
}

/// An object that was refused.
#[derive(Clone, Debug)]
struct Refused {
    /// The object's hash.
    hash: String,
    since: Instant,
    /// Why, and what to do: whole sentences.
    said: String,
}

/// Something that holds.
#[derive(Clone, Copy, Debug)]
struct Lasting {
    since: Instant,
    /// The last look that asked about it.
    asked: u64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new(None, ANSWER_MAX)
    }
}

impl Memory {
    /// For whoever reaches pods by another way than their addresses, with TLS by what these options say, and looks after
    /// no certificates.
    pub fn reaching(connect: ConnectOptions, answer_max: Duration) -> Memory {
        Memory::new(Some(connect), answer_max)
    }

    /// For an operator, which knows who signs tokens, and connects to addresses in this way.
    pub fn sharing(issuers: Arc<Issuers>, network: Arc<dyn Connector>) -> Memory {
        Memory { issuers: Some(issuers), network, ..Memory::default() }
    }

    fn new(through: Option<ConnectOptions>, answer_max: Duration) -> Memory {
        Memory {
            through,
            network: Arc::new(Tcp),
            own: None,
            issuers: None,
            declared: None,
            undeclared: None,
            answer_max,
            applied: BTreeMap::new(),
            refused: BTreeMap::new(),
            since: BTreeMap::new(),
            looks: 0,
            nodes: BTreeMap::new(),
            told: None,
            plain: None,
        }
    }

    /// Whether certificates are looked after here.
    pub fn keeps_certificates(&self) -> bool {
        self.through.is_none()
    }

    /// Shows and believes from now on what follows from these objects.
    pub fn renew_own(&mut self, content: &Content, now: i64) {
        let before = self.own.take();
        let same = |a: &Own, b: &Own| a.made() == b.made();
        self.own = own(before.clone(), content, now);
        if !before.iter().zip(&self.own).any(|(before, now)| same(before, now)) {
            self.nodes.retain(|(_, security), _| *security == Security::Plain);
        }
    }

    /// How the pod at this address is connected to; nothing: not at all, since there is no certificate for that yet.
    pub fn connect_options(&self, address: &str, security: Security) -> Option<ConnectOptions> {
        let options = match &self.through {
            Some(options) => options.clone(),
            None => ConnectOptions::new()
                .connector(At { address: address.to_owned(), network: self.network.clone() }),
        };
        match (security, &self.through, &self.own) {
            (Security::Plain, ..) => Some(options.plain()),
            (Security::Tls, Some(_), _) => Some(options),
            (Security::Tls, None, Some(own)) => Some(options.tls(own.tls.clone())),
            (Security::Tls, None, None) => None,
        }
    }

    /// The same for its port for clients.
    pub fn client_options(&self, address: &str, security: Security) -> Option<ConnectOptions> {
        let options = self.connect_options(address, security)?;
        let own = self.own.as_ref().filter(|_| security == Security::Tls && self.through.is_none());
        Some(own.map_or_else(|| options.clone(), |own| options.clone().tls(own.as_root.clone())))
    }

    /// The object is as it was applied, and nobody has touched it since.
    pub fn is_applied(&self, object: &'static str, hash: &str, version: &str) -> bool {
        self.applied.get(object).is_some_and(|(h, v)| h == hash && v == version)
    }

    /// Remembers what was applied.
    pub fn applied(&mut self, object: &'static str, hash: String, version: String) {
        self.refused.remove(object);
        self.applied.insert(object, (hash, version));
    }

    /// Remembers that Kubernetes refuses an object as it should be.
    pub fn refused(&mut self, object: &'static str, hash: String, said: String) {
        self.refused.insert(object, Refused { hash, since: Instant::now(), said });
    }

    /// Why Kubernetes has refused this very object, and whether it is time to ask again.
    pub fn refusal(&self, object: &'static str, hash: &str) -> Option<(&str, bool)> {
        let refused = self.refused.get(object).filter(|refused| refused.hash == hash)?;
        Some((&refused.said, refused.since.elapsed() >= REFUSED_FOR))
    }

    /// Who signs the tokens of ServiceAccounts; nothing where users are not looked after here.
    pub fn issuers(&self) -> Option<Arc<Issuers>> {
        self.issuers.clone()
    }

    /// Users and rights as they were declared last.
    pub fn declared(&self) -> Option<Sent> {
        self.declared
    }

    /// Why this declaration was not taken, while it is not tried again.
    pub fn undeclared(&self, fingerprint: u64) -> Option<String> {
        let undeclared = self.undeclared.as_ref().filter(|it| it.fingerprint == fingerprint);
        undeclared.filter(|it| Instant::now() < it.until).map(|it| it.said.clone())
    }

    /// Remembers what was declared.
    pub fn was_declared(&mut self, sent: Sent) {
        (self.declared, self.undeclared) = (Some(sent), None);
    }

    /// Remembers what was not taken, or perhaps not: whatever else there is to do is done until it is tried again.
    pub fn was_not_declared(&mut self, fingerprint: u64, said: String) {
        self.undeclared = Some(Undeclared { fingerprint, until: Instant::now() + UNDECLARED_FOR, said });
    }

    /// For how long `what` has held; it is forgotten once it does not.
    pub fn lasts(&mut self, what: &str, holds: bool) -> Duration {
        if !holds {
            self.since.remove(what);
            return Duration::ZERO;
        }
        let asked = self.looks;
        match self.since.get_mut(what) {
            Some(lasting) => {
                lasting.asked = asked;
                lasting.since.elapsed()
            }
            None => {
                self.since.insert(what.to_owned(), Lasting { since: Instant::now(), asked });
                Duration::ZERO
            }
        }
    }

    /// `what` held when it was last looked at.
    pub fn holds(&self, what: &str) -> bool {
        self.since.contains_key(what)
    }

    /// A look is over. Forgets what nobody asks about any more, such as a pod that is gone.
    pub fn forget_what_nobody_asks(&mut self) {
        self.looks += 1;
        let looks = self.looks;
        self.since.retain(|_, lasting| looks - lasting.asked <= UNASKED_LOOKS_MAX);
    }

    /// Has it that `what` has held since then.
    #[cfg(test)]
    pub fn since(&mut self, what: &str, then: Instant) {
        self.since.insert(what.to_owned(), Lasting { since: then, asked: self.looks });
    }

    /// Has connections to these pods, each by its address and the name that its certificate has, and lets go of those to
    /// pods that are gone.
    pub fn keep_nodes(&mut self, pods: &[(String, String, Security)]) {
        let wanted = |(address, security): &(String, Security)| {
            pods.iter().any(|(known, _, spoken)| known == address && spoken == security)
        };
        self.nodes.retain(|key, _| wanted(key));
        for (address, name, security) in pods {
            let key = (address.clone(), *security);
            if !self.nodes.contains_key(&key)
                && let Some(options) = self.connect_options(address, *security)
                && let Ok(node) = AdminClient::new(name, self.answer_max)
            {
                self.nodes.insert(key, node.connect_options(options));
            }
        }
    }

    /// The connection to a pod.
    pub fn node(&self, address: &str, security: Security) -> Option<&AdminClient> {
        self.nodes.get(&(address.to_owned(), security))
    }
}

/// How a pod is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Security {
    /// With TLS.
    Tls,
    /// Without.
    Plain,
}

/// Connects to a pod's address, whatever name it is called by: that is for its certificate.
#[derive(Debug)]
struct At {
    address: String,
    network: Arc<dyn Connector>,
}

impl Connector for At {
    fn connect(&self, address: &str) -> Connecting {
        let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
        self.network.connect(&host_port(&self.address, port))
    }
}

/// host:port of a pod's peer port.
pub fn peer_address(address: &str) -> String {
    host_port(address, PEER_PORT)
}

/// host:port of a port at a pod's address, of either IP version.
pub fn host_port(address: &str, port: impl Display) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a cluster whose pods come and go for months costs no more memory than one that was just made.
    #[test]
    fn what_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        for pod in 0..1000 {
            memory.lasts(&format!("deletion of pod {pod}"), true);
            memory.lasts("leaderless", true);
            memory.forget_what_nobody_asks();
            assert!(memory.since.len() as u64 <= UNASKED_LOOKS_MAX + 2, "{} are kept", memory.since.len());
        }
        assert!(memory.since.contains_key("leaderless"), "it lasts");
    }
}
