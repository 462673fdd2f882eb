//! Goal: a change of the membership goes step by step to its end, finishes what was interrupted, and
//! gives up with a reason. Method: the peer ports of a pretended cluster, which remembers each change.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kvorum_client::Error;
use kvorum_client::admin::{Operations, Step, Voter};
use tokio::time::Instant;
use tonic::Code;

use kvorum_mock::Act;
use kvorum_mock::admin::{CLUSTER_ID, Peers};

const TIMEOUT: Duration = Duration::from_millis(600);

fn operations(peers: &[String]) -> Operations {
    Operations::at(peers.to_vec(), TIMEOUT).unwrap()
}

/// Of tests that wait for no refusal by time, so that a machine that is busy does not matter.
fn patient(peers: &[String]) -> Operations {
    Operations::at(peers.to_vec(), Duration::from_secs(20)).unwrap()
}

fn nothing(_: &Step) {}

#[tokio::test]
async fn a_cluster_is_founded_once() {
    let peers = Peers::start(3);
    let mut steps = Vec::new();
    let mut note = |step: &Step| steps.push(step.to_string());
    let found = operations(&peers.addresses).found(&peers.addresses, &mut note).await.unwrap();
    assert_eq!(found, CLUSTER_ID);
    assert_eq!(peers.group().changes, ["found 1", "add 2", "add 3", "voters [1, 2, 3]"]);
    assert_eq!(steps.len(), 4, "{steps:?}");

    // Repeated, with the nodes in another order: nothing is left to do.
    let other = [peers.addresses[2].clone(), peers.addresses[0].clone(), peers.addresses[1].clone()];
    assert_eq!(operations(&other).found(&other, &mut nothing).await.unwrap(), CLUSTER_ID);
    assert_eq!(peers.group().changes.len(), 4);
}

#[tokio::test]
async fn founding_goes_on_where_it_was_interrupted() {
    let peers = Peers::of_cluster(1, 1);
    let third = Peers::start(3);
    // The second node is a learner already; the third one is still to be added.
    let all = [peers.addresses[0].clone(), peers.addresses[1].clone(), third.addresses[2].clone()];
    peers.group().script.extend([Act::ApplyAndFail(Code::Unknown), Act::ApplyAndFail(Code::Unavailable)]);
    assert_eq!(operations(&all).found(&all, &mut nothing).await.unwrap(), CLUSTER_ID);
    assert_eq!(peers.group().changes, ["add 3", "voters [1, 2, 3]"], "each is made once");
}

/// Goal: founding is finished by the disk that began it, and by no other. Method: disks that belong to a cluster
/// without members, with and without the one that began to found it.
#[tokio::test]
async fn a_joined_disk_founds_nothing() {
    let peers = Peers::start(3);
    peers.group().strangers.insert(2, CLUSTER_ID);
    let error = patient(&peers.addresses).found(&peers.addresses, &mut nothing).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&peers.addresses[1]) && text.contains("empty the data directories"), "{text}");
    assert!(peers.group().changes.is_empty());

    peers.group().strangers.insert(3, CLUSTER_ID);
    peers.group().founding = Some(3);
    assert_eq!(patient(&peers.addresses).found(&peers.addresses, &mut nothing).await.unwrap(), CLUSTER_ID);
    assert_eq!(peers.group().changes, ["found 3", "add 1", "add 2", "voters [1, 2, 3]"]);
}

/// Goal: a life of the command that ended between any two of its calls is finished by the next one. Method: the
/// first life is dropped after each step in turn.
#[tokio::test]
async fn founding_is_finished_after_an_end_at_any_step() {
    for steps in 1..=4 {
        let peers = Peers::start(3);
        let (reached, mut seen) = (std::sync::Arc::new(tokio::sync::Notify::new()), 0);
        let note = reached.clone();
        let mut report = move |_: &Step| {
            seen += 1;
            if seen == steps {
                note.notify_one();
            }
        };
        let mut first = patient(&peers.addresses);
        tokio::select! {
            biased;
            () = reached.notified() => {}
            _ = first.found(&peers.addresses, &mut report) => {}
        }
        drop(first);
        assert_eq!(
            patient(&peers.addresses).found(&peers.addresses, &mut nothing).await.unwrap(),
            CLUSTER_ID
        );
        assert_eq!(peers.group().voters(), [1, 2, 3].into(), "ended after step {steps}");
        let founded = peers.group().changes.iter().filter(|change| change.starts_with("found")).count();
        assert_eq!(founded, 1, "ended after step {steps}");
    }
}

#[tokio::test]
async fn nodes_that_cannot_be_one_cluster_are_refused() {
    let peers = Peers::start(2);
    let same = [peers.addresses[0].clone(), peers.addresses[0].replace("127.0.0.1", "localhost")];
    let error = operations(&same).found(&same, &mut nothing).await.unwrap_err().to_string();
    assert!(error.contains("the same node 0000000000000001"), "{error}");

    peers.group().strangers.extend([(1, 0xa), (2, 0xb)]);
    let error = operations(&peers.addresses).found(&peers.addresses, &mut nothing).await.unwrap_err();
    let text = error.to_string();
    for word in ["000000000000000a", "000000000000000b", &peers.addresses[0], &peers.addresses[1]] {
        assert!(text.contains(word), "{text}");
    }
    assert!(peers.group().changes.is_empty());
}

/// Of a cluster, one address suffices: the others are learnt, the leader's among them.
#[tokio::test]
async fn a_leader_hands_over_before_it_is_removed() {
    let peers = Peers::of_cluster(3, 0);
    operations(&peers.addresses[2..]).remove(1, &mut nothing).await.unwrap();
    assert_eq!(peers.group().changes, ["transfer to 2", "voters [2, 3]"]);
    assert_eq!(peers.group().members(), [2, 3].into());

    let error = operations(&peers.addresses[1..]).remove(1, &mut nothing).await.unwrap_err().to_string();
    assert!(error.contains("there is no member 0000000000000001"), "{error}");
    operations(&peers.addresses[1..]).remove(3, &mut nothing).await.unwrap();
    let error = operations(&peers.addresses[1..2]).remove(2, &mut nothing).await.unwrap_err().to_string();
    assert!(error.contains("only voter"), "{error}");
}

#[tokio::test]
async fn a_node_is_added_as_asked_and_can_be_promoted() {
    let peers = Peers::start(2);
    let mut operations = operations(&peers.addresses[..1]);
    operations.found(&peers.addresses[..1], &mut nothing).await.unwrap();
    assert_eq!(operations.add(&peers.addresses[1], Voter::No, &mut nothing).await.unwrap(), 2);
    assert_eq!(peers.group().voters(), [1].into());
    assert_eq!(peers.group().members(), [1, 2].into());
    operations.promote(2, &mut nothing).await.unwrap();
    assert_eq!(peers.group().voters(), [1, 2].into());
    assert_eq!(operations.transfer_leader(Some(2)).await.unwrap(), 2);
    assert_eq!(operations.leader().await.unwrap().1.node_id, 2);
}

/// A refusal may be due to a change beside this one, so that the next look may do better; one that stays
/// is believed.
#[tokio::test]
async fn a_refusal_is_believed_when_it_stays() {
    let peers = Peers::of_cluster(2, 1);
    peers.group().script.extend([Act::Refuse("once"), Act::Refuse("twice")]);
    operations(&peers.addresses).promote(3, &mut nothing).await.unwrap();
    assert_eq!(peers.group().changes, ["voters [1, 2, 3]"]);

    peers.group().refuse_all = true;
    let error = operations(&peers.addresses).remove(3, &mut nothing).await.unwrap_err();
    assert!(error.to_string().contains("made to refuse"), "{error}");
    assert_eq!(peers.group().voters(), [1, 2, 3].into());
}

#[tokio::test]
async fn without_a_leader_every_peer_is_named_in_time() {
    let peers = Peers::of_cluster(2, 0);
    let blank = Peers::start(1);
    peers.group().leader_id = 0;
    let gone = "127.0.0.1:1".to_owned();
    let all = [&peers.addresses[..], &blank.addresses, std::slice::from_ref(&gone)].concat();
    let begun = Instant::now();
    let error = operations(&all).remove(2, &mut nothing).await.unwrap_err();
    assert!(begun.elapsed() < TIMEOUT * 3, "{:?}", begun.elapsed());
    let Error::Unanswered { tried, .. } = &error else { panic!("{error}") };
    let said = |address: &str| tried.iter().find(|tried| tried.endpoint == address).unwrap().problem.clone();
    assert_eq!(said(&peers.addresses[0]), "it knows no leader that answers");
    assert_eq!(said(&blank.addresses[0]), "it belongs to no cluster yet");
    assert_eq!(said(&gone), "connection refused");
}
