//! `kvorum batch`: a file of JSON lines as one atomic write.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kvorum_client::{Batch, Client, KeyRange};
use serde::Deserialize;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::text;

/// The largest file that is read: base64 and quotes make it larger than the request, and a node takes
/// requests of a few MiB at most.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(crate) async fn batch(client: &Client, file: &Path, output: &mut Output) -> Result<(), Failure> {
    let batch = if file == Path::new("-") {
        read(client.batch(), std::io::stdin().lock(), "standard input")?
    } else {
        let name = file.display().to_string();
        let opened = File::open(file).map_err(|error| Failure::Other(format!("open {name}: {error}")))?;
        read(client.batch(), BufReader::new(opened), &name)?
    };
    if batch.is_empty() {
        return Err(Failure::Other(format!("{} holds no line to apply", file.display())));
    }
    let lines = batch.len() as u64;
    let answer = batch.await?;
    let revision = answer.header.revision;
    let deleted: u64 = answer.deleted.iter().sum();
    let text = format!(
        "OK, revision {revision}: {} applied, {} deleted",
        text::count(lines, "line"),
        text::count(deleted, "key")
    );
    output.line(text, json!({ "revision": revision, "deleted": answer.deleted }))
}

fn read(mut batch: Batch, source: impl BufRead, name: &str) -> Result<Batch, Failure> {
    let mut source = source.take(FILE_BYTES_MAX + 1);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = source.read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::Other(format!("read {name}: {error}")))? == 0 {
            break;
        }
        if source.limit() == 0 {
            let limit = text::bytes(FILE_BYTES_MAX);
            return Err(Failure::Other(format!(
                "{name} is larger than {limit}; split it into several batches"
            )));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        batch = parse(&line)
            .map(|entry| entry.add_to(batch))
            .map_err(|problem| Failure::Other(format!("{name}:{number}: {problem}")))?;
    }
    Ok(batch)
}

/// A line as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    set: Option<Key>,
    delete: Option<Key>,
    r#if: Option<Key>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    #[serde(default)]
    prefix: bool,
    absent: Option<bool>,
    revision: Option<u64>,
}

/// The key itself, or `true` beside `key_base64`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a key, or true beside key_base64")]
enum Key {
    Text(String),
    Flag(bool),
}

/// A line, understood.
#[derive(Debug, PartialEq)]
enum Entry {
    Set { key: Vec<u8>, value: Vec<u8>, ttl: Option<Duration> },
    Delete { key: Vec<u8>, prefix: bool },
    IfAbsent { key: Vec<u8> },
    IfRevision { key: Vec<u8>, revision: u64 },
}

impl Entry {
    fn add_to(self, batch: Batch) -> Batch {
        match self {
            Entry::Set { key, value, ttl: Some(ttl) } => batch.set_with_ttl(key, value, ttl),
            Entry::Set { key, value, ttl: None } => batch.set(key, value),
            Entry::Delete { key, prefix: true } => batch.delete(KeyRange::prefix(key)),
            Entry::Delete { key, prefix: false } => batch.delete(KeyRange::key(key)),
            Entry::IfAbsent { key } => batch.if_absent(key),
            Entry::IfRevision { key, revision } => batch.if_revision(key, revision),
        }
    }
}

fn parse(line: &[u8]) -> Result<Entry, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // The parser counts from the start of what it was given, which is one line.
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        format!("{problem} (column {})", error.column())
    })?;
    match (&line.set, &line.delete, &line.r#if) {
        (Some(name), None, None) => set(&line, name),
        (None, Some(name), None) => delete(&line, name),
        (None, None, Some(name)) => condition(&line, name),
        _ => Err("a line has exactly one of \"set\", \"delete\" and \"if\"".to_owned()),
    }
}

fn set(line: &Line, name: &Key) -> Result<Entry, String> {
    if line.prefix || line.absent.is_some() || line.revision.is_some() {
        return Err(
            "\"set\" goes with \"value\" and \"ttl\" only; a condition is a line of its own".to_owned()
        );
    }
    let value = match (&line.value, &line.value_base64) {
        (Some(value), None) => value.clone().into_bytes(),
        (None, Some(text)) => decode("value_base64", text)?,
        _ => return Err("\"set\" needs one of \"value\" and \"value_base64\"".to_owned()),
    };
    let ttl = line.ttl.as_deref().map(ttl).transpose()?;
    Ok(Entry::Set { key: key(line, name, "set")?, value, ttl })
}

fn delete(line: &Line, name: &Key) -> Result<Entry, String> {
    let extra = has_value(line) || line.absent.is_some() || line.revision.is_some();
    if extra {
        return Err("\"delete\" goes with \"prefix\" only; a condition is a line of its own".to_owned());
    }
    let key = match (name, line.prefix) {
        // An empty prefix is every key.
        (Key::Text(text), true) if line.key_base64.is_none() => text.clone().into_bytes(),
        _ => key(line, name, "delete")?,
    };
    Ok(Entry::Delete { key, prefix: line.prefix })
}

fn condition(line: &Line, name: &Key) -> Result<Entry, String> {
    if has_value(line) || line.prefix {
        return Err("\"if\" goes with \"absent\" or \"revision\" only".to_owned());
    }
    let key = key(line, name, "if")?;
    match (line.absent, line.revision) {
        (Some(true), None) => Ok(Entry::IfAbsent { key }),
        (None, Some(revision)) if revision > 0 => Ok(Entry::IfRevision { key, revision }),
        (None, Some(_)) => {
            Err("a \"revision\" is at least 1; for a missing key write \"absent\": true".to_owned())
        }
        _ => Err("\"if\" needs \"absent\": true or \"revision\": N".to_owned()),
    }
}

fn has_value(line: &Line) -> bool {
    line.value.is_some() || line.value_base64.is_some() || line.ttl.is_some()
}

fn key(line: &Line, name: &Key, verb: &str) -> Result<Vec<u8>, String> {
    let key = match (name, &line.key_base64) {
        (Key::Text(key), None) => key.clone().into_bytes(),
        (Key::Flag(true), Some(text)) => decode("key_base64", text)?,
        _ => {
            return Err(format!("\"{verb}\" is the key, or true beside \"key_base64\""));
        }
    };
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok(key) }
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|error| format!("\"{field}\" is no base64: {error}"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl >= Duration::from_millis(1) => Ok(ttl),
        Ok(_) => Err(format!("\"ttl\" {text:?} is less than 1ms")),
        Err(error) => Err(format!("\"ttl\" {text:?}: {error}; write 30s or 1h30m")),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: every documented line is taken for what it says, and any other is refused with a reason.
    //! Method: tables.
    use super::*;

    #[test]
    fn takes_every_documented_line() {
        let key = || b"k".to_vec();
        for (line, entry) in [
            (r#"{"set": "k", "value": "v"}"#, Entry::Set { key: key(), value: b"v".to_vec(), ttl: None }),
            (
                r#"{"set": "k", "value": "", "ttl": "30s"}"#,
                Entry::Set { key: key(), value: vec![], ttl: Some(Duration::from_secs(30)) },
            ),
            (
                r#"{"set": true, "key_base64": "/wA=", "value_base64": "AAEC"}"#,
                Entry::Set { key: vec![255, 0], value: vec![0, 1, 2], ttl: None },
            ),
            (r#"{"delete": "k"}"#, Entry::Delete { key: key(), prefix: false }),
            (r#"{"delete": "k", "prefix": true}"#, Entry::Delete { key: key(), prefix: true }),
            (r#"{"if": "k", "absent": true}"#, Entry::IfAbsent { key: key() }),
            (r#"{"if": "k", "revision": 12}"#, Entry::IfRevision { key: key(), revision: 12 }),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(entry), "{line}");
        }
    }

    #[test]
    fn refuses_what_is_not_documented() {
        for (line, reason) in [
            ("{", "EOF"),
            ("[]", "expected"),
            (r#"{"set": "k"}"#, "needs one of"),
            (r#"{"set": "k", "value": "v", "value_base64": ""}"#, "needs one of"),
            (r#"{"set": "", "value": "v"}"#, "empty"),
            (r#"{"set": true, "value": "v"}"#, "key_base64"),
            (r#"{"set": "k", "value": "v", "ttl": "0s"}"#, "less than 1ms"),
            (r#"{"set": "k", "value": "v", "tll": "1s"}"#, "unknown field"),
            (r#"{"set": "k", "value": 5}"#, "invalid type"),
            (r#"{"set": "k", "value": "v", "absent": true}"#, "line of its own"),
            (r#"{"set": "k", "delete": "k", "value": "v"}"#, "exactly one"),
            (r#"{"delete": "k", "value": "v"}"#, "goes with"),
            (r#"{"if": "k"}"#, "needs"),
            (r#"{"if": "k", "revision": 0}"#, "at least 1"),
            (r#"{"if": "k", "absent": false}"#, "needs"),
            (r#"{"set": true, "key_base64": "?", "value": "v"}"#, "no base64"),
        ] {
            let problem = parse(line.as_bytes()).expect_err(line);
            assert!(problem.contains(reason), "{line}: {problem}");
        }
    }
}
