//! Goal: reads share threads, each is answered, and what they have in memory is bounded. Method: threads that begin
//! when the test says so, over a real store.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use kvorum_store::StoreOptions;
use kvorum_store::command::{Command, Kind, Op, OpKind, Put, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use prometheus::IntGauge;
use tokio::task::yield_now;
use tokio::time::Duration;

use super::*;
use crate::blocking::{Pool, Work};
use crate::net::budget::Budget;

/// Threads that wait for the test.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Work>>>);

impl Pool for Held {
    fn begin(&self, work: Work) {
        self.0.lock().unwrap().push(work);
    }
}

impl Held {
    /// Lets those run that have begun by now, and says how many that were.
    fn run(&self) -> usize {
        let works = std::mem::take(&mut *self.0.lock().unwrap());
        let count = works.len();
        works.into_iter().for_each(|work| work());
        count
    }
}

struct World {
    _dir: tempfile::TempDir,
    threads: Held,
    reads: KeyReads,
}

impl World {
    /// A store of ten keys, `0` to `9`, with values of so many bytes.
    fn new(value_bytes: usize) -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        for number in 0..10 {
            let put = Put { key: key(number), value: vec![0; value_bytes].into(), ttl_ms: 0 };
            let write = Write { ops: vec![Op { kind: Some(OpKind::Put(put)) }], ..Write::default() };
            let payload = encode_batch(1, [Command::from(Kind::Write(write)).encoded()].iter());
            store.apply(&[Entry { log_id: LogId { term: 1, index: number as u64 }, payload }]).unwrap();
        }
        let threads = Held::default();
        let reads = KeyReads::new(store, Blocking::new(threads.clone()));
        World { _dir: dir, threads, reads }
    }

    fn read(&self, number: usize) -> impl Future<Output = Result<Read, RequestError>> + Unpin + '_ {
        Box::pin(self.reads.read(key(number), 0, None))
    }
}

fn key(number: usize) -> Bytes {
    Bytes::from((number % 10).to_string())
}

fn account() -> Account {
    Budget::new(100, Duration::from_secs(60), IntGauge::new("used", "used").unwrap()).account()
}

/// The key's own record, or what came instead.
fn found(read: Result<Read, RequestError>) -> Bytes {
    match read {
        Ok(Read::Done(Ok(Get { record: Some(record), .. }), _)) => {
            Bytes::from(record.mod_revision.to_string())
        }
        Ok(Read::Done(got, _)) => panic!("{got:?}"),
        Ok(Read::NoRoom) => panic!("nobody takes any room"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn reads_share_a_thread_and_each_gets_its_own_key() {
    let world = World::new(10);
    let mut all = Box::pin(join_all((0..2 * READS_MAX + 1).map(|number| world.read(number))));
    assert!(all.as_mut().now_or_never().is_none());
    // The first was begun for all of them; it calls the next as it takes its own.
    assert_eq!(
        [world.threads.run(), world.threads.run(), world.threads.run(), world.threads.run()],
        [1, 1, 1, 0]
    );
    for (number, read) in all.await.into_iter().enumerate() {
        assert_eq!(found(read), (number % 10 + 2).to_string(), "each key has a revision of its own");
    }
    let mut again = world.read(3);
    assert!((&mut again).now_or_never().is_none());
    assert_eq!(world.threads.run(), 1, "who comes later calls a thread again");
    again.await.unwrap();
}

#[tokio::test]
async fn large_values_are_in_memory_for_so_many_threads_only() {
    let world = World::new(VALUE_BYTES_MAX);
    let mut waiting: Vec<_> = (0..READS_MAX).map(|number| world.read(number)).collect();
    waiting.iter_mut().for_each(|read| assert!(read.now_or_never().is_none()));
    let mut held = Vec::new();
    while world.threads.run() > 0 {
        take_answers(&mut waiting, &mut held);
        // Threads that wait for a place are tasks.
        yield_now().await;
    }
    assert_eq!(held.len(), THREADS_MAX, "a value a thread, and nobody has counted its own yet");
    while !waiting.is_empty() {
        let before = waiting.len();
        held.pop().unwrap();
        yield_now().await;
        assert_eq!(world.threads.run(), 1, "whoever has counted its value makes room for the next");
        take_answers(&mut waiting, &mut held);
        assert_eq!(waiting.len(), before - 1);
    }
}

/// Takes what was answered by now.
fn take_answers<R>(waiting: &mut Vec<R>, held: &mut Vec<Read>)
where
    R: Future<Output = Result<Read, RequestError>> + Unpin,
{
    waiting.retain_mut(|read| {
        let answer = read.now_or_never().map(Result::unwrap);
        let waits = answer.is_none();
        held.extend(answer);
        waits
    });
}

#[tokio::test]
async fn who_leaves_or_has_no_room_holds_up_nobody() {
    let world = World::new(10);
    let mut leaves = world.read(1);
    assert!((&mut leaves).now_or_never().is_none());
    let (account, mut other) = (account(), world.read(2));
    let mut crowded = Box::pin(world.reads.read(key(3), 0, Some(account.clone())));
    assert!(crowded.as_mut().now_or_never().is_none());
    assert!((&mut other).now_or_never().is_none());
    drop(leaves);
    let room = account.charge(100);
    assert_eq!(world.threads.run(), 1);
    assert!(matches!(crowded.await, Ok(Read::NoRoom)));
    assert_eq!(found(other.await), "4");
    drop(room);
}
