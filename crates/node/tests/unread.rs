//! Goal: what clients ask for and do not read takes a bounded part of memory. Method: the memory of this
//! process, which has the node and its clients, and one test at a time.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::disallowed_methods)]

mod fixture;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fixture::*;
use kvorum_proto::kv::v1::kv_client::KvClient;
use kvorum_proto::kv::v1::*;
use tokio::time::{sleep, timeout};

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
