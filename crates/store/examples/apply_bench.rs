//! CPU per put of the store alone: `cargo run --release -p kvorum-store --example apply_bench [KEYS]`.
//! Runs of 100 puts of 256 bytes, first to fresh keys in random order, then over existing ones,
//! flushes and compactions included. Prints microseconds of CPU of the whole process per put.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::time::Instant;

use bytes::Bytes;
use kvorum_store::command::{Command, Kind, Op, OpKind, Put, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{Store, StoreOptions};

const RUN: u64 = 100;
const VALUE_BYTES: usize = 256;

fn main() {
    let arg = |n| std::env::args().nth(n).and_then(|arg| arg.parse::<u64>().ok());
    let keys = arg(1).unwrap_or(500_000);
    let cache_bytes = arg(2).map_or(StoreOptions::default().cache_bytes, |mib| (mib as usize) << 20);
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = Store::open(dir.path(), StoreOptions { cache_bytes, ..StoreOptions::default() })
        .expect("the store opens");
    let mut index = 0;
    for name in ["fresh keys", "overwrites", "overwrites again"] {
        put_all(&store, name, keys, &mut index);
    }
    gets(&store, keys);
    println!("{:?}", store.stats());
}

fn put_all(store: &Store, name: &str, keys: u64, index: &mut u64) {
    let (mut applied_us, mut made_us) = (0, 0);
    let (started, cpu_before) = (Instant::now(), cpu_us());
    for first in (0..keys).step_by(RUN as usize) {
        let making = Instant::now();
        let commands: Vec<Bytes> = (first..first + RUN).map(|number| put(number, keys)).collect();
        let entry =
            Entry { log_id: LogId { term: 1, index: *index }, payload: encode_batch(1, commands.iter()) };
        *index += 1;
        made_us += making.elapsed().as_micros();
        let applying = Instant::now();
        let run = store.apply(&[entry]).expect("entries are applied");
        drop(run);
        applied_us += applying.elapsed().as_micros();
    }
    let per_put = |us: u128| us as f64 / keys as f64;
    let cpu = cpu_us() - cpu_before;
    println!(
        "{name}: {:.2} us of CPU per put, of which {:.2} make the entry; apply takes {:.2} us; {:.1} s in all",
        per_put(cpu),
        per_put(made_us),
        per_put(applied_us),
        started.elapsed().as_secs_f64()
    );
}

fn gets(store: &Store, keys: u64) {
    let started = Instant::now();
    let count = keys.min(200_000);
    for number in 0..count {
        let get = store.get(&key(number, keys), 0).expect("the store can be read");
        assert!(get.record.is_some());
    }
    println!("gets: {:.2} us each", started.elapsed().as_micros() as f64 / count as f64);
}

/// Every key once, in an order without neighbours: a prime walks through all of them.
fn key(number: u64, keys: u64) -> Vec<u8> {
    format!("key-{:012}", number * 7_368_787 % keys).into_bytes()
}

fn put(number: u64, keys: u64) -> Bytes {
    // Values that do not compress.
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    });
    let value = value.take(VALUE_BYTES).collect::<Vec<u8>>().into();
    let put = OpKind::Put(Put { key: key(number, keys).into(), value, ttl_ms: 0 });
    Command::from(Kind::Write(Write { ops: vec![Op { kind: Some(put) }], ..Write::default() })).encoded()
}

/// CPU time of this process so far, user and system, in hundredths of a second as Linux keeps it.
fn cpu_us() -> u128 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let after_name = stat.rsplit(')').next().expect("split yields something");
    let field = |n| after_name.split_whitespace().nth(n).and_then(|f| f.parse::<u128>().ok()).unwrap_or(0);
    (field(11) + field(12)) * 10_000
}
