//! Keys that end by themselves: none may be gone before its time, whatever happens to the cluster.

use std::time::Duration;

use bytes::Bytes;
use kvorum_client::Client;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::rpc::{Consistency, RawClient};
use crate::{Result, ensure};

/// Under this prefix are the keys.
pub const PREFIX: &str = "ttl/";
/// How long keys live, in milliseconds: shorter and longer than faults last.
const TTL_MS: std::ops::Range<u64> = 500..8_000;
/// Between two looks for a key.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What was seen of the keys of one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Keys that ended.
    pub ended: usize,
    /// How long after its time the last of them was still there. While nobody leads, no key ends.
    pub latest: Duration,
}

/// Writes a key with a time to live, looks for it until it is gone, and so on until told to stop. It fails
/// when one is gone too early.
pub async fn outlive(
    client: Client,
    number: u32,
    endpoints: Vec<String>,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) -> Result<Seen> {
    let nodes = RawClient::of_each(&endpoints)?;
    let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 48));
    let mut seen = Seen::default();
    for count in 0u64.. {
        if *stop.borrow_and_update() {
            break;
        }
        let ttl = Duration::from_millis(rng.random_range(TTL_MS));
        let key = Bytes::from(format!("{PREFIX}{number:02}/{count:08}"));
        // Its time is counted by the leader, from a moment after this one and before the answer.
        let begun = Instant::now();
        if client.set(key.clone(), "value").ttl(ttl).timeout(TIMEOUT).await.is_err() {
            continue;
        }
        let written = Instant::now();
        loop {
            sleep(PAUSE).await;
            let node = rng.random_range(0..nodes.len());
            let Ok(answer) = nodes[node].get(key.clone(), Consistency::Linearizable).await else {
                if *stop.borrow() {
                    return Ok(seen);
                }
                continue;
            };
            if answer.found {
                continue;
            }
            let lived = begun.elapsed();
            ensure!(
                lived >= ttl,
                "{} with {ttl:?} to live was gone after {lived:?} at the latest, as {} says",
                key.escape_ascii(),
                endpoints[node]
            );
            seen.ended += 1;
            seen.latest = seen.latest.max(written.elapsed().saturating_sub(ttl));
            break;
        }
    }
    Ok(seen)
}
