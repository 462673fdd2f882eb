//! Every change as a watcher was told of it, and with that what any read had to see.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_client::{Changes, EventKind, KeyValue};

/// A key as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its last change.
    pub revision: u64,
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
    /// Keys that begin with this.
    pub prefix: String,
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
    keys: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// The last revision that is known.
    last: u64,
}

impl Row {
    /// A key as a client has it.
    pub fn of(kv: KeyValue) -> (Bytes, Row) {
        (kv.key, Row { revision: kv.mod_revision, value: kv.value })
    }
}

impl History {
    /// Takes the next revision. Some keys are written so that each value comes once, or that it rises by one.
    pub fn take(&mut self, changes: &Changes) -> Result<(), String> {
        for event in &changes.events {
            let value = (event.kind == EventKind::Put).then(|| event.kv.value.clone());
            let of_key = self.keys.entry(event.kv.key.clone()).or_default();
            check(&event.kv.key, value.as_ref(), of_key)?;
            of_key.push((changes.revision, value));
        }
        self.last = self.last.max(changes.revision);
        Ok(())
    }

    /// Compares what was read with what was there, if that is known.
    pub fn check(&self, read: &Read) -> Result<(), String> {
        if read.revision > self.last {
            return Ok(());
        }
        let keys = self.keys.range(Bytes::copy_from_slice(read.prefix.as_bytes())..);
        let keys = keys.take_while(|(key, _)| key.starts_with(read.prefix.as_bytes()));
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
            "a {} of {} at revision {} had {} keys, of which {wrong:?} was not so; there were {}, of which it lacks \
             {missing:?}",
            read.what,
            read.prefix,
            read.revision,
            read.rows.len(),
            rows.len()
        ))
    }
}

/// What a key held at a revision.
fn at(changes: &[(u64, Option<Bytes>)], revision: u64) -> Option<Row> {
    let (revision, value) = changes.iter().rev().find(|(changed, _)| *changed <= revision)?;
    Some(Row { revision: *revision, value: value.clone()? })
}

/// Nobody writes a value twice, and no counter leaves a number out, unless something that was written is repeated.
fn check(key: &[u8], value: Option<&Bytes>, before: &[(u64, Option<Bytes>)]) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let name = String::from_utf8_lossy(key);
    let is_unique = ["register/", "group/"].iter().any(|prefix| name.starts_with(prefix));
    if is_unique && let Some((revision, _)) = before.iter().find(|(_, known)| known.as_ref() == Some(value)) {
        return Err(format!("{name} was given the value {value:?} twice, at revision {revision} before"));
    }
    if name.starts_with("counter/") {
        let number = |value: &Bytes| String::from_utf8_lossy(value).parse().unwrap_or(0_u64);
        let last = before.last().and_then(|(_, value)| value.as_ref()).map_or(0, number);
        if number(value) != last + 1 {
            return Err(format!("{name} went from {last} to {}", number(value)));
        }
    }
    Ok(())
}
