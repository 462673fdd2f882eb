//! Every change as a watcher was told of it, and with that what any read had to see.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_client::{Changes, Event, EventKind, KeyRange, KeyValue};

/// A key as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its last change.
    pub revision: u64,
    /// The revision that created it.
    pub created: u64,
    /// How often it was written since.
    pub version: u64,
    /// When it ends, if it does.
    pub deadline_ms: Option<u64>,
    /// What it holds.
    pub value: Bytes,
}

/// What a read was answered.
#[derive(Clone, Debug)]
pub struct Read {
    /// Who read, for people.
    pub what: &'static str,
    /// The revision that was read.
    pub revision: u64,
    /// Keys of this range.
    pub range: KeyRange,
    /// At most so many, from the last one on where it is reverse.
    pub limit: usize,
    /// See `limit`.
    pub reverse: bool,
    /// The keys, and what they held.
    pub rows: Vec<(Bytes, Row)>,
}

/// The history of all keys.
#[derive(Debug, Default)]
pub struct History {
    /// For each key its changes: the revision, and what the key is from there on.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Row>)>>,
    /// The last revision that is known.
    last: u64,
}

impl Row {
    /// A key as a client has it.
    pub fn of(kv: KeyValue) -> (Bytes, Row) {
        let KeyValue { key, value, create_revision, mod_revision, version, deadline_ms, .. } = kv;
        (key, Row { revision: mod_revision, created: create_revision, version, deadline_ms, value })
    }
}

impl History {
    /// Takes the next revision. Some keys are written so that each value comes once, or that it rises by one. Where the
    /// watcher asks for what was there before, it is told of revisions behind what may be compacted.
    pub fn take(&mut self, changes: &Changes, asks_previous: bool, compacted: u64) -> Result<(), String> {
        for event in &changes.events {
            let row = (event.kind == EventKind::Put).then(|| Row::of(event.kv.clone()).1);
            let of_key = self.keys.entry(event.kv.key.clone()).or_default();
            let before = of_key.last().and_then(|(_, row)| row.as_ref());
            check(&event.kv.key, row.as_ref().map(|row| &row.value), of_key)?;
            check_row(changes.revision, &event.kv.key, row.as_ref(), before)?;
            check_previous(changes.revision, event, before, asks_previous, compacted)?;
            of_key.push((changes.revision, row));
        }
        self.last = self.last.max(changes.revision);
        Ok(())
    }

    /// Compares what was read with what was there, if that is known.
    pub fn check(&self, read: &Read) -> Result<(), String> {
        if read.revision > self.last {
            return Ok(());
        }
        let keys = self.keys.range(read.range.start().clone()..).filter(|(key, _)| read.range.contains(key));
        let mut rows: Vec<(Bytes, Row)> =
            keys.filter_map(|(key, changes)| Some((key.clone(), at(changes, read.revision)?))).collect();
        if read.reverse {
            rows.reverse();
        }
        rows.truncate(read.limit);
        if rows == read.rows {
            return Ok(());
        }
        let missing = rows.iter().find(|row| !read.rows.contains(row));
        let wrong = read.rows.iter().find(|row| !rows.contains(row));
        Err(format!(
            "a {} of {:?} at revision {} had {} keys, of which {wrong:?} was not so; there were {}, of which it lacks \
             {missing:?}",
            read.what,
            read.range,
            read.revision,
            read.rows.len(),
            rows.len()
        ))
    }
}

/// What a key held at a revision.
fn at(changes: &[(u64, Option<Row>)], revision: u64) -> Option<Row> {
    let (_, row) = changes.iter().rev().find(|(changed, _)| *changed <= revision)?;
    row.clone()
}

/// A key is created once, and each change of it counts as one.
fn check_row(revision: u64, key: &[u8], row: Option<&Row>, before: Option<&Row>) -> Result<(), String> {
    let Some(row) = row else { return Ok(()) };
    let (created, version) =
        before.map_or((revision, 1), |before| (before.created, before.version.saturating_add(1)));
    if (row.revision, row.created, row.version) == (revision, created, version) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(key);
    Err(format!("revision {revision} left {name} as {row:?}, and before it was {before:?}"))
}

/// Who asks is told what was there before, unless that is compacted; nobody else is.
fn check_previous(
    revision: u64,
    event: &Event,
    before: Option<&Row>,
    asks: bool,
    compacted: u64,
) -> Result<(), String> {
    let told = event.previous.clone().map(|kv| Row::of(kv).1);
    let may_lack = !asks || revision <= compacted;
    if told.as_ref() == before.filter(|_| asks) || (told.is_none() && may_lack) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(&event.kv.key);
    Err(format!("{name} was {before:?} before revision {revision}, and a watcher was told {told:?}"))
}

/// Nobody writes a value twice, and no counter leaves a number out, unless something that was written is repeated.
fn check(key: &[u8], value: Option<&Bytes>, before: &[(u64, Option<Row>)]) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let name = String::from_utf8_lossy(key);
    let is_unique = ["register/", "group/"].iter().any(|prefix| name.starts_with(prefix));
    if is_unique
        && let Some((revision, _)) =
            before.iter().find(|(_, known)| known.as_ref().is_some_and(|row| row.value == value))
    {
        return Err(format!("{name} was given the value {value:?} twice, at revision {revision} before"));
    }
    if name.starts_with("counter/") {
        let number = |value: &Bytes| String::from_utf8_lossy(value).parse().unwrap_or(0_u64);
        let last = before.last().and_then(|(_, row)| row.as_ref()).map_or(0, |row| number(&row.value));
        if number(value) != last + 1 {
            return Err(format!("{name} went from {last} to {}", number(value)));
        }
    }
    Ok(())
}
