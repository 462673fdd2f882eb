//! A copy of a range in memory that misses nothing: it begins with a scan at one revision, and follows from the
//! next one on. The client resumes the watch after disconnects by itself; where what it missed is compacted, the
//! copy is made anew.
//!
//! `cargo run --example watch -- PREFIX 127.0.0.1:2379`

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, EventKind, KeyRange};

/// What there is: keys with their values.
type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let prefix = arguments.next().unwrap_or_default();
    let endpoint = arguments.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let client = Client::connect([endpoint]).await?;
    loop {
        let (mut copy, revision) = read(&client, &prefix).await?;
        eprintln!("{} keys at revision {revision}", copy.len());
        match follow(&client, &prefix, revision + 1, &mut copy).await {
            Err(Error::Compacted { .. }) => eprintln!("away for too long; reading everything again"),
            outcome => return outcome,
        }
    }
}

/// Everything in the range, and the revision that it is of.
async fn read(client: &Client, prefix: &str) -> Result<(Keys, u64), Error> {
    // The scan tells its revision once it has answered, and an empty range has no answer to wait for.
    let revision = client.get("any key").await?.header.revision;
    let scan = client.scan(KeyRange::prefix(prefix.to_owned())).at_revision(revision).start();
    let copy = scan.map_ok(|kv| (kv.key.to_vec(), kv.value.to_vec())).try_collect().await?;
    Ok((copy, revision))
}

/// Applies every change to the copy. The last revision that was applied whole could be kept on a disk with it, to
/// go on from there in another process.
async fn follow(client: &Client, prefix: &str, from: u64, copy: &mut Keys) -> Result<(), Error> {
    let watch = client.watch(KeyRange::prefix(prefix.to_owned())).from_revision(from);
    let mut changes = watch.start().await?;
    while let Some(change) = changes.try_next().await? {
        for event in change.events {
            let key = event.kv.key.to_vec();
            match event.kind {
                EventKind::Put => copy.insert(key, event.kv.value.to_vec()),
                EventKind::Delete => copy.remove(&key),
            };
        }
        eprintln!("{} keys at revision {}", copy.len(), change.revision);
    }
    Ok(())
}
