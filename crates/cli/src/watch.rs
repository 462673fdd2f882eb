//! `kvorum watch`.

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Event, EventKind, KeyRange};
use serde_json::{Value, json};

use crate::args::Watch;
use crate::failure::Failure;
use crate::output::{Output, event_object};

/// Follows changes until the output is closed.
pub async fn watch(client: &Client, args: Watch, output: &mut Output) -> Result<(), Failure> {
    let range = match args.key {
        None => KeyRange::all(),
        Some(key) if args.prefix => KeyRange::prefix(key),
        Some(key) => KeyRange::key(key),
    };
    let mut watch = client.watch(range).from_revision(args.from_revision.unwrap_or_default());
    if args.previous {
        watch = watch.with_previous();
    }
    let mut changes = watch.start().await?;
    while let Some(change) = changes.try_next().await? {
        if change.events.is_empty() {
            continue;
        }
        if output.json() {
            let events: Vec<Value> = change.events.iter().map(event_object).collect();
            output.object(&json!({ "revision": change.revision, "events": events }))?;
        } else {
            for event in &change.events {
                print(event, output)?;
            }
        }
        // Whoever reads it wants it now.
        output.flush()?;
    }
    Ok(())
}

fn print(event: &Event, output: &mut Output) -> Result<(), Failure> {
    let revision = event.kv.mod_revision.to_string();
    match event.kind {
        EventKind::Put => output.fields(&[revision.as_bytes(), b"PUT", &event.kv.key, &event.kv.value]),
        EventKind::Delete => output.fields(&[revision.as_bytes(), b"DELETE", &event.kv.key]),
    }
}
