//! Clients that each have one request under way.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio::task::JoinSet;
use tonic::Status;

use crate::api::{self, Range, Target, TargetError};
use crate::args::LoadArgs;
use crate::dataset::Dataset;
use crate::pace::{End, Pace, Slot};
use crate::process::{self, ProcessError, Servers};
use crate::progress::{self, Progress};
use crate::record::{Class, Done, Record};
use crate::report::{Report, Window};
use crate::workload::{Consistency, Workload};

/// A run in which nothing is answered for so long is over: what is under way counts as failed.
const STALL: Duration = Duration::from_secs(30);

/// After a failure a client waits this long, so that servers which refuse everything are not flooded.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// The first key after all keys, which begin with digits.
const KEYS_END: Bytes = Bytes::from_static(b":");

/// Why a run gave no result.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is nothing to put load on.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A server could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The watchers could not start, or their values are too short to tell when they were written.
    #[error("{0}")]
    Watch(String),
}

/// What the clients of a run share.
pub struct Run {
    /// Hands out the requests.
    pub pace: Pace,
    record: Mutex<Record>,
}

impl Run {
    /// Starts the run that the command line asks for.
    pub fn start(args: &LoadArgs) -> (Arc<Run>, Progress) {
        let end = match args.total {
            Some(total) => End::After(total.get()),
            None => End::At(Instant::now() + args.duration()),
        };
        let pace = Pace::start(end, args.rate);
        let progress = Progress::new(end, pace.started());
        (Arc::new(Run { pace, record: Mutex::new(Record::new()) }), progress)
    }

    /// What was observed so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("nobody panics while holding the record")
    }

    /// Notes how a request ended, and waits a little when it failed.
    pub async fn note(&self, slot: &Slot, result: Result<Done, Status>) {
        match result {
            Ok(done) => self.record().done(&done, slot.intended.elapsed()),
            Err(status) => self.failed(&status).await,
        }
    }

    /// Notes a failure, and waits a little.
    pub async fn failed(&self, status: &Status) {
        self.record().failed(status);
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }

    /// Waits for the clients to end, or for a stall.
    pub async fn finish(&self, mut clients: JoinSet<()>, progress: &Progress) {
        let mut tick = tokio::time::interval(progress::TICK);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            tokio::select! {
                ended = clients.join_next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = tick.tick() => {
                    let (ops, errors) = { let record = self.record(); (record.ops(), record.errors) };
                    progress.show(ops, errors);
                    if ops + errors != seen {
                        (seen, since) = (ops + errors, Instant::now());
                    } else if since.elapsed() > STALL {
                        self.record().failures(format!("no answer within {STALL:?}"), clients.len() as u64);
                        break;
                    }
                }
            }
        }
        progress.finish();
    }
}

/// Measures what happens between its making and its end.
pub struct Meter {
    servers: Servers,
    servers_cpu_us: Option<u64>,
    own_cpu_us: u64,
    start: Instant,
}

impl Meter {
    /// Starts now.
    pub fn start(args: &LoadArgs) -> Result<Meter, ProcessError> {
        let servers = Servers::new(&args.pid);
        let servers_cpu_us = servers.cpu_us()?;
        Ok(Meter { servers_cpu_us, servers, own_cpu_us: process::own_cpu_us()?, start: Instant::now() })
    }

    /// Ends now.
    pub fn end(self) -> Result<Window, ProcessError> {
        let elapsed = self.start.elapsed();
        let servers_cpu_us = self.servers.cpu_us()?.zip(self.servers_cpu_us).map(|(end, start)| end - start);
        Ok(Window {
            elapsed,
            servers_cpu_us,
            own_cpu_us: process::own_cpu_us()? - self.own_cpu_us,
            rss_max_bytes: self.servers.rss_max_bytes()?,
        })
    }
}

/// Puts the load of `workload` on the servers.
pub async fn run(workload: Workload, args: &LoadArgs) -> Result<Report, RunError> {
    let targets = api::connect(args).await?;
    let dataset = Dataset::new(args);
    let clients: Vec<_> = (0..args.clients)
        .map(|client| (targets[client % targets.len()].clone(), dataset.for_client(client)))
        .collect();
    let meter = Meter::start(args)?;
    let (run, progress) = Run::start(args);
    let mut tasks = JoinSet::new();
    for (mut target, mut dataset) in clients {
        let run = run.clone();
        tasks.spawn(async move {
            while let Some(slot) = run.pace.next().await {
                let result = step(workload, &mut target, &mut dataset, slot.number).await;
                run.note(&slot, result).await;
            }
        });
    }
    run.finish(tasks, &progress).await;
    let window = meter.end()?;
    let mut record = run.record();
    Ok(Report::new(workload.name(), args, &mut record, run.pace.unsent(), window))
}

async fn step(
    workload: Workload,
    target: &mut Target,
    dataset: &mut Dataset,
    number: u64,
) -> Result<Done, Status> {
    match workload {
        Workload::Put => put(target, dataset, number).await,
        Workload::Get(consistency) => get(target, dataset, number, consistency).await,
        Workload::Mixed { read_percent, consistency } => {
            if dataset.chance(read_percent) {
                get(target, dataset, number, consistency).await
            } else {
                put(target, dataset, number).await
            }
        }
        Workload::Scan { limit, consistency } => {
            let range = Range { start: dataset.key(number), end: KEYS_END };
            let keys = target.scan(range, limit, consistency).await?;
            Ok(Done { class: Class::Read, keys, missing: 0 })
        }
        Workload::Fill { batch } => {
            let first = number * batch;
            let keys = batch.min(dataset.key_space().saturating_sub(first));
            let records: Vec<_> =
                (first..first + keys).map(|number| (dataset.key_number(number), dataset.value())).collect();
            target.put_all(records.into_iter()).await?;
            Ok(Done { class: Class::Write, keys, missing: 0 })
        }
    }
}

async fn put(target: &mut Target, dataset: &mut Dataset, number: u64) -> Result<Done, Status> {
    target.put(dataset.key(number), dataset.value()).await?;
    Ok(Done { class: Class::Write, keys: 1, missing: 0 })
}

async fn get(
    target: &mut Target,
    dataset: &mut Dataset,
    number: u64,
    consistency: Consistency,
) -> Result<Done, Status> {
    let found = target.get(dataset.key(number), consistency).await?;
    Ok(Done { class: Class::Read, keys: u64::from(found), missing: u64::from(!found) })
}

/// All keys of the key space.
pub fn every_key(dataset: &Dataset) -> Range {
    Range { start: dataset.key_number(0), end: KEYS_END }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::echo;

    async fn report(workload: Workload, options: &str) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(echo::serve(listener));
        let line = format!("kvorum-bench put --endpoints {address} {options}");
        let Command::Put(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("{line} is not a put")
        };
        let report = run(workload, &args).await.unwrap();
        server.abort();
        report
    }

    /// Goal: each asked request is sent once and counted once, through our own transport, and more goes through it
    /// in either direction than the windows hold. Method: fixed numbers of requests to the echo server.
    #[tokio::test]
    async fn every_request_is_counted_once() {
        for (options, ops) in [
            ("--clients 20 --conns 3 --total 1000", 1_000),
            ("--clients 50 --conns 1 --total 6000", 6_000),
            ("--clients 5 --total 200 --rate 2000", 200),
            ("--clients 1 --total 1 --val-size 0", 1),
            ("--clients 8 --conns 1 --total 40 --val-size 1000000", 40),
        ] {
            for workload in [Workload::Put, Workload::Get(Consistency::Linearizable)] {
                let report = report(workload, options).await;
                assert_eq!((report.ops, report.keys, report.errors), (ops, ops, 0), "{workload:?} {options}");
                assert!(report.latency.p50_ms > 0.0 && report.latency.p50_ms <= report.latency.max_ms);
            }
        }
    }

    /// Goal: a run ends when its time is over, and failures are counted by reason. Method: a call that the echo
    /// server does not know.
    #[tokio::test]
    async fn failures_are_counted_by_reason() {
        let scan = Workload::Scan { limit: 1, consistency: Consistency::Serializable };
        let report = report(scan, "--clients 2 --duration 0.2").await;
        assert_eq!((report.ops, report.cpu_us_per_op, report.client_cpu_us_per_op), (0, None, None));
        assert!(report.errors >= 2 && report.elapsed_s < 5.0);
        let reasons: Vec<_> = report.error_reasons.iter().collect();
        assert_eq!(
            reasons,
            [(&"Unimplemented: the echo server answers Get and Set only".to_owned(), &report.errors)]
        );
    }
}
