//! Users and rights: what is declared, what the members have taken, and what the operator remembers of that.

use kvorum_crd::{AuthMode, TlsMode};
use kvorum_operator::access::{AuthState, Sent};
use kvorum_operator::levels;
use kvorum_operator::observed::{Access, NodeTls};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::World;

/// See the module. A declaration is a number, which says by its rest whether rights count.
#[derive(Debug, Clone)]
pub struct Rights {
    wanted: Option<u64>,
    /// As the status has it.
    on_record: AuthMode,
    /// What the members have taken, one after the other: their revision is how much that is.
    taken: Vec<u64>,
    /// As the operator remembers it.
    sent: Option<Sent>,
    /// Pods speak TLS alone from this template on.
    tls_from: u64,
    /// The cluster's feature level.
    level: u32,
    /// The cluster was founded closed, and nothing was declared since.
    closed: bool,
}

impl Rights {
    pub fn new(rng: &mut StdRng) -> Rights {
        Rights {
            wanted: rng.random_bool(0.7).then(|| rng.random_range(1..4)),
            on_record: AuthMode::Disabled,
            taken: Vec::new(),
            sent: None,
            tls_from: rng.random_range(0..4),
            level: if rng.random_bool(0.8) { levels::AUTH } else { levels::AUTH - 1 },
            closed: false,
        }
    }

    /// What a node says of them.
    pub fn state(&self, incarnation: u64) -> AuthState {
        let hash = self.taken.last().copied().unwrap_or_default();
        AuthState { incarnation, revision: self.taken.len() as u64, hash }
    }

    pub fn level(&self) -> u32 {
        self.level
    }

    /// The cluster is founded. Members that know no users do not know what closed is.
    pub fn found(&mut self, closed: bool) {
        self.closed = closed && self.level >= levels::AUTH;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn observe(&self) -> Option<Access> {
        let wanted = self.wanted?;
        Some(Access {
            fingerprint: Some(wanted),
            mode: mode(wanted),
            on_record: self.on_record,
            sent: self.sent,
            ..Access::default()
        })
    }

    /// What goes on record with disks.
    pub fn auth(&self) -> AuthMode {
        match self.wanted {
            Some(wanted) if wanted % 2 == 1 => AuthMode::Required,
            _ => AuthMode::Disabled,
        }
    }

    /// Somebody declares something else.
    pub fn declare(&mut self, rng: &mut StdRng) -> String {
        self.wanted = Some(rng.random_range(0..6));
        format!("rights {:?} are declared", self.wanted)
    }

    /// The operator is started anew.
    pub fn forget(&mut self) {
        self.sent = None;
    }

    /// Somebody else makes users of his own.
    pub fn change(&mut self) {
        if let Some(last) = self.taken.last().copied() {
            self.taken.push(last);
        }
    }

    /// The survivor of a recovery lacks the last change.
    pub fn go_back(&mut self) {
        self.taken.pop();
    }

    /// The status is erased, or is another KvCluster's.
    pub fn erase_record(&mut self) {
        self.on_record = AuthMode::Disabled;
    }

    /// All data is gone.
    pub fn lose(&mut self) {
        self.taken.clear();
    }

    /// A person sees to it that they can be had.
    pub fn correct(&mut self, template: u64) {
        self.level = levels::AUTH;
        self.tls_from = self.tls_from.min(template);
    }

    pub fn are_as_wanted(&self) -> bool {
        self.wanted.is_none_or(|wanted| self.taken.last() == Some(&wanted))
    }
}

fn mode(declaration: u64) -> AuthMode {
    match declaration % 3 {
        0 => AuthMode::Disabled,
        1 => AuthMode::Required,
        _ => AuthMode::Observe,
    }
}

impl World {
    /// How the pod of this template speaks.
    pub(super) fn speaks(&self, template: &str) -> NodeTls {
        let number = template.trim_start_matches('t').split('.').next().and_then(|text| text.parse().ok());
        let mode = if number.unwrap_or(0_u64) < self.rights.tls_from {
            TlsMode::Optional
        } else {
            TlsMode::Required
        };
        NodeTls { mode, ..NodeTls::default() }
    }

    /// What the operator knows and writes down once a declaration of its own was taken. By the first one rights begin to
    /// be looked at, and then every member speaks TLS alone.
    pub fn remember(&mut self, sent: Sent) {
        let mode = mode(sent.fingerprint);
        let begins = mode != AuthMode::Disabled && self.rights.on_record == AuthMode::Disabled;
        let (alive, running) = (self.alive(), self.running());
        let members = running.iter().filter(|(_, volume)| alive.contains(&volume.node_id));
        let mut plain =
            members.filter(|(i, _)| self.speaks(&self.pods[*i].template).mode != TlsMode::Required);
        if let Some((i, _)) = plain.next().filter(|_| begins) {
            self.broken_promise = Some(format!("rights begin to count, and member {i} speaks without TLS"));
        }
        (self.rights.sent, self.rights.on_record) = (Some(sent), mode);
    }

    /// The leader takes a declaration: all that was declared before is replaced.
    pub(super) fn declare(&mut self, fingerprint: u64) -> bool {
        if !self.has_quorum() || self.rights.level < levels::AUTH {
            return false;
        }
        if self.rights.taken.last() != Some(&fingerprint) {
            self.rights.taken.push(fingerprint);
        }
        self.rights.closed = false;
        true
    }
}
