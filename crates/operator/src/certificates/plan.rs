//! The next change of a cluster's certificates: a pure function of what is there.
//!
//! The whole CA is replaced in three steps, each of which begins with one write of `NAME-ca`. **Trust**: the new CA
//! stands beside the old one, whose key still signs. **Issue**: the new one signs, and the old one's key is gone.
//! **Drop**: the old one is gone. A silent member stops it where both are believed, which harms nobody.

use std::collections::{BTreeMap, BTreeSet};

/// A SHA-256, by which operator and members speak of bundles and certificates.
pub type Fingerprint = [u8; 32];

/// Certificates are renewed when so much of their life is left, in seconds: thirty days of ninety.
pub const RENEWED_AHEAD: i64 = 30 * 24 * 3600;
/// A CA is replaced when so much of its life is left, in seconds: a year of five.
pub const ROTATED_AHEAD: i64 = 365 * 24 * 3600;
/// The old CA goes once no client has shown a certificate of it for so long, in seconds.
pub const QUIET_SECONDS: i64 = 600;
/// Names of users who are gone are kept, up to so many in all; each costs a read in each look.
const BEGUN_MAX: usize = 512;
/// What a token begins with whose rotation does not wait for clients: the CA's key was stolen.
pub(super) const URGENT: &str = "urgent:";

/// An object that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot<T> {
    /// It is not.
    Absent,
    /// It is there and cannot be used: why.
    Broken(String),
    /// It is somebody else's, or cannot be read: why, and what to do, as sentences.
    Withheld(String),
    /// It is there.
    There(T),
}

impl<T> Slot<T> {
    /// What is there.
    pub fn there(&self) -> Option<&T> {
        match self {
            Slot::There(there) => Some(there),
            _ => None,
        }
    }
}

/// A CA's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// Its name and its key's identifier, as the certificates that it signs have them.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// What `NAME-ca` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Whose key signs; none where that was lost, until the next one may.
    pub signer: Option<Ca>,
    /// Who signs next.
    pub next: Option<Ca>,
    /// There is another CA that is still believed.
    pub old: bool,
    /// The old CA has signed the next one's name and key.
    pub crossed: bool,
    /// The token of the last rotation that a person asked for.
    pub token: Option<String>,
    /// Since when what the present step publishes has been there, in seconds since 1970.
    pub since: Option<i64>,
    /// The SHA-256 of all CAs that are believed.
    pub bundle: Fingerprint,
    /// It goes with the KvCluster.
    pub goes_with_cluster: bool,
    /// The users for whom a Secret with a certificate was begun, and may be there.
    pub users: BTreeSet<String>,
}

/// How far the replacement of the CA is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// There is one CA. Where members report another bundle yet, the last step is not over.
    #[default]
    Settled,
    /// The next one is believed too.
    Trust,
    /// The next one signs.
    Issue,
}

impl Authority {
    /// How far its replacement is.
    pub fn stage(&self) -> Stage {
        match (&self.next, self.old) {
            (Some(_), _) => Stage::Trust,
            (None, true) => Stage::Issue,
            (None, false) => Stage::Settled,
        }
    }

    fn is_urgent(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.starts_with(URGENT))
    }
}

/// A Secret with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Who signed it, see [`Ca::id`].
    pub issuer: String,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// It is for whom and for which names it should be.
    pub fits: bool,
    /// The cross certificate stands behind it.
    pub crossed: bool,
    /// The SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// The SHA-256 of the CAs beside it.
    pub bundle: Fingerprint,
}

/// What is there of a cluster's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// `NAME-ca`.
    pub authority: Slot<Authority>,
    /// `NAME-member-tls`.
    pub members: Slot<Leaf>,
    /// `NAME-root-tls`.
    pub root: Slot<Leaf>,
    /// The Secrets with certificates of users, by their names: of those that are wanted, and of those that were begun.
    pub users: BTreeMap<String, Slot<Leaf>>,
    /// The ConfigMap: the SHA-256 of the CAs in it.
    pub bundle: Slot<Fingerprint>,
}

/// What a member says that it has loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The SHA-256 of the CAs that it believes.
    pub bundle: Fingerprint,
    /// The SHA-256 of the certificate that it shows.
    pub leaf: Fingerprint,
    /// Connections of other members by another CA than its own certificate's.
    pub old_ca_peers: u32,
    /// Those of clients.
    pub old_ca_clients: u32,
}

/// Everything that the next change is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What is there.
    pub held: Held,
    /// Each pod, and each member of the committed membership: what it says, if it answers.
    pub members: Vec<(String, Option<Report>)>,
    /// No membership step is under way.
    pub settled: bool,
    /// The users who are to have a certificate.
    pub users: BTreeSet<String>,
    /// `NAME-ca` is to stay when the KvCluster goes.
    pub retain: bool,
    /// The token of a rotation that a person asks for.
    pub token: Option<String>,
    /// How long both CAs are believed before and after the next one signs, in seconds.
    pub overlap: i64,
    /// For how long no client has shown a certificate of the old CA, in seconds.
    pub quiet: i64,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make `NAME-ca`: the first CA.
    Found,
    /// Make the next CA, beside the one that signs or, where that is lost, beside those that members believe.
    Trust {
        /// The old CA's key is lost.
        lost: bool,
        /// The token for which it is done.
        token: Option<String>,
    },
    /// Write down that what the present step publishes is there.
    Mark,
    /// The next CA signs.
    Issue,
    /// The old CA goes.
    Drop,
    /// Have `NAME-ca` go with the KvCluster, or stay.
    Own,
    /// Write `NAME-member-tls`.
    Members {
        /// With a new certificate and key.
        renew: bool,
    },
    /// Write `NAME-root-tls`.
    Root {
        /// With a new certificate and key.
        renew: bool,
    },
    /// Write down in `NAME-ca` for whom certificates are begun, before one is made: no Secret is found again that nobody
    /// knows the name of.
    Users(BTreeSet<String>),
    /// Write a user's Secret.
    User {
        /// His name.
        name: String,
        /// With a new certificate and key.
        renew: bool,
    },
    /// Delete a user's Secret.
    Revoke {
        /// His name.
        name: String,
    },
    /// Write the ConfigMap.
    Bundle,
}

/// Something that a person should see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A word for machines.
    pub reason: &'static str,
    /// What is wrong and what to do, as sentences.
    pub message: String,
}

/// What comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The change.
    pub change: Option<Change>,
    /// What is waited for, as part of a sentence.
    pub waiting: Option<String>,
    /// What stands in the way.
    pub problem: Option<Problem>,
    /// Members can be started with what is there.
    pub ready: bool,
    /// How far the replacement of the CA is.
    pub stage: Stage,
    /// The last step of a replacement is not over: members believe the old CA yet.
    pub drops: bool,
    /// For how long the present step has waited beyond its overlap, in seconds.
    pub overdue: i64,
}

/// The next change.
pub fn next(look: &Look) -> Next {
    let held = &look.held;
    let withheld = [said(&held.authority), said(&held.members), said(&held.root), said(&held.bundle)];
    if let Some(message) = withheld.into_iter().flatten().next() {
        let problem = Some(Problem { reason: "Withheld", message: message.to_owned() });
        return Next { problem, ..Next::default() };
    }
    let Some(authority) = held.authority.there() else {
        let lost = held.members.there().is_some();
        let change = if lost { Change::Trust { lost, token: look.token.clone() } } else { Change::Found };
        return Next { change: Some(change), problem: broken(held), ..Next::default() };
    };
    let written = written(look, authority);
    // Somebody else's Secret keeps one user from his certificate, and nobody else.
    let withheld = look.users.iter().find_map(|name| held.users.get(name).and_then(said));
    let withheld = withheld.map(|said| Problem { reason: "Withheld", message: said.to_owned() });
    let mut next = Next {
        ready: held.members.there().is_some() && held.root.there().is_some(),
        stage: authority.stage(),
        problem: broken(held).or(withheld),
        ..Next::default()
    };
    if let Some(change) = written {
        return Next { change: Some(change), ..next };
    }
    let Some(since) = authority.since else { return Next { change: Some(Change::Mark), ..next } };
    let held_for = look.now - since;
    let overlap = if authority.is_urgent() { 0 } else { look.overlap };
    let (change, waiting) = match next.stage {
        Stage::Settled => settled(look, authority),
        Stage::Trust => trust(look, authority, overlap - held_for),
        Stage::Issue => issue(look, authority, overlap - held_for),
    };
    next.drops = next.stage == Stage::Settled && waiting.is_some();
    let waits_from = if next.stage == Stage::Settled { 0 } else { overlap };
    if waiting.is_some() {
        next.overdue = (held_for - waits_from).max(0);
    }
    Next { change, waiting, ..next }
}

fn said<T>(slot: &Slot<T>) -> Option<&str> {
    match slot {
        Slot::Withheld(said) => Some(said),
        _ => None,
    }
}

fn broken(held: &Held) -> Option<Problem> {
    fn why<T>(slot: &Slot<T>) -> Option<&str> {
        match slot {
            Slot::Broken(why) => Some(why),
            _ => None,
        }
    }
    let all = [why(&held.authority), why(&held.members), why(&held.root), why(&held.bundle)];
    let why = all.into_iter().flatten().next()?;
    Some(Problem { reason: "Broken", message: format!("{why}. It is made anew.") })
}

/// What follows from `NAME-ca`, whatever its step: whoever wrote that last, the rest is the same.
fn written(look: &Look, authority: &Authority) -> Option<Change> {
    if authority.goes_with_cluster == look.retain {
        return Some(Change::Own);
    }
    if let Some(renew) = is_due(look, authority, &look.held.members) {
        return Some(Change::Members { renew });
    }
    if let Some(renew) = is_due(look, authority, &look.held.root) {
        return Some(Change::Root { renew });
    }
    if look.held.bundle.there() != Some(&authority.bundle) {
        return Some(Change::Bundle);
    }
    users(look, authority)
}

/// What follows for users.
fn users(look: &Look, authority: &Authority) -> Option<Change> {
    let (wanted, begun) = (&look.users, &authority.users);
    if !wanted.is_subset(begun) {
        return Some(Change::Users(wanted | begun));
    }
    let slot = |name: &String| look.held.users.get(name);
    let ours = |name: &&String| slot(name).is_some_and(|slot| said(slot).is_none());
    for name in wanted.iter().filter(ours) {
        if let Some(renew) = slot(name).and_then(|slot| is_due(look, authority, slot)) {
            return Some(Change::User { name: name.clone(), renew });
        }
    }
    let mut gone = BTreeSet::new();
    for name in begun - wanted {
        match slot(&name) {
            Some(Slot::There(_) | Slot::Broken(_)) => return Some(Change::Revoke { name }),
            Some(Slot::Absent | Slot::Withheld(_)) => _ = gone.insert(name),
            // It was not looked for.
            None => {}
        }
    }
    // An operator that is late may yet make a Secret that is gone, which is found only by its name here.
    (begun.len() > BEGUN_MAX && !gone.is_empty()).then(|| Change::Users(begun - &gone))
}

/// Whether a Secret is to be written, and then whether with a new certificate.
fn is_due(look: &Look, authority: &Authority, slot: &Slot<Leaf>) -> Option<bool> {
    let Some(leaf) = slot.there() else { return Some(true) };
    // Without the old CA's key nothing can be signed that all members believe: what is there serves on.
    let renew = authority.signer.as_ref().is_some_and(|signer| {
        leaf.issuer != signer.id || !leaf.fits || leaf.not_after - look.now < RENEWED_AHEAD
    });
    let crossed = authority.stage() == Stage::Issue && authority.crossed;
    (renew || leaf.bundle != authority.bundle || leaf.crossed != crossed).then_some(renew)
}

fn settled(look: &Look, authority: &Authority) -> (Option<Change>, Option<String>) {
    let asked = look.token.as_ref().filter(|token| Some(*token) != authority.token.as_ref());
    let ends = authority.signer.as_ref().is_none_or(|ca| ca.not_after - look.now < ROTATED_AHEAD);
    if asked.is_some() || ends {
        let token = asked.cloned().or_else(|| authority.token.clone());
        return (Some(Change::Trust { lost: false, token }), None);
    }
    // The last step is over once nobody believes the old CA any more. Who does not answer now loads what is there.
    let behind = look
        .members
        .iter()
        .filter(|(_, report)| report.is_some_and(|report| report.bundle != authority.bundle));
    (None, behind.map(|(pod, _)| format!("member {pod} to let go of the old CA")).next())
}

fn trust(look: &Look, authority: &Authority, left: i64) -> (Option<Change>, Option<String>) {
    let waits = unloaded(look, authority, false)
        .or_else(|| unsettled(look))
        .or_else(|| (left > 0).then(|| format!("the overlap of both CAs, for {}", time(left))));
    (waits.is_none().then_some(Change::Issue), waits)
}

fn issue(look: &Look, authority: &Authority, left: i64) -> (Option<Change>, Option<String>) {
    let clients = || {
        let quiet = QUIET_SECONDS - look.quiet;
        let left = quiet.min(left);
        (left > 0 && !authority.is_urgent()).then(|| {
            format!(
                "the end of clients' connections with certificates of the old CA, for {} at most",
                time(left)
            )
        })
    };
    let waits = unloaded(look, authority, true).or_else(|| unsettled(look)).or_else(clients);
    (waits.is_none().then_some(Change::Drop), waits)
}

/// The first member that has not loaded what is published.
fn unloaded(look: &Look, authority: &Authority, leaf: bool) -> Option<String> {
    let expected = look.held.members.there().map(|leaf| leaf.fingerprint);
    look.members.iter().find_map(|(pod, report)| match report {
        None => Some(format!("member {pod} to answer")),
        Some(report) if report.bundle != authority.bundle => Some(format!("member {pod} to load the CAs")),
        Some(report) if leaf && Some(report.leaf) != expected => {
            Some(format!("member {pod} to load its certificate of the new CA"))
        }
        Some(report) if leaf && report.old_ca_peers > 0 => {
            Some(format!("the end of {} connections of members to {pod} by the old CA", report.old_ca_peers))
        }
        Some(_) => None,
    })
}

fn unsettled(look: &Look) -> Option<String> {
    (!look.settled).then(|| "a change of the membership to end".to_owned())
}

/// A time that is left, in words that do not change with each look.
fn time(seconds: i64) -> String {
    match seconds {
        ..=60 => "a minute".to_owned(),
        61..=3600 => format!("{} min", (seconds + 59) / 60),
        _ => format!("{} h", (seconds + 3599) / 3600),
    }
}
