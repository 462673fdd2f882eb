//! Goal: a cluster whose spec says nothing of TLS, rights and a NetworkPolicy keeps what it was made with, whatever is deleted around its
//! disks, and whenever an operator is ended; a new one has all of them from its first moment. Method: what looks find, and what
//! Kubernetes and people do between them, in any order.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kvorum_crd::{AuthMode, AuthStatus, KvCluster, KvClusterSpec, KvClusterStatus, TlsMode};
use proptest::prelude::*;
use serde_json::{from_value, json};

use super::objects::Objects;
use super::{access, policy, tls};
use crate::access::mode;
use crate::build::{Inputs, tls_word};
use crate::certificates::{Members, speak};
use crate::names;

const MEMBERS: u32 = 3;

/// TLS, rights, and whether there is a NetworkPolicy.
type Security = (TlsMode, Option<AuthMode>, bool);

struct World {
    cluster: KvCluster,
    objects: Objects,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The operator looks, and makes the StatefulSet or applies it.
    Apply,
    /// The operator looks, and writes on a claim whose disk it is.
    Record(u32),
    /// The StatefulSet's controller makes what is missing.
    Make,
    /// The StatefulSet is deleted, and its pods stay.
    Orphan,
    /// All pods are deleted, and the StatefulSet is away.
    DeletePods,
    /// A disk is lost, which is never the last one of a cluster with data.
    LoseClaim(u32),
    /// All is deleted but the claims, and the KvCluster made again.
    MakeAgain,
    /// The status is erased.
    Erase,
}

impl World {
    fn empty() -> World {
        let objects = Objects {
            set: None,
            pods: [].into(),
            claims: [].into(),
            service: None,
            peers: None,
            budget: None,
            policy: Ok(None),
            others_policy: None,
            monitor: Err(kube::Error::LinesCodecMaxLineLengthExceeded),
        };
        World { cluster: KvCluster::new("demo", KvClusterSpec::default()), objects }
    }

    /// A cluster with data, which some operator made so that knew of no NetworkPolicy; `None`: nor of rights.
    fn founded(tls: TlsMode, auth: Option<AuthMode>) -> World {
        let mut world = World::empty();
        let made = (tls, auth, false);
        world.apply(made);
        world.make();
        (0..MEMBERS).for_each(|ordinal| world.record(ordinal, made));
        world
    }

    fn look(&self) -> Security {
        let objects = &self.objects;
        let members = Members {
            none: objects.set.is_none() && objects.pods.is_empty(),
            pods: objects.pods.values().map(tls::of_pod).collect(),
            plain: None,
        };
        let tls = speak(self.cluster.spec.tls.mode, tls::on_record(objects), true, &members).mode;
        (tls, access::mode(&self.cluster, objects, tls), policy::wanted(&self.cluster, objects, true))
    }

    fn apply(&mut self, (tls, auth, policy): Security) {
        let inputs = Inputs {
            cluster: &self.cluster,
            name: "demo",
            namespace: "default",
            uid: "u",
            image: "kvorum:1",
            pinned: "kvorum:1",
            pull_policy: None,
            incarnation: 1,
            tls,
            auth: auth.unwrap_or_default(),
            policy,
        };
        let set = from_value::<StatefulSet>(inputs.stateful_set(MEMBERS, &inputs.template(), "1Gi"));
        self.objects.set = Some(set.unwrap());
    }

    fn make(&mut self) {
        let Some(set) = &self.objects.set else { return };
        let template = set.spec.as_ref().unwrap().template.metadata.as_ref().unwrap();
        let pod: Pod = from_value(json!({"metadata": {"annotations": template.annotations}})).unwrap();
        for ordinal in 0..MEMBERS {
            self.objects.pods.entry(ordinal).or_insert_with(|| pod.clone());
            self.objects.claims.entry(ordinal).or_default();
        }
    }

    fn record(&mut self, ordinal: u32, (tls, auth, policy): Security) {
        let Some(claim) = self.objects.claims.get_mut(&ordinal) else { return };
        let mut on_it = json!({names::CLUSTER_ID: names::hex(9), names::NODE_ID: names::hex(1)});
        let policy = policy.then_some(names::POLICY_ENABLED);
        let words =
            [(names::TLS, tls_word(tls)), (names::AUTH, auth.and_then(mode::word)), (names::POLICY, policy)];
        for (key, word) in words.into_iter().filter_map(|(key, word)| Some((key, word?))) {
            on_it[key] = json!(word);
        }
        *claim = from_value(json!({"metadata": {"annotations": on_it}})).unwrap();
    }

    fn happens(&mut self, event: Event) {
        let seen = self.look();
        match event {
            Event::Apply => self.apply(seen),
            Event::Record(ordinal) if self.objects.set.is_some() => self.record(ordinal, seen),
            Event::Make => self.make(),
            Event::Orphan => self.objects.set = None,
            Event::DeletePods if self.objects.set.is_none() => self.objects.pods.clear(),
            Event::LoseClaim(ordinal) => {
                let has_data =
                    |claim: &PersistentVolumeClaim| claim.annotations().contains_key(names::NODE_ID);
                let others = self.objects.claims.iter().filter(|(other, _)| **other != ordinal);
                if others.map(|(_, claim)| claim).any(has_data) {
                    self.objects.claims.remove(&ordinal);
                }
            }
            Event::MakeAgain => {
                (self.objects.set, self.cluster.status) = (None, None);
                self.objects.pods.clear();
            }
            Event::Erase => self.cluster.status = None,
            Event::Record(_) | Event::DeletePods => {}
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Apply),
        (0..MEMBERS).prop_map(Event::Record),
        Just(Event::Make),
        Just(Event::Orphan),
        Just(Event::DeletePods),
        (0..MEMBERS).prop_map(Event::LoseClaim),
        Just(Event::MakeAgain),
        Just(Event::Erase),
    ]
}

proptest! {
    #[test]
    fn a_cluster_keeps_what_it_was_made_with(events in prop::collection::vec(event(), 0..40)) {
        let required = (TlsMode::Required, Some(AuthMode::Required));
        let with_rights = World::founded(required.0, required.1);
        for (mut world, expected) in [
            (World::empty(), (required.0, required.1, true)),
            // As operators made them that knew of no policy, of no defaults, of no rights, and of no TLS.
            (with_rights, (required.0, required.1, false)),
            (World::founded(TlsMode::Required, None), (TlsMode::Required, None, false)),
            (World::founded(TlsMode::Optional, None), (TlsMode::Optional, None, false)),
            (World::founded(TlsMode::Disabled, None), (TlsMode::Disabled, None, false)),
        ] {
            for (number, event) in events.iter().enumerate() {
                prop_assert_eq!(world.look(), expected, "before event {} of {:?}", number, events);
                world.happens(*event);
            }
            prop_assert_eq!(world.look(), expected, "after {:?}", events);
        }
    }
}

/// Goal: what an operator wrote into the status alone, which knew of no mark, holds until there are marks; and what is said
/// outright is kept once the line is taken out.
#[test]
fn what_was_said_is_kept() {
    let mut world = World::founded(TlsMode::Required, None);
    let auth = Some(AuthStatus { mode: AuthMode::Required });
    world.cluster.status = Some(KvClusterStatus { auth, ..KvClusterStatus::default() });
    world.happens(Event::Apply);
    world.happens(Event::Erase);
    assert_eq!(world.look(), (TlsMode::Required, Some(AuthMode::Required), false));
    world.cluster.spec.auth.mode = Some(AuthMode::Disabled);
    world.happens(Event::Apply);
    world.cluster.spec.auth.mode = None;
    assert_eq!(world.look(), (TlsMode::Required, None, false));
    world.cluster.spec.network_policy.enabled = Some(true);
    world.happens(Event::Apply);
    world.cluster.spec.network_policy.enabled = None;
    assert_eq!(world.look(), (TlsMode::Required, None, true));

    let mut world = World::empty();
    world.cluster.spec.tls.mode = Some(TlsMode::Disabled);
    assert_eq!(world.look(), (TlsMode::Disabled, None, true));
    world.happens(Event::Apply);
    world.cluster.spec.tls.mode = None;
    assert_eq!(world.look(), (TlsMode::Disabled, None, true));
}

/// Goal: a member that left long ago, and whose disk is kept, says nothing of those that are there.
#[test]
fn a_disk_that_is_kept_is_no_member() {
    let mut world = World::founded(TlsMode::Disabled, None);
    world.record(2, (TlsMode::Required, Some(AuthMode::Required), true));
    let left = world.objects.claims.get_mut(&2).unwrap();
    left.annotations_mut().insert(names::RETIRED.into(), "true".into());
    world.happens(Event::MakeAgain);
    assert_eq!(world.look(), (TlsMode::Disabled, None, false));
}
