//! Measures the raft log: appends per second, time of a sync and CPU per entry, for batches of
//! several sizes with one or more in flight.
//!
//! `cargo run --release -p kvorum-store --example log_bench -- [DIR]`
#![expect(clippy::print_stdout, reason = "the measurements are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kvorum_store::entry::{Entry, LogId};
use kvorum_store::log::{Log, LogObserver, LogOptions};

/// A put of 256 bytes, encoded.
const ENTRY_BYTES: usize = 300;
/// Batches in flight, as the proposer has.
const IN_FLIGHT: usize = 4;
const RUN: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Syncs {
    count: AtomicU64,
    write_us: AtomicU64,
    sync_us: AtomicU64,
}

impl LogObserver for Syncs {
    fn synced(&self, _bytes: usize, _entries: usize, write: Duration, sync: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.write_us.fetch_add(write.as_micros() as u64, Ordering::Relaxed);
        self.sync_us.fetch_add(sync.as_micros() as u64, Ordering::Relaxed);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    println!("batch  in flight   entries/s   syncs/s  write us  sync us  CPU us/entry  CPU us/sync");
    for in_flight in [1, IN_FLIGHT] {
        for batch in [1, 10, 100] {
            run(Path::new(&parent), batch, in_flight)?;
        }
    }
    Ok(())
}

fn run(parent: &Path, batch: u64, in_flight: usize) -> Result<(), Box<dyn std::error::Error>> {
    let dir = parent.join(format!("log-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let syncs = Arc::new(Syncs::default());
    let log = Log::open(&dir, 1, LogOptions { observer: Some(syncs.clone()), ..LogOptions::default() })?;
    let payload = bytes::Bytes::from(vec![7; ENTRY_BYTES]);
    let (send, receive) = mpsc::channel();
    let (cpu, started) = (cpu_us()?, Instant::now());
    let (mut next, mut waiting) = (0, 0);
    while started.elapsed() < RUN {
        let entries = (next..next + batch)
            .map(|index| Entry { log_id: LogId { term: 1, index }, payload: payload.clone() })
            .collect();
        next += batch;
        let send = send.clone();
        log.append(entries, Box::new(move || _ = send.send(())));
        waiting += 1;
        if waiting == in_flight {
            receive.recv()?;
            waiting -= 1;
        }
        if next.is_multiple_of(100_000) {
            log.purge(LogId { term: 1, index: next - 50_000 }, Box::new(|| ()));
        }
    }
    for _ in 0..waiting {
        receive.recv()?;
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), (cpu_us()? - cpu) as f64);
    let count = syncs.count.load(Ordering::Relaxed) as f64;
    println!(
        "{batch:>5}  {in_flight:>9}  {:>10.0}  {:>8.0}  {:>8.0}  {:>7.0}  {:>12.2}  {:>11.1}",
        next as f64 / seconds,
        count / seconds,
        syncs.write_us.load(Ordering::Relaxed) as f64 / count,
        syncs.sync_us.load(Ordering::Relaxed) as f64 / count,
        cpu / next as f64,
        cpu / count,
    );
    drop(log);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// User and system time of this process so far.
fn cpu_us() -> Result<u64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the name, may hold blanks; `utime` and `stime` are the 14th and 15th.
    let after = stat.rsplit_once(')').ok_or("no process name")?.1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Ok(ticks * 10_000)
}
