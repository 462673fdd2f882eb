//! Goal: calls are repeated exactly when that is safe, find the leader, and keep their deadlines.
//! Method: a pretended cluster that fails as it is told to, and counts.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvorum_client::admin::{AdminClient, Operations};
use kvorum_client::{Client, ConnectOptions, Connecting, Connector, Error, KeyRange, Tcp};
use kvorum_mock::admin::Peers;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tonic::Code;

use kvorum_mock::{Act, Mock, Store};

fn client(mocks: &[&Mock]) -> Client {
    Client::builder(mocks.iter().map(|mock| mock.endpoint()))
        .timeout(Duration::from_secs(2))
        .without_leader_search()
        .connect_lazy()
        .unwrap()
}

#[tokio::test]
async fn a_write_is_repeated_while_nothing_was_proposed() {
    let mock = Mock::start();
    let reasons = ["NOT_LEADER", "NO_LEADER", "BUSY", "SHUTTING_DOWN", "DEADLINE"];
    mock.script(reasons.map(Act::Refuse));
    let answer = client(&[&mock]).set("k", "v").await.unwrap();
    assert_eq!(answer.header.revision, 2);
    assert_eq!(mock.count("set"), reasons.len() + 1);
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_not_repeated() {
    for act in [
        Act::Refuse("OUTCOME_UNKNOWN"),
        Act::Fail(Code::Unavailable),
        Act::Fail(Code::Unknown),
        Act::ApplyAndFail(Code::Unavailable),
    ] {
        let mock = Mock::start();
        mock.script([act.clone()]);
        let error = client(&[&mock]).set("k", "v").await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{act:?}: {error}");
        assert_eq!(mock.count("set"), 1, "{act:?}");
    }
}

#[tokio::test]
async fn a_write_whose_connection_breaks_is_not_repeated() {
    let (mut first, second) = (Mock::start(), Mock::start());
    first.node().otherwise = Act::Hang;
    second.node().otherwise = Act::Hang;
    let client = client(&[&first, &second]);
    let set = tokio::spawn(async move { client.set("k", "v").await });
    while first.count("set") + second.count("set") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut second = second;
    if first.count("set") == 1 {
        first.crash()
    } else {
        second.crash()
    }
    let error = set.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(first.count("set") + second.count("set"), 1);
}

#[tokio::test]
async fn a_read_is_repeated_after_any_failure() {
    let (first, second) = (Mock::start(), Mock::start());
    for mock in [&first, &second] {
        mock.script([Act::Fail(Code::Unavailable), Act::Fail(Code::Unknown), Act::Refuse("OUTCOME_UNKNOWN")]);
    }
    assert_eq!(client(&[&first, &second]).get("k").await.unwrap().kv, None);
    assert!(first.count("get") + second.count("get") >= 4);
}

#[tokio::test]
async fn a_conditional_write_is_repeated_after_a_look() {
    let mock = Mock::start();
    let client = client(&[&mock]);
    let revision = client.set("k", "old").await.unwrap().header.revision;

    // Nothing was applied: it goes through, once.
    mock.script([Act::Fail(Code::Unknown)]);
    let answer = client.set("k", "new").if_revision(revision).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().kv.unwrap().version, 2);

    // Another was faster: the condition has failed.
    let revision = answer.header.revision;
    mock.script([Act::OvertakeAndFail("theirs", Code::Unknown)]);
    let error = client.set("k", "mine").if_revision(revision).await.unwrap_err();
    assert_eq!(error, Error::ConditionFailed { key: "k".into(), actual: Some(revision + 1) });

    // What is there may be our own work: nobody can tell.
    let revision = client.get("k").await.unwrap().kv.unwrap().mod_revision;
    mock.script([Act::ApplyAndFail(Code::Unknown)]);
    let error = client.set("k", "mine").if_revision(revision).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");

    // A key that must be absent can become so again: nobody can tell either.
    mock.script([Act::Fail(Code::Unknown)]);
    let error = client.set("other", "mine").if_absent().await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_batch_with_a_condition_on_its_own_key_is_repeated_after_a_look() {
    let mock = Mock::start();
    let client = client(&[&mock]);
    let revision = client.set("k", "old").await.unwrap().header.revision;
    mock.script([Act::Fail(Code::Unknown)]);
    let batch = client.batch().if_revision("k", revision).set("k", "new").delete(KeyRange::prefix("x/"));
    assert_eq!(batch.await.unwrap().deleted, [0, 0]);
    assert_eq!(mock.count("batch"), 2);

    // The key of this condition stays as it is, so that the batch could be applied twice.
    let revision = client.get("k").await.unwrap().kv.unwrap().mod_revision;
    mock.script([Act::Fail(Code::Unknown)]);
    let error = client.batch().if_revision("k", revision).set("other", "v").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(mock.count("batch"), 3);
}

#[tokio::test]
async fn an_answer_is_not_argued_with() {
    let mock = Mock::start();
    let client = client(&[&mock]);
    client.set("k", "v").await.unwrap();
    let error = client.set("k", "w").if_absent().await.unwrap_err();
    assert_eq!(error, Error::ConditionFailed { key: "k".into(), actual: Some(2) });
    let error = client.set("k", vec![0; 2 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    mock.script([Act::Refuse("NO_SPACE")]);
    let error = client.set("k", "w").await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(mock.count("set"), 3);
}

/// Of several conditions the error names the first that did not hold, and what it met.
#[tokio::test]
async fn a_refused_batch_says_which_key_it_was() {
    let mock = Mock::start();
    let client = client(&[&mock]);
    let revision = client.set("k", "v").await.unwrap().header.revision;
    let batch = client.batch().if_revision("k", revision).if_revision(&b"\0\xff"[..], 7).if_absent("k");
    let error = batch.set("other", "v").await.unwrap_err();
    assert_eq!(error, Error::ConditionFailed { key: (&b"\0\xff"[..]).into(), actual: None });
}

/// A connector that counts, and that takes every address for the same node.
#[derive(Debug, Default)]
struct Detour {
    to: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Connector for Detour {
    fn connect(&self, address: &str) -> Connecting {
        self.asked.lock().unwrap().push(address.to_owned());
        Tcp.connect(&self.to)
    }
}

/// Every connection is the connector's, to client and peer ports, and calls share it until it fails.
#[tokio::test]
async fn connections_are_made_by_the_connector() {
    let mut mock = Mock::start();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let options = |to: &str| {
        let (to, asked) = (to.to_owned(), Arc::clone(&asked));
        ConnectOptions::new().connector(Detour { to, asked })
    };
    let client = Client::builder(["nowhere.invalid:1"]).connect_options(options(&mock.endpoint()));
    let client = client.without_leader_search().connect_lazy().unwrap();
    client.set("k", "v").await.unwrap();
    client.get("k").await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["nowhere.invalid:1"]);
    mock.crash();
    mock.restart();
    client.get("k").await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["nowhere.invalid:1"; 2]);

    let peers = Peers::of_cluster(1, 0);
    let node = AdminClient::new("peer.invalid:2", Duration::from_secs(20)).unwrap();
    let node = node.connect_options(options(&peers.addresses[0]));
    assert_eq!(node.status().await.unwrap().leader_id, 1);
    let operations = Operations::at(vec!["peer.invalid:3".to_owned()], Duration::from_secs(20)).unwrap();
    let mut operations = operations.connect_options(options(&peers.addresses[0]));
    assert_eq!(operations.leader().await.unwrap().0, "peer.invalid:3");
    assert_eq!(asked.lock().unwrap()[2..], ["peer.invalid:2", "peer.invalid:3"]);
}

/// What the connector says is what a person is told; and it is bounded in time.
#[tokio::test]
async fn a_connector_that_fails_or_hangs_is_a_problem_of_its_endpoint() {
    #[derive(Debug)]
    struct Broken;
    impl Connector for Broken {
        fn connect(&self, address: &str) -> Connecting {
            match address {
                "a:1" => Box::pin(async { Err(std::io::Error::other("the tunnel is closed")) }),
                _ => Box::pin(std::future::pending()),
            }
        }
    }
    let options = ConnectOptions::new().connector(Broken).timeout(Duration::from_millis(50));
    let client = Client::builder(["a:1", "b:1"]).connect_options(options).timeout(Duration::from_millis(600));
    let begun = Instant::now();
    let error = client.without_leader_search().connect_lazy().unwrap().get("k").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let Error::Unanswered { mut tried, .. } = error else { panic!("{error}") };
    tried.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    let problems: Vec<_> = tried.iter().map(|tried| tried.problem.as_str()).collect();
    assert_eq!(problems, ["the tunnel is closed", "cannot be connected to in time"]);
}

#[tokio::test]
async fn the_leader_is_followed_and_remembered() {
    let store: Arc<Mutex<Store>> = Arc::default();
    let (follower, leader) = (Mock::with(1, Arc::clone(&store)), Mock::with(2, store));
    follower.node().otherwise = Act::Redirect(leader.endpoint());
    let client = client(&[&follower]);
    for _ in 0..10 {
        client.set("k", "v").await.unwrap();
    }
    assert_eq!((follower.count("set"), leader.count("set")), (1, 10));
    assert_eq!(client.endpoints(), [follower.endpoint(), leader.endpoint()]);
}

#[tokio::test]
async fn connecting_finds_the_leader_and_a_new_term_another() {
    let store: Arc<Mutex<Store>> = Arc::default();
    let mocks = [Mock::with(1, Arc::clone(&store)), Mock::with(2, Arc::clone(&store)), Mock::with(3, store)];
    let members: Vec<_> = mocks.iter().zip(1..).map(|(mock, id)| (id, mock.endpoint())).collect();
    let lead = |leader_id, term| {
        for mock in &mocks {
            let mut node = mock.node();
            (node.members, node.leader_id, node.term) = (members.clone(), leader_id, term);
        }
    };
    lead(3, 1);
    let client = Client::connect([mocks[0].endpoint()]).await.unwrap();
    client.set("k", "v").await.unwrap();
    assert_eq!(mocks[2].count("set"), 1);

    lead(2, 2);
    client.set("k", "v").await.unwrap();
    let noticed = async {
        while mocks[1].count("set") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            client.set("k", "v").await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(2), noticed).await.expect("the new leader was not noticed");
}

#[tokio::test]
async fn endpoints_that_are_down_are_passed_over() {
    let (mut down, up) = (Mock::start(), Mock::start());
    down.crash();
    let client = client(&[&down, &up]);
    let begun = Instant::now();
    for _ in 0..20 {
        client.set("k", "v").await.unwrap();
    }
    assert_eq!(up.count("set"), 20);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// What accepts, reads and closes without a word, as the way to a pod that is just going does, has seen
/// nothing of any writer, however many of them share the new connection.
#[tokio::test]
async fn nobody_writes_on_a_connection_before_the_node_has_answered_on_it() {
    let (first, second) = (Mock::start(), Mock::start());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let client = Client::builder([first.endpoint(), silent, second.endpoint()])
        .timeout(Duration::from_secs(2))
        .without_leader_search()
        .connect_lazy()
        .unwrap();
    client.get("k").await.unwrap();
    first.node().otherwise = Act::Refuse("NO_LEADER");
    let writes = (0..50).map(|key| client.set(format!("{key}"), "v").into_future());
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    assert_eq!(second.count("set"), 50);
}

/// Many writers, two nodes with one store, the one they use stops as a leader does on SIGTERM.
#[tokio::test]
async fn a_graceful_stop_is_invisible() {
    let store: Arc<Mutex<Store>> = Arc::default();
    let mut nodes = [Mock::with(1, Arc::clone(&store)), Mock::with(2, Arc::clone(&store))];
    let client = client(&[&nodes[0], &nodes[1]]);
    let end = Instant::now() + Duration::from_millis(900);
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut written = 0;
                while Instant::now() < end {
                    client.set(format!("{writer}/{written}"), "v").await?;
                    written += 1;
                }
                Ok::<_, Error>(written)
            })
        })
        .collect();
    let nodes = tokio::task::spawn_blocking(move || {
        for round in 0..4 {
            std::thread::sleep(Duration::from_millis(150));
            nodes[round % 2].stop_gracefully();
            nodes[round % 2].restart();
        }
        nodes
    })
    .await
    .unwrap();
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap().expect("a writer saw the stop");
    }
    drop(nodes);
    assert_eq!(store.lock().unwrap().changes.len(), written, "each write was applied once");
    assert!(written > 100, "only {written} writes");
}

#[tokio::test]
async fn a_call_keeps_its_deadline_and_names_the_endpoints() {
    let mock = Mock::start();
    mock.node().otherwise = Act::Hang;
    let client = client(&[&mock]);
    let begun = Instant::now();
    let error = client.get("k").timeout(Duration::from_millis(300)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
    let expected = format!("no endpoint answered within 300ms: {} (no answer in time)", mock.endpoint());
    assert_eq!(error.to_string(), expected);
    let error = client.set("k", "v").timeout(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    for (call, timeout) in &mock.node().calls {
        assert!(timeout.is_some(), "{call} told no deadline");
    }
}

#[tokio::test]
async fn endpoints_that_refuse_are_named() {
    let mut mock = Mock::start();
    mock.crash();
    let error = client(&[&mock]).set("k", "v").timeout(Duration::from_millis(200)).await.unwrap_err();
    let expected = format!("no endpoint answered within 200ms: {} (connection refused)", mock.endpoint());
    assert_eq!(error.to_string(), expected);
}

/// Nodes of no cluster stay so until a person does something: nobody waits for that. One that does not
/// answer may be a member, and is waited for.
#[tokio::test]
async fn nodes_of_no_cluster_are_not_waited_for() {
    let (first, mut second) = (Mock::start(), Mock::start());
    first.node().otherwise = Act::Refuse("UNJOINED");
    second.node().otherwise = Act::Refuse("STATUS_ONLY");
    let begun = Instant::now();
    let error = client(&[&first, &second]).set("k", "v").await.unwrap_err();
    assert!(matches!(&error, Error::NoCluster { tried } if tried.len() == 2), "{error}");
    for words in [first.endpoint(), "UNJOINED".into(), second.endpoint(), "STATUS_ONLY".into()] {
        assert!(error.to_string().contains(&words), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!((first.count("set"), second.count("set")), (1, 1));

    second.crash();
    let client = client(&[&first, &second]);
    let write = tokio::spawn(async move { client.set("k", "v").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!write.is_finished(), "a node that is down was not waited for");
    second.node().otherwise = Act::Serve;
    second.restart();
    write.await.unwrap().unwrap();
}

#[tokio::test]
async fn another_cluster_behind_an_endpoint_is_refused_before_a_write() {
    let mut mock = Mock::start();
    let client = client(&[&mock]);
    client.set("k", "v").await.unwrap();
    mock.crash();
    mock.node().cluster_id = 0xbad;
    mock.restart();
    // The first call may find the old connection broken; what counts is that none gets through.
    let error = match client.set("k", "w").await {
        Err(Error::OutcomeUnknown { .. }) => client.set("k", "w").await.unwrap_err(),
        outcome => outcome.unwrap_err(),
    };
    assert!(matches!(error, Error::ClusterChanged { expected: 0xc1, found: 0xbad, .. }), "{error}");
    assert_eq!(mock.count("set"), 1);
}

/// Goal: after a recovery nothing of the history before it is taken for the cluster's. Method: the node behind the
/// endpoint says a later incarnation, none, as an older release, and then the first one again.
#[tokio::test]
async fn an_incarnation_that_went_back_is_refused_before_a_write() {
    let mut mock = Mock::start();
    let client = client(&[&mock]);
    mock.node().incarnation = 2;
    client.set("k", "v").await.unwrap();
    mock.node().incarnation = 0;
    client.set("k", "v").await.unwrap();
    let written = mock.count("set");
    mock.crash();
    mock.node().incarnation = 1;
    mock.restart();
    let error = match client.set("k", "w").await {
        Err(Error::OutcomeUnknown { .. }) => client.set("k", "w").await.unwrap_err(),
        outcome => outcome.unwrap_err(),
    };
    assert!(matches!(error, Error::IncarnationWentBack { known: 2, found: 1, .. }), "{error}");
    assert_eq!(mock.count("set"), written);
}

#[tokio::test]
async fn endpoints_that_cannot_be_are_refused() {
    for endpoints in [vec![], vec!["localhost"], vec!["ftp://a:1"]] {
        let error = Client::builder(endpoints).connect_lazy().unwrap_err();
        assert!(matches!(error, Error::InvalidEndpoint { .. }), "{error}");
    }
}
