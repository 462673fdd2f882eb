//! What the objects of a cluster's certificates hold, and what a change puts into them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Made, MakeError, Subject};
use kvorum_tls::{Facts, Identity, ROOT, check_member, check_pair, pem_fingerprint, pem_leaf_fingerprint};

use super::plan::{Authority, Ca, Change, Leaf, Slot, Stage, URGENT};
use super::{BUNDLE, CERTIFICATE, KEY};
use crate::names;

/// The keys of `NAME-ca`, beside the signing CA's certificate and key.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// CAs that are still believed and sign nothing more.
const OLD: &str = "old.crt";
/// The next CA's name and key, signed by the old one.
const CROSS: &str = "cross.crt";
/// The token of the last rotation.
const TOKEN: &str = "token";
/// Since when what the present step publishes has been there, in seconds since 1970.
const SINCE: &str = "since";
/// The users for whom a Secret was begun, with commas in between.
const USERS: &str = "users";

/// An object's data, by key.
pub type Data = BTreeMap<String, String>;

/// What `NAME-ca` holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthorityData {
    signer: Option<Made>,
    next: Option<Made>,
    old: Option<String>,
    cross: Option<String>,
    token: Option<String>,
    since: Option<i64>,
    /// Users for whom a Secret was begun.
    pub users: BTreeSet<String>,
}

impl fmt::Debug for AuthorityData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityData(***)")
    }
}

/// What a Secret with a certificate holds.
#[derive(Clone, PartialEq, Eq)]
pub struct LeafData {
    certificate: String,
    key: String,
    /// The CAs beside it.
    pub bundle: String,
}

impl fmt::Debug for LeafData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafData(***)")
    }
}

/// Which object a change is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `NAME-ca`, the Secret.
    Authority,
    /// `NAME-member-tls`.
    Members,
    /// `NAME-root-tls`.
    Root,
    /// `NAME-USER-tls`.
    User(String),
    /// `NAME-ca`, the ConfigMap.
    Bundle,
}

/// What is in the objects now.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Of `NAME-ca`.
    pub authority: Option<AuthorityData>,
    /// Of `NAME-member-tls`.
    pub members: Option<LeafData>,
    /// Of `NAME-root-tls`.
    pub root: Option<LeafData>,
    /// Of `NAME-USER-tls`, by the user.
    pub users: BTreeMap<String, LeafData>,
}

/// Why a change cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// A certificate cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The objects do not hold what the change was planned for.
    #[error("what the certificates were made of has changed")]
    Changed,
}

impl AuthorityData {
    /// Reads it, and checks that certificates and keys fit together.
    ///
    /// # Errors
    /// What is wrong with it, as part of a sentence.
    pub fn read(data: &Data) -> Result<AuthorityData, String> {
        let text = |key: &str| data.get(key).filter(|text| !text.is_empty()).cloned();
        let pair = |certificate: &str, key: &str| match (text(certificate), text(key)) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                check_pair(&certificate, &certificate, &key).map_err(|error| error.to_string())?;
                Ok(Some(Made { certificate, key }))
            }
            _ => Err(format!("it has only one of {certificate} and {key}")),
        };
        let read = AuthorityData {
            signer: pair(CERTIFICATE, KEY)?,
            next: pair(NEXT_CERTIFICATE, NEXT_KEY)?,
            old: text(OLD),
            cross: text(CROSS),
            token: text(TOKEN),
            since: text(SINCE).and_then(|text| text.parse().ok()),
            users: text(USERS).iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
        };
        if read.signer.is_none() && read.next.is_none() {
            return Err("it holds no CA".into());
        }
        for certificates in read.old.iter().chain(&read.cross) {
            Facts::all_of_pem(certificates).map_err(|error| error.to_string())?;
        }
        Ok(read)
    }

    /// As the Secret has it.
    pub fn data(&self) -> Data {
        let pair = |made: &Option<Made>, certificate: &str, key: &str| {
            let made = made.iter();
            let pairs =
                made.flat_map(|made| [(certificate, made.certificate.clone()), (key, made.key.clone())]);
            pairs.map(|(key, text)| (key.to_owned(), text)).collect::<Vec<_>>()
        };
        let texts = [(OLD, self.old.clone()), (CROSS, self.cross.clone()), (TOKEN, self.token.clone())];
        let users: Vec<&str> = self.users.iter().map(String::as_str).collect();
        let users = (!users.is_empty()).then(|| users.join(","));
        let since = self.since.map(|since| since.to_string());
        let texts = texts.into_iter().chain([(SINCE, since), (USERS, users)]);
        let texts = texts.filter_map(|(key, text)| Some((key.to_owned(), text?)));
        let pairs = pair(&self.signer, CERTIFICATE, KEY).into_iter();
        pairs.chain(pair(&self.next, NEXT_CERTIFICATE, NEXT_KEY)).chain(texts).collect()
    }

    /// All CAs that are believed, in PEM, the one that signs first.
    pub fn bundle(&self) -> String {
        let certificate = |made: &Option<Made>| made.as_ref().map(|made| made.certificate.clone());
        [certificate(&self.signer), certificate(&self.next), self.old.clone()].into_iter().flatten().collect()
    }

    /// Who signs; where the signer's key is lost, the next one.
    pub fn signer(&self) -> Option<&Made> {
        self.signer.as_ref().or(self.next.as_ref())
    }

    /// Whether the key of who signed so far is lost: what members hold is by a CA that signs nothing more.
    pub fn lost_its_signer(&self) -> bool {
        self.signer.is_none()
    }

    /// As the plan sees it.
    pub fn facts(&self, goes_with_cluster: bool) -> Option<Authority> {
        let ca = |made: &Option<Made>| {
            let facts = Facts::of_pem(&made.as_ref()?.certificate).ok()?;
            Some(Ca { id: facts.subject, not_after: facts.not_after })
        };
        Some(Authority {
            signer: ca(&self.signer),
            next: ca(&self.next),
            old: self.old.is_some(),
            crossed: self.cross.is_some(),
            token: self.token.clone(),
            since: self.since,
            bundle: pem_fingerprint(&self.bundle()).ok()?,
            goes_with_cluster,
            users: self.users.clone(),
        })
    }

    fn stage(&self) -> Stage {
        self.facts(true).map_or(Stage::Settled, |facts| facts.stage())
    }
}

impl LeafData {
    /// Reads it, and checks that it all fits together. `subject`: whose it should be.
    ///
    /// # Errors
    /// What is wrong with it, as part of a sentence.
    pub fn read(data: &Data, subject: &Subject) -> Result<(LeafData, Leaf), String> {
        let text = |key: &str| data.get(key).cloned().ok_or_else(|| format!("it has no {key}"));
        let read = LeafData { certificate: text(CERTIFICATE)?, key: text(KEY)?, bundle: text(BUNDLE)? };
        let checked = match subject {
            Subject::Member(_) => check_member(&read.bundle, &read.certificate, &read.key),
            Subject::User(_) | Subject::Operator => check_pair(&read.bundle, &read.certificate, &read.key),
        };
        checked.map_err(|error| error.to_string())?;
        let all = Facts::all_of_pem(&read.certificate).map_err(|error| error.to_string())?;
        let facts = all.first().ok_or("it has no certificate")?;
        let fits = match subject {
            Subject::Member(names) => facts.identity() == Identity::Member && facts.names == *names,
            Subject::User(name) => facts.identity() == Identity::User(name.clone()),
            Subject::Operator => facts.identity() == Identity::Operator,
        };
        let fingerprint = pem_leaf_fingerprint(&read.certificate).map_err(|error| error.to_string())?;
        let leaf = Leaf {
            issuer: facts.issuer.clone(),
            not_after: facts.not_after,
            fits,
            crossed: all.len() > 1,
            fingerprint,
            bundle: pem_fingerprint(&read.bundle).map_err(|error| error.to_string())?,
        };
        Ok((read, leaf))
    }
}

/// The names and addresses by which a cluster's members are reached, in their order in a certificate.
pub fn leaf_names(cluster: &str, namespace: &str, domain: &str) -> Vec<String> {
    let peers = names::peers_service(cluster);
    let services = [format!("*.{peers}.{namespace}.svc"), format!("{cluster}.{namespace}.svc")];
    let mut all: Vec<String> = services.iter().map(|name| format!("{name}.{domain}")).collect();
    all.extend(services);
    all.extend([cluster.to_owned(), format!("{cluster}.{namespace}")]);
    all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    all.sort_unstable();
    all.dedup();
    all
}

/// What a change puts into its object, all of it. `number` makes a new CA's name one of its own.
///
/// # Errors
/// A certificate cannot be made, or the objects hold something else than the change was planned for.
pub fn made(
    change: &Change,
    content: &Content,
    cluster: &str,
    names: &[String],
    number: u32,
    now: i64,
) -> Result<(Target, Data), Unmade> {
    let authority = || content.authority.clone().ok_or(Unmade::Changed);
    let ca = || make::ca(&format!("{cluster} ca-{number:08x}"), CA_LIFE);
    let changed = match change {
        Change::Found => AuthorityData { signer: Some(ca()?), since: Some(now), ..AuthorityData::default() },
        Change::Trust { lost: true, token } => {
            let old = content.members.as_ref().map(|members| members.bundle.clone());
            let (next, old) = (Some(ca()?), Some(old.ok_or(Unmade::Changed)?));
            AuthorityData { next, old, token: token.clone(), ..AuthorityData::default() }
        }
        Change::Users(users) => AuthorityData { users: users.clone(), ..authority()? },
        Change::Trust { lost: false, token } => {
            let (before, next) = (authority()?, ca()?);
            let users = before.users;
            let signer = before.signer.ok_or(Unmade::Changed)?;
            let urgent = token.as_ref().is_some_and(|token| token.starts_with(URGENT));
            let cross = if urgent { None } else { Some(make::cross(&signer, &next)?) };
            let (signer, next) = (Some(signer), Some(next));
            AuthorityData { signer, next, cross, token: token.clone(), users, ..AuthorityData::default() }
        }
        Change::Mark => AuthorityData { since: Some(now), ..authority()? },
        Change::Issue => {
            let before = authority()?;
            let certificates = before.signer.map(|signer| signer.certificate).into_iter().chain(before.old);
            let (signer, old) = (before.next, Some(certificates.collect()));
            AuthorityData {
                signer,
                old,
                cross: before.cross,
                token: before.token,
                users: before.users,
                ..AuthorityData::default()
            }
        }
        Change::Drop => {
            let before = authority()?;
            let (signer, token, users) = (before.signer, before.token, before.users);
            AuthorityData { signer, token, users, ..AuthorityData::default() }
        }
        Change::Own => authority()?,
        Change::Members { renew } => {
            let subject = Subject::Member(names.to_vec());
            return leaf(&authority()?, content.members.as_ref(), *renew, &subject)
                .map(|data| (Target::Members, data));
        }
        Change::Root { renew } => {
            let subject = Subject::User(ROOT.to_owned());
            return leaf(&authority()?, content.root.as_ref(), *renew, &subject)
                .map(|data| (Target::Root, data));
        }
        Change::User { name, renew } => {
            let subject = Subject::User(name.clone());
            return leaf(&authority()?, content.users.get(name), *renew, &subject)
                .map(|data| (Target::User(name.clone()), data));
        }
        // It is deleted, and nothing is put into it.
        Change::Revoke { name } => return Ok((Target::User(name.clone()), Data::new())),
        Change::Bundle => return Ok((Target::Bundle, [(BUNDLE.to_owned(), authority()?.bundle())].into())),
    };
    Ok((Target::Authority, changed.data()))
}

fn leaf(
    authority: &AuthorityData,
    before: Option<&LeafData>,
    renew: bool,
    subject: &Subject,
) -> Result<Data, Unmade> {
    let made = match before {
        Some(before) if !renew => {
            Made { certificate: first_certificate(&before.certificate), key: before.key.clone() }
        }
        _ => make::leaf(authority.signer().ok_or(Unmade::Changed)?, subject, LEAF_LIFE)?,
    };
    let behind = authority.cross.as_ref().filter(|_| authority.stage() == Stage::Issue);
    let certificate = made.certificate + behind.map_or("", String::as_str);
    let data = [(CERTIFICATE, certificate), (KEY, made.key), (BUNDLE, authority.bundle())];
    Ok(data.map(|(key, text)| (key.to_owned(), text)).into())
}

/// The first certificate of a PEM text.
fn first_certificate(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    match pem.find(END) {
        Some(at) => format!("{}\n", &pem[..at + END.len()]),
        None => pem.to_owned(),
    }
}

/// What was read, as a slot of the plan's.
impl<T> From<Result<T, String>> for Slot<T> {
    fn from(read: Result<T, String>) -> Slot<T> {
        match read {
            Ok(there) => Slot::There(there),
            Err(why) => Slot::Broken(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// Goal: what is written is what the next look reads, through a whole rotation, and members take each of it. Method:
    /// each change in turn, with real certificates.
    #[test]
    fn a_rotation_writes_what_it_reads() {
        let names = leaf_names("demo", "shop", "cluster.local");
        let (member, root) = (Subject::Member(names.clone()), Subject::User(ROOT.into()));
        let mut content = Content::default();
        let mut write = |change: Change| {
            let (target, data) = made(&change, &content, "demo", &names, 7, NOW).unwrap();
            match target {
                Target::Authority => content.authority = Some(AuthorityData::read(&data).unwrap()),
                Target::Members => content.members = Some(LeafData::read(&data, &member).unwrap().0),
                Target::Root => content.root = Some(LeafData::read(&data, &root).unwrap().0),
                Target::User(name) => {
                    let read = LeafData::read(&data, &Subject::User(name.clone())).unwrap();
                    assert!(read.1.fits && !LeafData::read(&data, &root).unwrap().1.fits);
                    content.users.insert(name, read.0);
                }
                Target::Bundle => assert_eq!(data[BUNDLE], content.authority.as_ref().unwrap().bundle()),
            }
            let authority = content.authority.clone().unwrap().facts(false).unwrap();
            let members = content.members.as_ref().map(|members| {
                let data =
                    [(CERTIFICATE, &members.certificate), (KEY, &members.key), (BUNDLE, &members.bundle)];
                let data: Data = data.map(|(key, text)| (key.to_owned(), text.clone())).into();
                LeafData::read(&data, &member).unwrap().1
            });
            (authority, members)
        };
        write(Change::Found);
        write(Change::Root { renew: true });
        write(Change::Bundle);
        write(Change::Users(["orders".to_owned(), "web".to_owned()].into()));
        write(Change::User { name: "orders".into(), renew: true });
        let (first, members) = write(Change::Members { renew: true });
        let leaf = members.unwrap();
        assert_eq!(
            (&leaf.issuer, leaf.fits, leaf.crossed),
            (&first.signer.as_ref().unwrap().id, true, false)
        );
        let (trust, _) = write(Change::Trust { lost: false, token: Some("t".into()) });
        assert_eq!((trust.stage(), trust.since, trust.crossed), (Stage::Trust, None, true));
        let (marked, members) = write(Change::Mark);
        assert_eq!(marked.since, Some(NOW));
        assert_ne!(members.unwrap().bundle, trust.bundle, "it is not written yet");
        let (_, members) = write(Change::Members { renew: false });
        let same = members.unwrap();
        assert_eq!((same.fingerprint, same.bundle), (leaf.fingerprint, trust.bundle));
        let (issue, _) = write(Change::Issue);
        assert_eq!((issue.stage(), &issue.signer), (Stage::Issue, &trust.next));
        assert_eq!(issue.bundle, trust.bundle, "the same CAs are believed");
        let (_, members) = write(Change::Members { renew: true });
        let new = members.unwrap();
        assert!(new.crossed && new.issuer == issue.signer.as_ref().unwrap().id);
        let (settled, _) = write(Change::Drop);
        assert_eq!((settled.stage(), settled.token.as_deref()), (Stage::Settled, Some("t")));
        let (_, members) = write(Change::Members { renew: false });
        let last = members.unwrap();
        assert_eq!((last.fingerprint, last.crossed, last.bundle), (new.fingerprint, false, settled.bundle));
        let users: Vec<&str> = settled.users.iter().map(String::as_str).collect();
        assert_eq!(users, ["orders", "web"], "a rotation forgets nobody");
        // The Secret is lost.
        let (lost, _) = write(Change::Trust { lost: true, token: None });
        assert_eq!((lost.stage(), lost.signer), (Stage::Trust, None));
        let (_, members) = write(Change::Members { renew: false });
        assert_eq!(members.unwrap().issuer, last.issuer, "the old certificate serves on");
        let (issue, _) = write(Change::Issue);
        assert_eq!((issue.stage(), issue.crossed), (Stage::Issue, false));
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let names = leaf_names("demo", "shop", "cluster.local");
        assert!(AuthorityData::read(&Data::new()).is_err());
        let (_, data) = made(&Change::Found, &Content::default(), "demo", &names, 1, NOW).unwrap();
        let (_, other) = made(&Change::Found, &Content::default(), "demo", &names, 2, NOW).unwrap();
        let mut mixed = data.clone();
        mixed.insert(KEY.into(), other[KEY].clone());
        assert!(AuthorityData::read(&mixed).is_err(), "the key is another CA's");
        let authority = AuthorityData::read(&data).ok();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
        let content = Content { authority, ..Content::default() };
        let (_, mut leaf) = made(&Change::Members { renew: true }, &content, "demo", &names, 1, NOW).unwrap();
        assert!(LeafData::read(&leaf, &Subject::Member(names.clone())).unwrap().1.fits);
        let elsewhere = leaf_names("demo", "other", "cluster.local");
        assert!(!LeafData::read(&leaf, &Subject::Member(elsewhere)).unwrap().1.fits, "it is for other names");
        leaf.insert(BUNDLE.into(), other[CERTIFICATE].clone());
        assert!(LeafData::read(&leaf, &Subject::Member(names.clone())).is_err(), "its CA is not beside it");
    }
}
