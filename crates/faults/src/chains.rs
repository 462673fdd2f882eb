//! Chains of conditional writes: several clients replace the same keys, each on condition that nothing came
//! between its read and its write. Every link names the one it was made from, so that the history of a key
//! shows for itself whether a condition was ever passed over.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::outcome::{Unacknowledged, judge};
use crate::rpc::{Consistency, Expect, RawClient};
use crate::{Context as _, Result, ensure};

/// Under this prefix are the chains.
pub const PREFIX: &str = "chain/";
/// Chains that clients work at: few, so that clients meet.
const CHAINS: u32 = 2;
/// Between two attempts of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// What a client was told of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it wrote, which nobody else did.
    pub value: Bytes,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written at this revision.
    Written(u64),
    /// It was not written and never will be.
    NotWritten,
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    /// What the answer to a conditional write proves.
    pub fn of(answer: &Result<u64, tonic::Status>) -> Outcome {
        match answer.as_ref().map_err(judge) {
            Ok(revision) => Outcome::Written(*revision),
            Err(Unacknowledged::ConditionFailed | Unacknowledged::NotDone) => Outcome::NotWritten,
            Err(Unacknowledged::Unknown) => Outcome::Unknown,
        }
    }
}

/// Adds links until told to stop.
pub async fn forge(
    client: u32,
    endpoints: Vec<String>,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) -> Result<Vec<Told>> {
    let nodes = RawClient::of_each(&endpoints)?;
    let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(client) << 32));
    let mut told = Vec::new();
    while !*stop.borrow_and_update() {
        sleep(PAUSE).await;
        let node = &nodes[rng.random_range(0..nodes.len())];
        let key = Bytes::from(format!("{PREFIX}{:02}", rng.random_range(0..CHAINS)));
        let Ok(before) = node.get(key.clone(), Consistency::Linearizable).await else { continue };
        let parent = before.kv.map_or(0, |kv| kv.mod_revision);
        let expect = if parent == 0 { Expect::Absent(true) } else { Expect::ModRevision(parent) };
        let value = Bytes::from(format!("{client}.{} on {parent}", told.len()));
        let answer = node.set(key, value.clone(), Some(expect)).await;
        told.push(Told { value, outcome: Outcome::of(&answer) });
    }
    Ok(told)
}

/// Fails unless each link in the history of each key was made from the one before it, and what clients were
/// told is what happened. `history` has every event of the chains, in order. It answers how many links there
/// are.
pub fn check(told: &[Told], history: &[wire::Event]) -> Result<usize> {
    let mut last: HashMap<&[u8], u64> = HashMap::new();
    let mut written: HashMap<&[u8], u64> = HashMap::new();
    for event in history {
        let kv = event.kv.as_ref().context("an event names its key")?;
        let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
        let parent = std::str::from_utf8(&kv.value).ok().and_then(|text| text.split_once(" on "));
        let parent: u64 =
            parent.and_then(|(_, at)| at.parse().ok()).context(format!("{key} holds {value}"))?;
        let before = last.insert(&kv.key, kv.mod_revision).unwrap_or(0);
        ensure!(
            parent == before,
            "{key}: {value} was written at {} over what {before} wrote, against its condition",
            kv.mod_revision
        );
        ensure!(written.insert(&kv.value, kv.mod_revision).is_none(), "{key}: {value} was written twice");
    }
    let mut known = HashSet::new();
    for Told { value, outcome } in told {
        let (at, name) = (written.get(&value[..]).copied(), value.escape_ascii());
        known.insert(&value[..]);
        match *outcome {
            Outcome::Written(revision) => {
                ensure!(at == Some(revision), "{name} was acknowledged at {revision}, and is at {at:?}");
            }
            Outcome::NotWritten => ensure!(at.is_none(), "{name} was refused, and written at {at:?}"),
            Outcome::Unknown => {}
        }
    }
    let invented = written.keys().find(|value| !known.contains(*value));
    ensure!(invented.is_none(), "nobody wrote {:?}", invented.map(|value| value.escape_ascii().to_string()));
    Ok(history.len())
}

#[cfg(test)]
mod tests {
    //! Goal: a condition that was passed over, and a link that was lost, doubled or written in spite of its
    //! refusal are found. Method: a chain of three links and what can go wrong with it.
    use super::*;

    fn event(revision: u64, value: &'static str) -> wire::Event {
        let kv = wire::KeyValue {
            key: "chain/00".into(),
            value: value.into(),
            mod_revision: revision,
            ..Default::default()
        };
        wire::Event { kv: Some(kv), ..Default::default() }
    }

    fn told(value: &'static str, outcome: Outcome) -> Told {
        Told { value: value.into(), outcome }
    }

    #[test]
    fn a_chain_shows_what_went_wrong() {
        use Outcome::{NotWritten, Unknown, Written};
        let all = [
            told("0.0 on 0", Written(5)),
            told("1.0 on 5", Unknown),
            told("1.1 on 5", NotWritten),
            told("0.1 on 7", Written(9)),
        ];
        let chain = [event(5, "0.0 on 0"), event(7, "1.0 on 5"), event(9, "0.1 on 7")];
        assert_eq!(check(&all, &chain).unwrap(), 3);
        let passed_over = [event(5, "0.0 on 0"), event(7, "1.0 on 5"), event(8, "1.1 on 5")];
        assert!(check(&all, &passed_over).is_err(), "against its condition");
        assert!(check(&all, &chain[..2]).is_err(), "lost");
        assert!(check(&all[..3], &chain).is_err(), "invented");
        let refused = [event(5, "0.0 on 0"), event(7, "1.1 on 5"), event(9, "0.1 on 7")];
        assert!(check(&all, &refused).is_err(), "written though it was refused");
        assert!(check(&[told("0.0 on 0", Written(6))], &[event(5, "0.0 on 0")]).is_err(), "elsewhere");
    }
}
