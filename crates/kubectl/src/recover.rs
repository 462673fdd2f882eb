//! `kubectl kvorum recover`: a cluster goes on from one survivor, when its quorum is lost for good.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{Patch, PatchParams};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::table;
use kvorum_crd::KvCluster;
use kvorum_operator::fence::Token;
use kvorum_operator::names::{self, hex};
use kvorum_operator::observed::{Claim, Machine, Node, Observed};
use kvorum_operator::plan::{Offer, View, caveat, offer};
use serde_json::{Value, json};

use crate::ask;
use crate::observe::look;
use crate::session::{Session, refused};

pub(crate) async fn recover(
    session: &Session,
    name: &str,
    token: Option<String>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut seen = look(session, name).await?;
    if operator_offers(&seen.cluster) {
        take_its_word(&mut seen.observed);
    }
    let observed = &seen.observed;
    if View::of(observed).is_some() || observed.vouched().is_some() {
        return Err(Failure::Other(format!("{name} has a quorum, and nothing is to be recovered")));
    }
    print(observed, output)?;
    // What was printed is what the question is about.
    output.flush()?;
    let best = offered(observed)?;
    let wanted = best.to_string();
    match token {
        Some(token) if token != wanted => {
            return Err(Failure::Usage(format!(
                "{token} is not the token of the best survivor, which is {wanted}"
            )));
        }
        Some(_) => {}
        None => ask::to_type("Type the token to recover from that survivor", &wanted, "--token")?,
    }
    let patch = json!({"metadata": {"annotations": {names::RECOVER_FROM: wanted}}});
    let patched =
        session.api::<KvCluster>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map_err(|error| refused(&format!("annotate KvCluster {name}"), &error))?;
    output.line(
        format!("the operator recovers {name}; kubectl kvorum status {name} -w shows how far it is"),
        json!({"name": name, "recover_from": wanted}),
    )
}

/// The operator has seen for long enough that whatever does not answer is lost: it offers a token.
fn operator_offers(cluster: &KvCluster) -> bool {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let mut lost =
        conditions.filter(|condition| condition.type_ == "QuorumLost" && condition.status == "True");
    lost.any(|condition| condition.message.contains(&format!("{}=", names::RECOVER_FROM)))
}

/// One look cannot tell for how long a machine has been missing.
fn take_its_word(observed: &mut Observed) {
    let missing = observed.claims.values_mut().filter(|claim| claim.machine == Machine::Missing);
    missing.for_each(|claim| claim.machine = Machine::Gone);
}

/// The survivor that the operator would take, or why it takes none.
fn offered(observed: &Observed) -> Result<Token, Failure> {
    match offer(observed) {
        Offer::From(token) => Ok(token),
        Offer::Behind(token) => {
            let why = caveat(observed, &token).unwrap_or_default();
            Err(Failure::Other(format!("no recovery is offered. {why}")))
        }
        Offer::Silent(silent) => {
            let said: Vec<String> = silent.iter().map(|silent| silent.said(observed)).collect();
            Err(Failure::Other(format!(
                "no recovery is offered, since disks that do not answer may have writes that the others lack. {}",
                said.join(" ")
            )))
        }
        Offer::Nothing => Err(Failure::Other(
            "no disk that answers has the data, and all others are lost; only a restore of a snapshot helps"
                .into(),
        )),
    }
}

fn print(observed: &Observed, output: &mut Output) -> Result<(), Failure> {
    let disks = disks(observed);
    if output.json() {
        let token = offered(observed).ok().map(|token| token.to_string());
        let caveat = offered(observed).ok().and_then(|token| caveat(observed, &token));
        return output.object(&json!({
            "disks": disks.iter().map(Disk::object).collect::<Value>(), "token": token, "caveat": caveat,
        }));
    }
    let mut table = table::new(output.terminal());
    table.set_header(["MEMBER", "NODE", "CLAIM", "VOLUME", "MACHINE", "LAST LOG ENTRY", "STATE"]);
    for disk in &disks {
        let Disk { member, node, claim, volume, machine, last, state } = disk;
        table.add_row([member, node, claim, volume, machine, last, state]);
    }
    table::print(table, output)?;
    if let Ok(token) = offered(observed) {
        let (term, index) = (token.last_log.term, token.last_log.index);
        for line in [
            format!("The best survivor is node {}; its token is {token}", hex(token.node_id)),
            format!(
                "Whatever was acknowledged after its last log entry, {term}.{index}, is lost for ever. Disks that are left \
                 behind are kept until `kubectl kvorum release` lets them go."
            ),
        ]
        .into_iter()
        .chain(caveat(observed, &token))
        {
            output.line(line, Value::Null)?;
        }
    }
    Ok(())
}

/// A disk, as a person needs it to decide.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    member: String,
    node: String,
    claim: String,
    volume: String,
    machine: String,
    last: String,
    state: String,
}

impl Disk {
    fn object(&self) -> Value {
        let Disk { member, node, claim, volume, machine, last, state } = self;
        json!({
            "member": member, "node_id": node, "claim": claim, "volume": volume, "machine": machine,
            "last_log": last, "state": state,
        })
    }
}

/// Those that are in their places, and those that the survivors know as voters and that are in none.
fn disks(observed: &Observed) -> Vec<Disk> {
    let ordinals: BTreeSet<u32> = observed.claims.keys().chain(observed.pods.keys()).copied().collect();
    let voters = voters(observed);
    let mut disks: Vec<Disk> = ordinals.into_iter().map(|ordinal| disk(observed, ordinal, &voters)).collect();
    for (id, ordinal) in voters {
        if disks.iter().any(|disk| disk.node == hex(id)) {
            continue;
        }
        let none = || "-".to_owned();
        disks.push(Disk {
            member: ordinal.map_or_else(none, |ordinal| observed.pod_name(ordinal)),
            node: hex(id),
            claim: none(),
            volume: none(),
            machine: none(),
            last: none(),
            state: match ordinal.is_some_and(|ordinal| observed.claims.contains_key(&ordinal)) {
                true => "lost: another disk is in its place".to_owned(),
                false => state(None, None).to_owned(),
            },
        });
    }
    disks
}

/// The voters, as whoever is furthest knows them, and whose addresses they have.
fn voters(observed: &Observed) -> BTreeMap<u64, Option<u32>> {
    let furthest = observed.nodes.values().filter(|node| !node.is_blank());
    let furthest = furthest.max_by_key(|node| (node.incarnation, node.last_log));
    let membership = furthest.map(|node| node.membership.clone()).unwrap_or_default();
    let ordinal = |id: &u64| (*id, membership.nodes.get(id).copied().flatten());
    membership.configs.iter().flatten().map(ordinal).collect()
}

fn disk(observed: &Observed, ordinal: u32, voters: &BTreeMap<u64, Option<u32>>) -> Disk {
    let none = || "-".to_owned();
    let (claim, node) = (observed.claims.get(&ordinal), observed.nodes.get(&ordinal));
    let written = claim.and_then(|claim| claim.disk).map(|disk| disk.node_id);
    let voter = || voters.iter().find(|(_, at)| **at == Some(ordinal)).map(|(id, _)| *id);
    let id = node.map(|node| node.node_id).or(written);
    // Where there is no claim the row is about the disk that was there.
    let id = if claim.is_none() { id.or_else(voter) } else { id };
    let pod = observed.pods.get(&ordinal);
    let machine = claim.and_then(|claim| claim.home.clone()).or(pod.and_then(|pod| pod.machine.clone()));
    Disk {
        member: observed.pod_name(ordinal),
        node: id.map_or_else(none, hex),
        claim: claim.map_or_else(none, |_| observed.claim_name(ordinal)),
        volume: claim.map(|claim| claim.volume.clone()).filter(|name| !name.is_empty()).unwrap_or_else(none),
        machine: machine.unwrap_or_else(none),
        last: node.map_or_else(none, |node| format!("{}.{}", node.last_log.term, node.last_log.index)),
        state: match id {
            Some(id) if node.is_some() && observed.is_corrupt(id) => {
                "answers: its data differs (CORRUPT)".to_owned()
            }
            _ => state(claim, node).to_owned(),
        },
    }
}

fn state(claim: Option<&Claim>, node: Option<&Node>) -> &'static str {
    match (claim, node) {
        (_, Some(node)) if node.is_blank() => "answers: it is new and empty",
        (_, Some(_)) => "answers",
        (None, None) => "lost: its claim is gone",
        (Some(claim), None) if claim.declared_lost => "lost, as a person says",
        (Some(claim), None) => match claim.machine {
            Machine::Gone => "lost: its machine is gone",
            Machine::Missing => "silent: its machine has no Node, maybe for long",
            Machine::Unfit => "silent: no machine fits its volume",
            Machine::Exists => "silent: it may come back",
        },
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a person sees each disk before he gives one up, and no token where a disk may come back. Method: made
    //! observations of a cluster of three of which one answers.
    use super::*;
    use kvorum_operator::fence::{self, LogId, Version};
    use kvorum_operator::observed::Membership;

    fn observed(second: Machine, third: Machine) -> Observed {
        let membership = Membership {
            log_id: LogId { term: 1, index: 1 },
            configs: vec![[1, 2, 3].into()],
            nodes: [(1, Some(0)), (2, Some(1)), (3, Some(2))].into(),
        };
        let last_log = LogId { term: 2, index: 7 };
        let node =
            Node { node_id: 1, cluster_id: 9, incarnation: 1, last_log, membership, ..Node::default() };
        let claim = |node_id, machine| Claim {
            version: Version { uid: format!("uid-{node_id}"), ..Version::default() },
            disk: Some(fence::Disk { cluster_id: 9, node_id, founder: false }),
            volume: format!("pv-{node_id}"),
            home: Some(format!("machine-{node_id}")),
            machine,
            ..Claim::default()
        };
        Observed {
            name: "demo".into(),
            cluster_id: Some(9),
            incarnation: 1,
            nodes: [(0, node)].into(),
            claims: [(0, claim(1, Machine::Exists)), (1, claim(2, second)), (2, claim(3, third))].into(),
            ..Observed::default()
        }
    }

    #[test]
    fn each_disk_is_shown() {
        let shown = disks(&observed(Machine::Gone, Machine::Exists));
        let brief: Vec<_> = shown
            .iter()
            .map(|disk| (disk.member.as_str(), disk.last.as_str(), disk.state.as_str()))
            .collect();
        let expected = [
            ("demo-0", "2.7", "answers"),
            ("demo-1", "-", "lost: its machine is gone"),
            ("demo-2", "-", "silent: it may come back"),
        ];
        assert_eq!(brief, expected);
        let mut replaced = observed(Machine::Exists, Machine::Exists);
        let claim = replaced.claims.get_mut(&1).unwrap();
        claim.disk = None;
        replaced.nodes.insert(1, Node { node_id: 4, ..Node::default() });
        replaced.claims.remove(&2);
        let shown_too = disks(&replaced);
        let brief: Vec<_> =
            shown_too.iter().map(|disk| (disk.member.as_str(), disk.state.as_str())).collect();
        let expected = [
            ("demo-0", "answers"),
            ("demo-1", "answers: it is new and empty"),
            ("demo-1", "lost: another disk is in its place"),
            ("demo-2", "lost: its claim is gone"),
        ];
        assert_eq!(brief, expected);
        assert_eq!((shown[1].volume.as_str(), shown[1].machine.as_str()), ("pv-2", "machine-2"));
    }

    /// Goal: whoever recovers from a disk whose data differs knows that.
    #[test]
    fn a_corrupt_disk_is_shown_as_one() {
        let mut corrupt = observed(Machine::Gone, Machine::Gone);
        corrupt.nodes.get_mut(&0).unwrap().corrupt = [1].into();
        assert_eq!(disks(&corrupt)[0].state, "answers: its data differs (CORRUPT)");
        let token = offered(&corrupt).unwrap();
        assert!(caveat(&corrupt, &token).unwrap().contains("CORRUPT"), "there is no other");
    }

    #[test]
    fn a_token_is_named_once_all_others_are_lost() {
        let token = offered(&observed(Machine::Gone, Machine::Gone)).unwrap();
        assert_eq!(token.to_string(), "1/0000000000000001@2.7");
        let Err(Failure::Other(said)) = offered(&observed(Machine::Gone, Machine::Exists)) else {
            panic!("a disk may come back")
        };
        assert!(said.contains("data-demo-2") && !said.contains("data-demo-1"), "{said}");
    }

    #[test]
    fn a_machine_is_gone_once_the_operator_says_so() {
        let mut missing = observed(Machine::Missing, Machine::Gone);
        assert!(offered(&missing).is_err(), "it may come back");
        let cluster = |status: &str, message: &str| -> KvCluster {
            let condition = json!({"type": "QuorumLost", "status": status, "reason": "NoQuorum", "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let status = json!({"conditions": [condition], "members": [], "replicas": 3, "readyMembers": 1});
            let metadata = json!({"name": "demo"});
            serde_json::from_value(json!({
                "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": metadata, "spec": {},
                "status": status,
            }))
            .unwrap()
        };
        let token = "kubectl annotate kvc demo kvorum.io/recover-from=1/0000000000000001@2.7";
        assert!(operator_offers(&cluster("True", token)));
        assert!(!operator_offers(&cluster("False", token)) && !operator_offers(&cluster("True", "Wait.")));
        take_its_word(&mut missing);
        assert!(offered(&missing).is_ok());
    }
}
