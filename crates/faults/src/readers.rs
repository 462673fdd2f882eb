//! Readers that take what one node has: it may be old, but must not become older again, across every
//! restart of that node.

use std::collections::HashMap;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::registers::{Generation, key};
use crate::rpc::{Consistency, RawClient};
use crate::{Result, ensure};

/// Between two reads.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads registers from one node until told to stop, and answers how often it was answered. It fails
/// when an answer is older than one before.
pub async fn read(
    address: String,
    generation: Generation,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) -> Result<u64> {
    let client = RawClient::new(&address)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut newest = 0;
    let mut seen: HashMap<u32, u64> = HashMap::new();
    let mut answers = 0;
    while !*stop.borrow_and_update() {
        let register = generation.pick(&mut rng);
        if let Ok(answer) = client.get(key(register), Consistency::Serializable).await {
            let revision = answer.header.map_or(0, |header| header.revision);
            ensure!(revision >= newest, "{address} was at revision {newest} and went back to {revision}");
            newest = revision;
            let changed = answer.kv.map_or(0, |kv| kv.mod_revision);
            let before = seen.insert(register, changed).unwrap_or(0);
            ensure!(
                changed >= before,
                "register {register} went back from {before} to {changed} at {address}"
            );
            ensure!(changed <= revision, "a read at revision {revision} saw a change of {changed}");
            answers += 1;
        }
        sleep(PAUSE).await;
    }
    Ok(answers)
}
