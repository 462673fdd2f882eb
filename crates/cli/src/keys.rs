//! Commands on keys. Each prints what came of it.

use std::io::Read as _;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange, KeyTtl};
use serde_json::json;

use crate::args::{Del, Get, Scan, Set};
use crate::failure::Failure;
use crate::output::{Output, Show, kv_object, revision_object};
use crate::text;

/// The largest value that is read from the standard input: well above what any node takes, so that the
/// node's own limit is the one a user meets.
const STDIN_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How many keys one step of a deletion by prefix covers when the whole exceeds the nodes' limit:
/// well below that limit, so that a step is no burden on the writes beside it.
const DELETE_STEP_KEYS: u64 = 10_000;

/// `kvorum get`.
pub async fn get(client: &Client, args: Get, output: &mut Output) -> Result<(), Failure> {
    let mut call = client.get(args.key.clone());
    if let Some(revision) = args.revision {
        call = call.at_revision(revision);
    }
    if args.serializable {
        call = call.serializable();
    }
    let answer = call.await?;
    match answer.kv {
        Some(kv) if output.json() => output.object(&kv_object(&kv, Show::KeyAndValue).into()),
        Some(kv) => output.raw(&kv.value),
        None => Err(not_found(&args.key)),
    }
}

/// `kvorum set`.
pub async fn set(client: &Client, args: Set, output: &mut Output) -> Result<(), Failure> {
    let value = match args.value.as_str() {
        "-" => read_stdin()?,
        value => value.as_bytes().to_vec(),
    };
    let mut call = client.set(args.key, value);
    if let Some(ttl) = args.ttl {
        call = call.ttl(ttl);
    }
    if args.if_absent {
        call = call.if_absent();
    }
    if let Some(revision) = args.if_revision {
        call = call.if_revision(revision);
    }
    let revision = call.await?.header.revision;
    output.line(format!("OK, revision {revision}"), revision_object(revision))
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX + 1).read_to_end(&mut value);
    read.map_err(|error| Failure::Other(format!("read the value from the standard input: {error}")))?;
    if value.len() as u64 > STDIN_BYTES_MAX {
        return Err(Failure::Other(format!(
            "the value on the standard input is larger than {}, and no node takes that",
            text::bytes(STDIN_BYTES_MAX)
        )));
    }
    Ok(value)
}

/// `kvorum del`.
pub async fn del(client: &Client, args: Del, output: &mut Output) -> Result<(), Failure> {
    if !args.prefix {
        let answer = client.delete(args.key.clone()).await?;
        if answer.deleted == 0 {
            return Err(not_found(&args.key));
        }
        return deleted(answer.deleted, answer.header.revision, output);
    }
    let range = KeyRange::prefix(args.key);
    match client.delete_range(range.clone()).await {
        Ok(answer) => deleted(answer.deleted, answer.header.revision, output),
        Err(Error::TooLarge { .. }) => del_in_steps(client, range, output).await,
        Err(error) => Err(error.into()),
    }
}

/// Deletes a range that is too large for one write, a step at a time.
async fn del_in_steps(client: &Client, mut range: KeyRange, output: &mut Output) -> Result<(), Failure> {
    let (mut total, mut revision) = (0, 0);
    let mut step_keys = DELETE_STEP_KEYS;
    loop {
        let keys = client.scan(range.clone()).keys_only().limit(step_keys).start();
        let last = keys.try_fold(None, async |_, kv| Ok(Some(kv.key))).await?;
        let Some(last) = last else { return deleted(total, revision, output) };
        let mut end = last.to_vec();
        end.push(0);
        let step = KeyRange::between(range.start().clone(), end);
        match client.delete_range(step).await {
            Ok(answer) => {
                total += answer.deleted;
                revision = answer.header.revision;
                match range.after(&last) {
                    Some(rest) => range = rest,
                    None => return deleted(total, revision, output),
                }
            }
            // The values of these keys are large.
            Err(Error::TooLarge { .. }) if step_keys > 1 => step_keys = (step_keys / 10).max(1),
            Err(error) => return Err(error.into()),
        }
    }
}

fn deleted(count: u64, revision: u64, output: &mut Output) -> Result<(), Failure> {
    let text = format!("{} deleted", text::count(count, "key"));
    output.line(text, json!({ "deleted": count, "revision": revision }))
}

/// `kvorum ttl`.
pub async fn ttl(client: &Client, key: String, output: &mut Output) -> Result<(), Failure> {
    match client.ttl(key.clone()).await?.ttl {
        KeyTtl::NoKey => Err(not_found(&key)),
        KeyTtl::Forever => output.line("none", json!({ "ttl_ms": null })),
        KeyTtl::Left(left) => output.line(text::duration(left), json!({ "ttl_ms": left.as_millis() as u64 })),
    }
}

/// `kvorum expire`.
pub async fn expire(client: &Client, key: String, ttl: Duration, output: &mut Output) -> Result<(), Failure> {
    let answer = client.expire(key.clone(), ttl).await?;
    if !answer.found {
        return Err(not_found(&key));
    }
    let revision = answer.header.revision;
    output.line(format!("OK, revision {revision}"), revision_object(revision))
}

/// `kvorum persist`.
pub async fn persist(client: &Client, key: String, output: &mut Output) -> Result<(), Failure> {
    let answer = client.persist(key.clone()).await?;
    if !answer.found {
        return Err(not_found(&key));
    }
    let revision = answer.header.revision;
    let text = match answer.had_ttl {
        true => format!("OK, revision {revision}"),
        false => "OK, it had no TTL".to_owned(),
    };
    output.line(text, json!({ "revision": revision, "had_ttl": answer.had_ttl }))
}

/// `kvorum scan`.
pub async fn scan(client: &Client, args: Scan, output: &mut Output) -> Result<(), Failure> {
    let mut scan = client.scan(KeyRange::prefix(args.prefix)).limit(args.limit.unwrap_or_default());
    if let Some(revision) = args.revision {
        scan = scan.at_revision(revision);
    }
    if args.serializable {
        scan = scan.serializable();
    }
    if args.keys_only {
        scan = scan.keys_only();
    }
    if args.reverse {
        scan = scan.reverse();
    }
    let mut keys = scan.start();
    while let Some(kv) = keys.try_next().await? {
        match (output.json(), args.keys_only) {
            (true, true) => output.object(&kv_object(&kv, Show::Key).into())?,
            (true, false) => output.object(&kv_object(&kv, Show::KeyAndValue).into())?,
            (false, true) => output.fields(&[&kv.key])?,
            (false, false) => output.fields(&[&kv.key, &kv.value])?,
        }
    }
    Ok(())
}

/// `kvorum compact`.
pub async fn compact(client: &Client, revision: u64, output: &mut Output) -> Result<(), Failure> {
    client.compact(revision).await?;
    output.line(format!("OK, compacted at revision {revision}"), json!({ "compacted": revision }))
}

fn not_found(key: &str) -> Failure {
    Failure::NotFound(format!("key not found: {key}"))
}
