//! Writers of unique keys: whatever was acknowledged to one of them must be there at the end, once.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use kvorum_client::Client;
use kvorum_proto::kv::v1 as wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::timeline::{Kind, Mark};
use crate::{Context as _, Failure, Result, ensure};

/// Under this prefix are the writers' keys.
pub const PREFIX: &str = "unique/";
/// The first key behind them.
pub const PREFIX_END: &str = "unique0";

/// How a writer goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Between an answer and the next write.
    pub pause: Duration,
    /// Size of the values.
    pub value_bytes: usize,
    /// How long one write may take, the client's retries included.
    pub timeout: Duration,
}

impl Default for Style {
    fn default() -> Style {
        Style { pause: Duration::from_millis(5), value_bytes: 64, timeout: Duration::from_secs(5) }
    }
}

/// What a writer was told.
#[derive(Clone, Debug)]
pub struct Ledger {
    writer: u32,
    style: Style,
    /// Writes that were begun; their sequence numbers are below this.
    begun: u64,
    /// Sequence number and answer of each write that was acknowledged, in order.
    acknowledged: Vec<(u64, Mark)>,
    /// When a write failed, and how.
    failed: Vec<(Duration, String)>,
}

impl Ledger {
    /// The acknowledged writes, for [`crate::timeline::check`].
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.acknowledged.iter().map(|(_, mark)| *mark)
    }

    /// Every write that failed, and how.
    pub fn failures(&self) -> &[(Duration, String)] {
        &self.failed
    }
}

/// Writes one key after another until told to stop. Times are counted from `epoch`.
pub async fn write(
    client: Client,
    writer: u32,
    style: Style,
    epoch: Instant,
    mut stop: watch::Receiver<bool>,
) -> Ledger {
    let mut ledger = Ledger { writer, style, begun: 0, acknowledged: Vec::new(), failed: Vec::new() };
    while !*stop.borrow_and_update() {
        let sequence = ledger.begun;
        ledger.begun += 1;
        let called = epoch.elapsed();
        let set = client.set(key(writer, sequence), value(writer, sequence, style.value_bytes));
        match set.timeout(style.timeout).await {
            Ok(answer) => {
                let revision = answer.header.revision;
                let mark = Mark { called, returned: epoch.elapsed(), revision, kind: Kind::Write };
                ledger.acknowledged.push((sequence, mark));
            }
            Err(error) => ledger.failed.push((epoch.elapsed(), error.to_string())),
        }
        sleep(style.pause).await;
    }
    ledger
}

fn key(writer: u32, sequence: u64) -> Bytes {
    format!("{PREFIX}{writer:04}/{sequence:010}").into()
}

fn value(writer: u32, sequence: u64, bytes: usize) -> Bytes {
    let unit = format!("{writer}.{sequence};");
    unit.bytes().cycle().take(bytes).collect()
}

/// What the check of the ledgers counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Writes that were acknowledged, all of which are there.
    pub acknowledged: usize,
    /// Writes that were not acknowledged and are there all the same, which is allowed.
    pub unacknowledged: usize,
}

/// Fails if an acknowledged write is missing or differs, if any write was applied twice, or if there is
/// a key that nobody wrote. `kvs` is the whole store.
pub fn check(ledgers: &[Ledger], kvs: &[wire::KeyValue]) -> Result<Tally> {
    let mut found: HashMap<&[u8], &wire::KeyValue> =
        kvs.iter().filter(|kv| kv.key.starts_with(PREFIX.as_bytes())).map(|kv| (&kv.key[..], kv)).collect();
    let mut tally = Tally::default();
    for ledger in ledgers {
        for (sequence, mark) in &ledger.acknowledged {
            let key = key(ledger.writer, *sequence);
            let name = key.escape_ascii();
            let kv = found.remove(&key[..]).context(format!("the acknowledged write of {name} is lost"))?;
            check_content(ledger, *sequence, kv)?;
            let (is, was) = (kv.mod_revision, mark.revision);
            ensure!(is == was, "{name} was acknowledged at revision {was} and is there at {is}");
            tally.acknowledged += 1;
        }
    }
    let by_writer: HashMap<u32, &Ledger> = ledgers.iter().map(|ledger| (ledger.writer, ledger)).collect();
    for (key, kv) in found {
        let name = key.escape_ascii();
        let (writer, sequence) = parse(key).context(format!("nobody writes such a key: {name}"))?;
        let begun = by_writer.get(&writer).filter(|ledger| sequence < ledger.begun);
        check_content(begun.context(format!("nobody wrote {name}"))?, sequence, kv)?;
        tally.unacknowledged += 1;
    }
    Ok(tally)
}

fn check_content(ledger: &Ledger, sequence: u64, kv: &wire::KeyValue) -> Result<()> {
    let name = kv.key.escape_ascii();
    ensure!(kv.version == 1, "{name} was written once and applied {} times", kv.version);
    let expected = value(ledger.writer, sequence, ledger.style.value_bytes);
    ensure!(kv.value == expected, "{name} does not hold what was written");
    Ok(())
}

fn parse(key: &[u8]) -> Option<(u32, u64)> {
    let (writer, sequence) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some((writer.parse().ok()?, sequence.parse().ok()?))
}

/// Several writers at work.
#[derive(Debug)]
pub struct Writers {
    tasks: Vec<tokio::task::JoinHandle<Ledger>>,
    stop: watch::Sender<bool>,
}

impl Writers {
    /// Starts `count` writers, each with a client of its own; the clients know `endpoints`. They are
    /// numbered from `first` on.
    pub async fn start(
        endpoints: &[String],
        first: u32,
        count: u32,
        style: Style,
        epoch: Instant,
    ) -> Result<Writers> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Client::connect(endpoints.to_vec()).await?);
        }
        Ok(Writers::by(clients, first, style, epoch))
    }

    /// Starts a writer for each of these clients, numbered from `first` on.
    pub fn by(clients: Vec<Client>, first: u32, style: Style, epoch: Instant) -> Writers {
        let stop = watch::Sender::new(false);
        let mut tasks = Vec::new();
        for (writer, client) in (first..).zip(clients) {
            tasks.push(tokio::spawn(write(client, writer, style, epoch, stop.subscribe())));
        }
        Writers { tasks, stop }
    }

    /// Lets the writers finish the write they are at, and answers what they were told.
    pub async fn finish(self) -> Result<Vec<Ledger>> {
        self.stop.send_replace(true);
        let mut ledgers = Vec::new();
        for task in self.tasks {
            ledgers.push(task.await?);
        }
        let acknowledged = ledgers.iter().any(|ledger| !ledger.acknowledged.is_empty());
        ensure!(acknowledged, "no write was acknowledged: {:?}", first_failure(&ledgers));
        Ok(ledgers)
    }
}

fn first_failure(ledgers: &[Ledger]) -> Option<&(Duration, String)> {
    ledgers.iter().find_map(|ledger| ledger.failed.first())
}

/// How long each acknowledged write took.
pub fn latencies(ledgers: &[Ledger]) -> Vec<Duration> {
    ledgers.iter().flat_map(Ledger::marks).map(|mark| mark.returned.saturating_sub(mark.called)).collect()
}

/// Fails if any write failed.
pub fn check_no_failure(ledgers: &[Ledger]) -> Result<()> {
    match first_failure(ledgers) {
        Some((at, error)) => Err(Failure::new(format!("a write failed {at:?} after the start: {error}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a lost, changed, doubled or invented write is found. Method: a ledger of three writes, the
    //! last of which was not acknowledged, against stores made by hand.
    use super::*;

    fn ledger() -> Ledger {
        let mark = |revision| Mark {
            called: Duration::ZERO,
            returned: Duration::from_millis(1),
            revision,
            kind: Kind::Write,
        };
        Ledger {
            writer: 7,
            style: Style::default(),
            begun: 3,
            acknowledged: vec![(0, mark(2)), (1, mark(3))],
            failed: vec![(Duration::ZERO, "unknown".into())],
        }
    }

    fn kv(sequence: u64, mod_revision: u64) -> wire::KeyValue {
        let value = value(7, sequence, Style::default().value_bytes);
        wire::KeyValue { key: key(7, sequence), value, mod_revision, version: 1, ..Default::default() }
    }

    #[test]
    fn every_acknowledged_write_is_there_once_at_its_revision() {
        let ledgers = [ledger()];
        assert_eq!(check(&ledgers, &[kv(0, 2), kv(1, 3)]).unwrap().unacknowledged, 0);
        assert_eq!(check(&ledgers, &[kv(0, 2), kv(1, 3), kv(2, 4)]).unwrap().unacknowledged, 1);
        assert!(check(&ledgers, &[kv(0, 2)]).is_err(), "lost");
        assert!(check(&ledgers, &[kv(0, 2), kv(1, 4)]).is_err(), "moved");
        assert!(check(&ledgers, &[kv(0, 2), kv(1, 3), kv(3, 4)]).is_err(), "invented");
        let twice = wire::KeyValue { version: 2, ..kv(1, 3) };
        assert!(check(&ledgers, &[kv(0, 2), twice]).is_err(), "applied twice");
        let changed = wire::KeyValue { value: "x".into(), ..kv(1, 3) };
        assert!(check(&ledgers, &[kv(0, 2), changed]).is_err(), "changed");
    }
}
