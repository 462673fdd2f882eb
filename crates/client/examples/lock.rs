//! A lock with a TTL: whoever creates the key holds it, renews it while the work lasts, and lets it go by its
//! revision. A holder that dies loses it when the TTL is over.
//!
//! `cargo run --example lock -- 127.0.0.1:2379`, in two terminals.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, EventKind, KeyRange};
use tokio::time::sleep;

const KEY: &str = "lock/build";
/// A holder that dies blocks the others for so long at most.
const TTL: Duration = Duration::from_secs(10);
/// Renewed three times within the TTL, so that one failure costs nothing.
const RENEW_EVERY: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let client = Client::connect([endpoint]).await?;
    let owner = format!("process {}", std::process::id());

    let revision = acquire(&client, &owner).await?;
    eprintln!("{owner} holds {KEY}, fenced by revision {revision}");
    // Whatever the work writes elsewhere can carry the revision: a later holder's is always higher.
    let revision = hold(&client, &owner, revision, sleep(Duration::from_secs(20))).await?;
    match client.delete(KEY).if_revision(revision).await {
        Ok(_) => eprintln!("{owner} let it go"),
        Err(Error::ConditionFailed { .. }) => eprintln!("{owner} had lost it"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Waits until the key is ours. Answers its revision.
async fn acquire(client: &Client, owner: &str) -> Result<u64, Error> {
    loop {
        match client.set(KEY, owner.to_owned()).ttl(TTL).if_absent().await {
            Ok(answer) => return Ok(answer.header.revision),
            Err(Error::ConditionFailed { actual, .. }) => wait_for_release(client, actual).await?,
            // It may be ours or not; who holds it says its value.
            Err(Error::OutcomeUnknown { .. }) => match client.get(KEY).await?.kv {
                Some(kv) if kv.value == owner => return Ok(kv.mod_revision),
                _ => {}
            },
            Err(error) => return Err(error),
        }
    }
}

/// Follows the key from the change on that was in the way, so that no release is missed.
async fn wait_for_release(client: &Client, actual: Option<u64>) -> Result<(), Error> {
    let Some(actual) = actual else { return Ok(()) };
    let mut changes = client.watch(KeyRange::key(KEY)).from_revision(actual + 1).start().await?;
    while let Some(change) = changes.try_next().await? {
        if change.events.iter().any(|event| event.kind == EventKind::Delete) {
            break;
        }
    }
    Ok(())
}

/// Renews the lock while the work lasts, which waits meanwhile: it never goes on without a lock. Answers the revision
/// to let it go by.
async fn hold(
    client: &Client,
    owner: &str,
    mut revision: u64,
    work: impl Future<Output = ()>,
) -> Result<u64, Error> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return Ok(revision),
            () = sleep(RENEW_EVERY) => {}
        }
        let renewal = client.set(KEY, owner.to_owned()).ttl(TTL).if_revision(revision).timeout(RENEW_EVERY);
        revision = renewal.await?.header.revision;
    }
}
