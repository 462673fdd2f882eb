//! Many watchers of the same keys: how soon after its start is a write seen by each of them?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use crate::api::{self, Events};
use crate::args::WatchArgs;
use crate::dataset::Dataset;
use crate::load::{self, Meter, Run, RunError};
use crate::record::Class;
use crate::report::Report;

/// The bytes at the start of a value that say when its write started, in nanoseconds since the start of the run.
const STAMP_BYTES: usize = 8;

/// Events that do not arrive while none has for so long are lost.
const SILENCE: Duration = Duration::from_secs(10);

/// How often the watchers are looked at after the last write.
const DRAIN_TICK: Duration = Duration::from_millis(5);

/// Writes while watchers follow.
pub async fn run(args: &WatchArgs) -> Result<Report, RunError> {
    let load = &args.load;
    if load.val_size < STAMP_BYTES {
        return Err(RunError::Watch(format!("--val-size must be at least {STAMP_BYTES}: it carries a time")));
    }
    let dataset = Dataset::new(load);
    let writers = api::connect(load).await?;
    let mut streams = Vec::with_capacity(args.watchers);
    let mut watched = api::connect(load).await?;
    for watcher in 0..args.watchers {
        let target = watcher % watched.len();
        let events = watched[target].watch(load::every_key(&dataset)).await;
        streams.push(events.map_err(|status| RunError::Watch(format!("watch: {}", api::describe(&status))))?);
    }

    let meter = Meter::start(load)?;
    let (run, progress) = Run::start(load);
    let received = Arc::new(AtomicU64::new(0));
    let mut watchers = JoinSet::new();
    for events in streams {
        watchers.spawn(follow(events, run.clone(), received.clone()));
    }
    let written = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..load.clients {
        let target = writers[client % writers.len()].clone();
        tasks.spawn(write(target, dataset.for_client(client), run.clone(), written.clone()));
    }
    run.finish(tasks, &progress).await;
    let writes = written.load(Ordering::Relaxed);
    let expected = writes * args.watchers as u64;
    drain(&received, expected).await;
    let window = meter.end()?;
    drop(watchers);

    let mut record = run.record();
    let lost = expected.saturating_sub(received.load(Ordering::Relaxed));
    if lost > 0 {
        record.failures(format!("events not seen within {SILENCE:?}"), lost);
    }
    record.keys = writes;
    let name = format!("watch by {}", args.watchers);
    Ok(Report::new(name, load, &mut record, run.pace.unsent(), window))
}

async fn write(mut target: api::Target, mut dataset: Dataset, run: Arc<Run>, written: Arc<AtomicU64>) {
    while let Some(slot) = run.pace.next().await {
        let (key, value) = (dataset.key(slot.number), dataset.value());
        let value = stamped(&value, slot.intended - run.pace.started());
        match target.put(key, value).await {
            Ok(()) => {
                written.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => run.failed(&status).await,
        }
    }
}

async fn follow(mut events: Events, run: Arc<Run>, received: Arc<AtomicU64>) {
    loop {
        let result = events
            .next(|value| {
                let sent = run.pace.started() + stamp(value);
                run.record().latency(Class::Read, sent.elapsed());
                received.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        if let Err(status) = result {
            return run.failed(&status).await;
        }
    }
}

/// Waits until everything has arrived, or nothing more does.
async fn drain(received: &AtomicU64, expected: u64) {
    let (mut seen, mut since) = (received.load(Ordering::Relaxed), Instant::now());
    while seen < expected && since.elapsed() < SILENCE {
        tokio::time::sleep(DRAIN_TICK).await;
        let now = received.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

fn stamped(value: &[u8], at: Duration) -> Bytes {
    let mut stamped = BytesMut::from(value);
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    stamped[..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
    stamped.freeze()
}

/// When the write of this value started. Somebody else's value counts from the start of the run.
fn stamp(value: &[u8]) -> Duration {
    value.first_chunk().map_or(Duration::ZERO, |nanos| Duration::from_nanos(u64::from_be_bytes(*nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a value carries its time and keeps its size. Method: there and back.
    #[test]
    fn a_value_carries_its_time() {
        let at = Duration::from_nanos(123_456_789_012);
        let value = stamped(&[7; 20], at);
        assert_eq!((stamp(&value), value.len(), value[19]), (at, 20, 7));
        assert_eq!(stamp(b"short"), Duration::ZERO);
    }
}
