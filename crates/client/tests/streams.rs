//! Goal: scans and watches survive disconnects: each key and each event once, in order, memory bounded.
//! Method: a pretended cluster that breaks streams off at given places, or crashes.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use kvorum_client::{Changes, Client, Error, EventKind, KeyRange, Scan, WatchStream};

use kvorum_mock::{Act, Mock, Store};

fn client(mocks: &[&Mock]) -> Client {
    let endpoints = mocks.iter().map(|mock| mock.endpoint());
    Client::builder(endpoints).timeout(Duration::from_secs(2)).without_leader_search().connect_lazy().unwrap()
}

fn fill(store: &Mutex<Store>, keys: usize) {
    let mut store = store.lock().unwrap();
    for i in 0..keys {
        store.put(&format!("k/{i:04}").into(), &"v".into());
    }
}

async fn keys(scan: Scan) -> Vec<String> {
    let kvs: Vec<_> = scan.start().try_collect().await.unwrap();
    kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_scan_resumes_behind_its_last_key_at_its_revision() {
    let mock = Mock::start();
    fill(&mock.store(), 200);
    let all: Vec<_> = (0..200).map(|i| format!("k/{i:04}")).collect();
    let client = client(&[&mock]);

    mock.script([Act::Cut(0), Act::Cut(3), Act::Refuse("SHUTTING_DOWN"), Act::Cut(1), Act::Cut(7)]);
    let mut scan = client.scan(KeyRange::prefix("k/")).start();
    let mut seen = Vec::new();
    while let Some(kv) = scan.next().await {
        seen.push(String::from_utf8(kv.unwrap().key.to_vec()).unwrap());
        if seen.len() == 15 {
            // It is not part of what the scan reads.
            mock.store().lock().unwrap().put(&"k/9999".into(), &"late".into());
        }
    }
    assert_eq!(seen, all);
    assert_eq!(scan.revision(), Some(201));
    assert_eq!(mock.count("scan"), 6);

    mock.script([Act::Cut(2), Act::Cut(1)]);
    let reverse = keys(client.scan(KeyRange::prefix("k/")).at_revision(201).reverse()).await;
    assert!(reverse.iter().eq(all.iter().rev()));

    mock.script([Act::Cut(1), Act::Cut(1)]);
    assert_eq!(keys(client.scan(KeyRange::all()).limit(35)).await, all[..35]);
}

#[tokio::test]
async fn a_scan_survives_a_crash() {
    let store: Arc<Mutex<Store>> = Arc::default();
    fill(&store, 500);
    let (mut first, mut second) = (Mock::with(1, Arc::clone(&store)), Mock::with(2, store));
    let client = client(&[&first, &second]);
    let mut scan = client.scan(KeyRange::all()).start();
    let mut count = 0;
    while let Some(kv) = scan.next().await {
        assert_eq!(kv.unwrap().key, format!("k/{count:04}"));
        count += 1;
        if count == 100 {
            if first.count("scan") > 0 { first.crash() } else { second.crash() }
        }
    }
    assert_eq!(count, 500);
}

#[tokio::test]
async fn a_scan_without_any_answer_ends_at_its_deadline() {
    let mut mock = Mock::start();
    mock.crash();
    let scan = client(&[&mock]).scan(KeyRange::all()).timeout(Duration::from_millis(200)).start();
    let error = scan.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, Error::Unanswered { .. }), "{error}");
}

async fn next_events(watch: &mut WatchStream) -> Changes {
    loop {
        let changes = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
        let changes = changes.expect("no event came").expect("the watch ended").unwrap();
        if !changes.events.is_empty() {
            return changes;
        }
    }
}

#[tokio::test]
async fn a_watch_reports_each_event_once_whatever_breaks() {
    let mock = Mock::start();
    mock.script([
        Act::Cut(3),
        Act::Refuse("NO_LEADER"),
        Act::Cut(0),
        Act::Cut(1),
        Act::Cut(4),
        Act::Cut(2),
        Act::Cut(1),
    ]);
    let client = client(&[&mock]);
    let mut watch = client.watch(KeyRange::prefix("k/")).start().await.unwrap();
    {
        let store = mock.store();
        let mut store = store.lock().unwrap();
        for i in 0..20 {
            // Each revision has three events, which breaks cut apart.
            store.put(&format!("k/{i}/a").into(), &"1".into());
            store.put_same(&format!("k/{i}/b").into(), &"2".into());
            store.put_same(&format!("k/{i}/c").into(), &"3".into());
            store.put(&"unwatched".into(), &"x".into());
        }
    }
    for i in 0..20 {
        let changes = next_events(&mut watch).await;
        assert_eq!(changes.revision, 2 + 2 * i);
        assert!(!changes.partial);
        let keys: Vec<_> = changes.events.iter().map(|event| event.kv.key.clone()).collect();
        assert_eq!(keys, [format!("k/{i}/a"), format!("k/{i}/b"), format!("k/{i}/c")]);
    }
    assert_eq!(mock.count("watch"), 8);
}

#[tokio::test]
async fn a_watch_survives_a_crash_and_a_restart() {
    let mut mock = Mock::start();
    let client = client(&[&mock]);
    let mut watch = client.watch(KeyRange::key("k")).start().await.unwrap();
    mock.store().lock().unwrap().put(&"k".into(), &"1".into());
    assert_eq!(next_events(&mut watch).await.revision, 2);
    mock.crash();
    mock.store().lock().unwrap().put(&"k".into(), &"2".into());
    let waiting = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(waiting.is_err(), "it waits for the node: {waiting:?}");
    mock.restart();
    assert_eq!(next_events(&mut watch).await.revision, 3);
    let range = kvorum_proto::kv::v1::KeyRange { start: "k".into(), ..Default::default() };
    mock.store().lock().unwrap().delete(&range);
    let changes = next_events(&mut watch).await;
    assert_eq!((changes.revision, changes.events[0].kind), (4, EventKind::Delete));
}

#[tokio::test]
async fn a_watch_of_the_past_begins_there_or_says_that_it_is_compacted() {
    let mock = Mock::start();
    fill(&mock.store(), 10);
    let client = client(&[&mock]);
    let mut watch = client.watch(KeyRange::all()).from_revision(4).start().await.unwrap();
    assert_eq!(next_events(&mut watch).await.revision, 4);

    mock.store().lock().unwrap().compacted = 8;
    let error = client.watch(KeyRange::all()).from_revision(4).start().await.unwrap_err();
    assert!(matches!(error, Error::Compacted { compacted: Some(8), .. }), "{error}");

    // One that is running meets the compaction when it has to resume.
    mock.node().script.push_back(Act::Cut(2));
    let mut watch = client.watch(KeyRange::all()).from_revision(8).start().await.unwrap();
    assert_eq!(next_events(&mut watch).await.revision, 8);
    assert_eq!(next_events(&mut watch).await.revision, 9);
    mock.store().lock().unwrap().compacted = 11;
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    assert!(watch.next().await.is_none());
}
