//! Goal: what clients ask for and do not read takes a bounded part of memory. Method: the memory of this
//! process, which has the node and its clients, and one test at a time.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::disallowed_methods)]

mod fixture;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fixture::*;
use kvorum_proto::kv::v1::kv_client::KvClient;
use kvorum_proto::kv::v1::*;
use tokio::time::{sleep, timeout};
use tonic::codegen::{Service as _, http};

/// What another test took would count here.
static ALONE: Mutex<()> = Mutex::new(());

/// What this process has in memory, in bytes: node and clients.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Goal: what a client asks for and does not read takes a bounded part of memory, keeps nobody else from
/// being answered, and is all there when it reads on.
/// Method: 1,500 scans of a value of 1 MiB on one connection.
#[test]
fn scans_that_nobody_reads_take_bounded_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async_scans_that_nobody_reads_take_bounded_memory());
}

async fn async_scans_that_nobody_reads_take_bounded_memory() {
    const SCANS: usize = 1500;
    const VALUE_BYTES: usize = 1 << 20;
    let mut fixture = Fixture::start().await;
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    fixture.set("big", value.clone()).await;
    let before = resident_bytes();
    let (go, gone) = tokio::sync::watch::channel(false);
    let mut scans = tokio::task::JoinSet::new();
    for _ in 0..SCANS {
        let (mut kv, mut gone, value) = (fixture.kv.clone(), gone.clone(), value.clone());
        scans.spawn(async move {
            let request = ScanRequest { range: everything(), ..Default::default() };
            let mut pages = kv.scan(request).await.unwrap().into_inner();
            gone.wait_for(|go| *go).await.unwrap();
            let mut bytes = 0;
            while let Some(page) = pages.message().await.unwrap() {
                assert!(page.kvs.iter().all(|kv| kv.key == "big" && kv.value == value));
                bytes += page.kvs.iter().map(|kv| kv.value.len()).sum::<usize>();
            }
            bytes
        });
    }
    let mut most = 0;
    for _ in 0..40 {
        sleep(Duration::from_millis(100)).await;
        most = most.max(resident_bytes().saturating_sub(before));
    }
    assert!(most < 200 << 20, "{} MiB for scans that nobody reads", most >> 20);
    assert!(scans.try_join_next().is_none());

    let mut other = KvClient::new(connect(fixture.node().addresses.client).await);
    let begun = Instant::now();
    let get = GetRequest { key: "big".into(), ..Default::default() };
    assert!(timeout(Duration::from_secs(10), other.get(get)).await.unwrap().unwrap().into_inner().found);
    let request = ScanRequest { range: everything(), ..Default::default() };
    let mut pages =
        timeout(Duration::from_secs(10), other.scan(request)).await.unwrap().unwrap().into_inner();
    let page = timeout(Duration::from_secs(10), pages.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(page.kvs[0].value.len(), VALUE_BYTES);
    eprintln!("{} MiB; another connection was answered after {:?}", most >> 20, begun.elapsed());

    go.send_replace(true);
    let mut done = 0;
    while let Some(bytes) = timeout(Duration::from_secs(120), scans.join_next()).await.unwrap() {
        assert_eq!(bytes.unwrap(), VALUE_BYTES);
        done += 1;
    }
    assert_eq!(done, SCANS);
    fixture.stop().await;
}

/// Goal: watches that are behind and are not read take a bounded part of memory, however many read the same
/// changes at once, and all of them get all of it when they read on.
/// Method: watches of everything on one connection, from before what the ring holds, and a small budget.
#[test]
fn watches_that_nobody_reads_take_bounded_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async_watches_that_nobody_reads_take_bounded_memory());
}

async fn async_watches_that_nobody_reads_take_bounded_memory() {
    const WATCHES: usize = 60;
    const VALUES: usize = 12;
    let mut fixture = Fixture::start_with(0, &["--send-budget-bytes", "8MiB"]).await;
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    let first = fixture.set("big", value.clone()).await;
    for _ in 1..VALUES {
        fixture.set("big", value.clone()).await;
    }
    let before = resident_bytes();
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let request = WatchRequest { range: everything(), from_revision: first, previous: false };
        watches.push(fixture.kv.watch(request).await.unwrap().into_inner());
    }
    let mut most = 0;
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        most = most.max(resident_bytes().saturating_sub(before));
    }
    assert!(most < 40 << 20, "{} MiB for {WATCHES} watches that nobody reads", most >> 20);
    let mut readers = tokio::task::JoinSet::new();
    for mut watch in watches {
        readers.spawn(async move {
            let mut next = first;
            while next < first + VALUES as u64 {
                for event in watch.message().await.unwrap().unwrap().events {
                    assert_eq!(event.kv.unwrap().mod_revision, next);
                    next += 1;
                }
            }
        });
    }
    while let Some(read) = timeout(Duration::from_secs(120), readers.join_next()).await.unwrap() {
        read.unwrap();
    }
    fixture.stop().await;
}

/// Goal: requests that are never sent to their end take a bounded part of memory, and keep nobody else from being
/// served; those that find no room are refused, and nothing of them is done.
/// Method: 1,000 sets of 1 MiB on one connection, each but for its last byte.
#[test]
fn requests_that_never_end_take_bounded_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async_requests_that_never_end_take_bounded_memory());
}

async fn async_requests_that_never_end_take_bounded_memory() {
    const SETS: usize = 1000;
    const MESSAGE_BYTES: usize = 1 << 20;
    let mut fixture = Fixture::start().await;
    let before = resident_bytes();
    let mut message = vec![0];
    message.extend((MESSAGE_BYTES as u32).to_be_bytes());
    message.resize(5 + MESSAGE_BYTES - 1, b'v');
    let message = Bytes::from(message);
    let channel = connect(fixture.node().addresses.client).await;
    let mut sets = tokio::task::JoinSet::new();
    for _ in 0..SETS {
        let (mut channel, body) = (channel.clone(), Unfinished(Some(message.clone())));
        sets.spawn(async move {
            let request = http::Request::post("http://node/kv.v1.Kv/Set")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(body));
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let answer = channel.call(request.unwrap()).await.unwrap();
            answer.headers()["grpc-status"].to_str().unwrap().to_owned()
        });
    }
    let mut most = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        most = most.max(resident_bytes().saturating_sub(before));
        sleep(Duration::from_millis(10)).await;
    }
    assert!(most < 200 << 20, "{} MiB for requests that never end", most >> 20);
    let mut other = KvClient::new(connect(fixture.node().addresses.client).await);
    let set = SetRequest { key: "big".into(), value: vec![b'v'; MESSAGE_BYTES].into(), ..Default::default() };
    timeout(Duration::from_secs(10), other.set(set)).await.unwrap().unwrap();
    let mut ended: HashMap<String, usize> = HashMap::new();
    while let Some(status) = timeout(Duration::from_secs(60), sets.join_next()).await.unwrap() {
        *ended.entry(status.unwrap()).or_default() += 1;
    }
    // Those that had room were waited for; the connection has half of 128 MiB.
    let code = |code: tonic::Code| (code as i32).to_string();
    let expected =
        [(code(tonic::Code::DeadlineExceeded), 64), (code(tonic::Code::ResourceExhausted), SETS - 64)];
    assert_eq!(ended, HashMap::from(expected));
    fixture.stop().await;
}

/// Goal: who sends more at once than there is room for is told so, and keeps his connection and what is open on it.
/// Method: a hundred sets of 1 MiB at once, beside a watch.
#[test]
fn more_than_there_is_room_for_closes_no_connection() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async_more_than_there_is_room_for_closes_no_connection());
}

async fn async_more_than_there_is_room_for_closes_no_connection() {
    const SETS: usize = 100;
    let mut fixture = Fixture::start().await;
    let kv = KvClient::new(connect(fixture.node().addresses.client).await);
    let request = WatchRequest { range: everything(), from_revision: 0, previous: false };
    let mut watch = kv.clone().watch(request).await.unwrap().into_inner();
    let mut sets = tokio::task::JoinSet::new();
    for number in 0..SETS {
        let mut kv = kv.clone();
        let key = format!("big/{number}").into();
        sets.spawn(async move {
            kv.set(SetRequest { key, value: vec![b'v'; 1 << 20].into(), ..Default::default() }).await
        });
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(set) = timeout(Duration::from_secs(60), sets.join_next()).await.unwrap() {
        match set.unwrap() {
            Ok(_) => done += 1,
            Err(status) if status.code() == tonic::Code::ResourceExhausted => refused += 1,
            // A slow machine may take longer than the call has.
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => {}
            Err(status) => panic!("{status:?}"),
        }
    }
    assert!(done > 0, "{refused} were refused, and all others were too late");
    let mut kv = kv;
    kv.set(SetRequest { key: "small".into(), ..Default::default() }).await.unwrap();
    let mut seen = 0;
    while seen <= done {
        let next = timeout(Duration::from_secs(60), watch.message()).await.unwrap();
        seen += next.unwrap().unwrap().events.len();
    }
    fixture.stop().await;
}

/// A request's body of which the end never comes.
struct Unfinished(Option<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        self.0.take().map_or(std::task::Poll::Pending, |begun| {
            std::task::Poll::Ready(Some(Ok(http_body::Frame::data(begun))))
        })
    }
}
