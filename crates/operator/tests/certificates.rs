//! Goal: at no moment does a member show a certificate whose CA another does not believe, however operators are killed,
//! race each other or are late, members load files late or do not answer, and objects are deleted; and every rotation ends.
//! Method: a world of one byte for each CA, in which every write is made for the version that was seen.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::certificates::{
    Authority, Ca, Change, Fingerprint, Held, Leaf, Look, Next, RENEWED_AHEAD, ROTATED_AHEAD, Report, Slot,
    Stage, next,
};
use proptest::prelude::*;

const NOW: i64 = 1_000_000_000;
const OVERLAP: i64 = 1_000;
const LIFE: i64 = 5 * 365 * 24 * 3600;
const LEAF_LIFE: i64 = 90 * 24 * 3600;

type Bundle = BTreeSet<u8>;

fn sha(bundle: &Bundle) -> Fingerprint {
    let mut bytes = [0; 32];
    bundle.iter().zip(&mut bytes).for_each(|(ca, byte)| *byte = *ca);
    bytes
}

fn ca(number: u8, made: i64) -> Ca {
    Ca { id: number.to_string(), not_after: made + LIFE }
}

/// A Secret with a certificate: by which CA, its number, until when, crossed, and the CAs beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    by: u8,
    number: u8,
    not_after: i64,
    crossed: bool,
    bundle: Bundle,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keys {
    signer: Option<(u8, i64)>,
    next: Option<(u8, i64)>,
    old: Bundle,
    crossed: bool,
    token: Option<String>,
    since: Option<i64>,
    goes: bool,
    users: BTreeSet<String>,
}

impl Keys {
    fn bundle(&self) -> Bundle {
        self.old.iter().copied().chain(self.signer.map(|ca| ca.0)).chain(self.next.map(|ca| ca.0)).collect()
    }

    fn facts(&self) -> Authority {
        Authority {
            signer: self.signer.map(|(number, made)| ca(number, made)),
            next: self.next.map(|(number, made)| ca(number, made)),
            old: !self.old.is_empty(),
            crossed: self.crossed,
            token: self.token.clone(),
            since: self.since,
            bundle: sha(&self.bundle()),
            goes_with_cluster: self.goes,
            users: self.users.clone(),
        }
    }
}

/// An object and its version.
#[derive(Clone, Debug, Default)]
struct Stored<T> {
    value: Option<T>,
    version: u64,
}

impl<T> Stored<T> {
    fn set(&mut self, seen: u64, value: T) {
        if self.version == seen {
            (self.value, self.version) = (Some(value), seen + 1);
        }
    }

    fn delete(&mut self) {
        (self.value, self.version) = (None, self.version + 1);
    }
}

/// What an operator has read, and when.
#[derive(Clone, Debug)]
struct Sight {
    keys: Stored<Keys>,
    members: Stored<Shown>,
    root: Stored<Shown>,
    users: BTreeMap<String, Stored<Shown>>,
    map: Stored<Bundle>,
    look: Look,
}

#[derive(Debug, Default)]
struct World {
    keys: Stored<Keys>,
    members: Stored<Shown>,
    root: Stored<Shown>,
    users: BTreeMap<String, Stored<Shown>>,
    /// Who is to have a certificate.
    entries: BTreeSet<String>,
    map: Stored<Bundle>,
    /// What each member has loaded.
    loaded: Vec<Shown>,
    silent: BTreeSet<usize>,
    token: Option<String>,
    /// `NAME-ca` was lost, and with it who has certificates.
    lost: bool,
    made: u8,
    now: i64,
}

impl World {
    /// A cluster that was founded.
    fn founded() -> World {
        let users = ["orders", "web"].map(|name| (name.to_owned(), Stored::default())).into();
        let mut world = World { now: NOW, users, ..World::default() };
        world.settle();
        let shown = world.members.value.clone().expect("it was made");
        world.loaded = vec![shown; 3];
        world
    }

    /// The reads of a look, in their order: what follows from `NAME-ca` first. Then `later` sees that.
    fn read(&self) -> Sight {
        fn slot<T, U>(stored: &Stored<T>, facts: impl Fn(&T) -> U) -> Slot<U> {
            stored.value.as_ref().map_or(Slot::Absent, |value| Slot::There(facts(value)))
        }
        let leaf = |shown: &Shown| Leaf {
            issuer: shown.by.to_string(),
            not_after: shown.not_after,
            fits: true,
            crossed: shown.crossed,
            fingerprint: [shown.number; 32],
            bundle: sha(&shown.bundle),
        };
        let members = self.loaded.iter().enumerate().map(|(i, shown)| {
            let old = self.loaded.iter().filter(|other| other.by != shown.by).count();
            let report = Report {
                bundle: sha(&shown.bundle),
                leaf: [shown.number; 32],
                old_ca_peers: old as u32,
                old_ca_clients: 0,
            };
            (format!("demo-{i}"), (!self.silent.contains(&i)).then_some(report))
        });
        let held = Held {
            authority: slot(&self.keys, Keys::facts),
            members: slot(&self.members, leaf),
            root: slot(&self.root, leaf),
            users: self.users.iter().map(|(name, stored)| (name.clone(), slot(stored, leaf))).collect(),
            bundle: slot(&self.map, sha),
        };
        let look = Look {
            held,
            members: members.collect(),
            settled: true,
            users: self.entries.clone(),
            retain: true,
            token: self.token.clone(),
            overlap: OVERLAP,
            quiet: 0,
            now: self.now,
        };
        let Stored { value, version } = &self.keys;
        let keys = Stored { value: value.clone(), version: *version };
        let (members, root) = (self.members.clone(), self.root.clone());
        Sight { keys, members, root, users: self.users.clone(), map: self.map.clone(), look }
    }

    /// `NAME-ca` is read last, maybe some time after the rest.
    fn read_keys(&self, sight: &mut Sight) {
        sight.keys = self.keys.clone();
        sight.look.held.authority =
            self.keys.value.as_ref().map_or(Slot::Absent, |keys| Slot::There(keys.facts()));
    }

    fn number(&mut self) -> u8 {
        self.made += 1;
        self.made
    }

    /// The write that was planned, for the versions that were seen.
    fn write(&mut self, sight: &Sight, change: &Change) {
        let before = sight.keys.value.clone().unwrap_or_default();
        // Numbers of CAs and certificates are bytes; those of users do not matter.
        let of_user = matches!(change, Change::User { .. } | Change::Users(_) | Change::Revoke { .. });
        let number = if of_user { 0 } else { self.number() };
        let shown = |seen: &Option<Shown>, renew: bool| {
            let crossed = before.facts().stage() == Stage::Issue && before.crossed;
            let signer = before.signer.or(before.next).expect("it was planned").0;
            match seen {
                Some(seen) if !renew => Shown { crossed, bundle: before.bundle(), ..seen.clone() },
                _ => Shown {
                    by: signer,
                    number,
                    not_after: sight.look.now + LEAF_LIFE,
                    crossed,
                    bundle: before.bundle(),
                },
            }
        };
        let new = Some((number, sight.look.now));
        let keys = match change {
            Change::Members { renew } => {
                let value = shown(&sight.members.value, *renew);
                return self.members.set(sight.members.version, value);
            }
            Change::Root { renew } => {
                let value = shown(&sight.root.value, *renew);
                return self.root.set(sight.root.version, value);
            }
            Change::User { name, renew } => {
                let seen = &sight.users[name];
                let value = shown(&seen.value, *renew);
                return self.users.get_mut(name).expect("it was seen").set(seen.version, value);
            }
            Change::Revoke { name } => {
                let (stored, seen) = (self.users.get_mut(name).expect("it was seen"), &sight.users[name]);
                if stored.version == seen.version {
                    stored.delete();
                }
                return;
            }
            Change::Users(users) => Keys { users: users.clone(), ..before },
            Change::Bundle => return self.map.set(sight.map.version, before.bundle()),
            Change::Found => Keys { signer: new, since: Some(sight.look.now), ..Keys::default() },
            Change::Trust { lost: true, token } => {
                let old = sight.members.value.clone().expect("it was planned").bundle;
                Keys { next: new, old, token: token.clone(), ..Keys::default() }
            }
            Change::Trust { lost: false, token } => Keys {
                signer: before.signer,
                next: new,
                crossed: true,
                token: token.clone(),
                users: before.users,
                ..Keys::default()
            },
            Change::Mark => Keys { since: Some(sight.look.now), ..before },
            Change::Issue => {
                let old = before.old.iter().copied().chain(before.signer.map(|ca| ca.0)).collect();
                Keys { signer: before.next, next: None, old, since: None, ..before }
            }
            Change::Drop => Keys { old: Bundle::new(), crossed: false, since: None, ..before },
            Change::Own => Keys { goes: !before.goes, ..before },
        };
        self.keys.set(sight.keys.version, keys);
    }

    /// One operator alone, until it rests.
    fn settle(&mut self) {
        for _ in 0..20 {
            let sight = self.read();
            let Some(change) = next(&sight.look).change else { return };
            self.write(&sight, &change);
        }
        panic!("it does not come to rest: {self:?}");
    }

    fn check(&self) {
        for one in &self.loaded {
            for other in &self.loaded {
                assert!(other.bundle.contains(&one.by), "{other:?} does not believe {one:?}");
            }
        }
        if let Some(keys) = &self.keys.value
            && let Some((signer, _)) = keys.signer
        {
            let knows = self.loaded.iter().filter(|shown| shown.bundle.contains(&signer)).count();
            assert!(knows == self.loaded.len(), "the operator's certificate is not believed: {self:?}");
        }
    }

    /// Who has a certificate, by the CA that signs, and who may have one.
    fn check_users(&self) {
        let keys = self.keys.value.clone().expect("it was made");
        let signer = keys.signer.expect("it was made").0;
        let has: BTreeSet<String> = self
            .users
            .iter()
            .filter(|(_, stored)| stored.value.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        assert!(keys.users.is_superset(&self.entries) && has.is_superset(&self.entries), "{self:?}");
        assert!(self.lost || has == self.entries, "a certificate outlives its entry: {self:?}");
        let mut shown = self.entries.iter().filter_map(|name| self.users[name].value.as_ref());
        assert!(shown.all(|shown| shown.by == signer), "{self:?}");
    }

    /// Everything works again: how a rotation ends.
    fn converge(&mut self) {
        self.silent.clear();
        for _ in 0..40 {
            self.now += OVERLAP;
            self.settle();
            let shown = self.members.value.clone().expect("it was made");
            self.loaded.fill(shown);
            self.check();
        }
        let keys = self.keys.value.clone().expect("it was made");
        assert_eq!(
            (keys.facts().stage(), keys.token.as_ref()),
            (Stage::Settled, self.token.as_ref()),
            "{self:?}"
        );
        let sight = self.read();
        assert_eq!(next(&sight.look), Next { ready: true, ..Next::default() });
        assert!(self.loaded.iter().all(|shown| !shown.crossed && shown.bundle.len() == 1), "{self:?}");
        self.check_users();
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// An operator begins a look.
    Read(usize),
    /// It reads `NAME-ca`.
    ReadKeys(usize),
    /// It writes what it has planned, or was killed before.
    Write(usize),
    /// A member loads its files.
    Load(usize),
    /// A member is silent, or no longer.
    Silence(usize),
    /// Time goes by.
    Time(i64),
    /// A person asks for a rotation.
    Ask(u8),
    /// Somebody deletes `NAME-ca`.
    LoseKeys,
    /// Somebody deletes another object.
    Lose(bool),
    /// Somebody writes, or takes out, an entry with a certificate.
    Entry(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..2_usize).prop_map(Event::Read),
        4 => (0..2_usize).prop_map(Event::ReadKeys),
        6 => (0..2_usize).prop_map(Event::Write),
        6 => (0..3_usize).prop_map(Event::Load),
        1 => (0..3_usize).prop_map(Event::Silence),
        3 => (1..2 * OVERLAP).prop_map(Event::Time),
        1 => (0..4_u8).prop_map(Event::Ask),
        1 => Just(Event::LoseKeys),
        1 => any::<bool>().prop_map(Event::Lose),
        2 => any::<bool>().prop_map(Event::Entry),
    ]
}

fn happens(world: &mut World, sights: &mut [Option<Sight>; 2], event: Event) {
    match event {
        Event::Read(i) => sights[i] = Some(world.read()),
        Event::ReadKeys(i) => {
            if let Some(sight) = &mut sights[i] {
                world.read_keys(sight);
            }
        }
        Event::Write(i) => {
            if let Some(sight) = sights[i].take()
                && let Some(change) = next(&sight.look).change
            {
                world.write(&sight, &change);
            }
        }
        Event::Load(i) => {
            if let Some(shown) = &world.members.value {
                world.loaded[i] = shown.clone();
            }
        }
        Event::Silence(i) => {
            if !world.silent.remove(&i) {
                world.silent.insert(i);
            }
        }
        Event::Time(by) => world.now += by,
        Event::Ask(token) => {
            world.token = Some(format!("urgent:{token}").split_off(if token > 1 { 7 } else { 0 }))
        }
        Event::LoseKeys => {
            world.lost = true;
            world.keys.delete();
        }
        Event::Entry(orders) => {
            let name = if orders { "orders" } else { "web" }.to_owned();
            if !world.entries.remove(&name) {
                world.entries.insert(name);
            }
        }
        Event::Lose(map) => {
            if map {
                world.map.delete();
            } else {
                world.root.delete();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_shows_what_others_do_not_believe(events in prop::collection::vec(event(), 1..250)) {
        let mut world = World::founded();
        let mut sights = [None, None];
        for event in events {
            happens(&mut world, &mut sights, event);
            // Numbers of CAs are bytes here.
            if world.made > 200 { break; }
            world.check();
        }
        if world.made < 150 { world.converge(); }
    }
}

#[test]
fn certificates_are_renewed_in_time_and_the_ca_long_before_its_end() {
    let mut world = World::founded();
    let first = world.members.value.clone().unwrap();
    world.now += LEAF_LIFE - RENEWED_AHEAD - 1;
    world.settle();
    assert_eq!(world.members.value.as_ref(), Some(&first), "it is not due yet");
    world.now += 2;
    world.settle();
    let second = world.members.value.clone().unwrap();
    assert!(second.number != first.number && second.by == first.by);
    world.now = NOW + LIFE - ROTATED_AHEAD + 1;
    world.converge();
    assert_ne!(world.members.value.unwrap().by, first.by);
}

#[test]
fn a_silent_member_stops_a_rotation_where_both_are_believed() {
    let mut world = World::founded();
    world.token = Some("1".into());
    world.settle();
    world.silent.insert(1);
    for _ in 0..10 {
        world.now += OVERLAP;
        world.settle();
        let shown = world.members.value.clone().unwrap();
        world.loaded[0] = shown.clone();
        world.loaded[2] = shown;
        world.check();
    }
    let next = next(&world.read().look);
    assert_eq!((next.stage, next.overdue), (Stage::Trust, 9 * OVERLAP));
    assert_eq!(next.waiting.as_deref(), Some("member demo-1 to answer"));
    world.converge();
}

#[test]
fn somebody_elses_object_is_left_alone() {
    let mut look = World::founded().read().look;
    look.held.root = Slot::Withheld("It is his.".into());
    look.token = Some("1".into());
    let next = next(&look);
    assert_eq!((next.change, next.ready), (None, false));
    assert_eq!(next.problem.unwrap().message, "It is his.");
}

/// Goal: what an operator makes late, whose entry is gone by then, does not stay.
#[test]
fn a_certificate_that_comes_late_is_found_and_deleted() {
    let mut world = World::founded();
    world.entries.insert("web".into());
    let sight = world.read();
    world.write(&sight, &next(&sight.look).change.unwrap());
    let late = world.read();
    let change = next(&late.look).change.unwrap();
    assert_eq!(change, Change::User { name: "web".into(), renew: true });
    world.entries.clear();
    world.settle();
    world.write(&late, &change);
    assert!(world.users["web"].value.is_some());
    world.settle();
    assert!(world.users["web"].value.is_none());
}

#[test]
fn no_step_is_taken_beside_a_change_of_the_membership() {
    let mut world = World::founded();
    world.token = Some("1".into());
    world.settle();
    world.loaded.fill(world.members.value.clone().unwrap());
    world.now += OVERLAP;
    let mut look = world.read().look;
    assert_eq!(next(&look).change, Some(Change::Issue));
    look.settled = false;
    assert_eq!(next(&look).change, None);
    look.settled = true;
    look.now -= 1;
    assert_eq!(next(&look).change, None, "the overlap is not over");
}
