//! Unique inserts: all clients try to be the first to write a key, and then the next one. One of them may be
//! told that it was, at most, and what it wrote is there for ever.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::chains::Outcome;
use crate::rpc::{Expect, RawClient};
use crate::{Context as _, Result, ensure};

/// Under this prefix are the keys.
pub const PREFIX: &str = "insert/";
/// Between two attempts of a client.
const PAUSE: Duration = Duration::from_millis(15);

/// What a client was told of a key.
#[derive(Clone, Debug)]
pub struct Told {
    /// The key's number.
    pub number: u64,
    /// What it wrote, which nobody else did to this key.
    pub value: Bytes,
    /// What came of it.
    pub outcome: Outcome,
}

/// Inserts until told to stop. The channel says which key is next: who finds it taken goes on to another.
pub async fn insert(
    client: u32,
    endpoints: Vec<String>,
    next: watch::Sender<u64>,
    mut stop: watch::Receiver<bool>,
) -> Result<Vec<Told>> {
    let nodes = RawClient::of_each(&endpoints)?;
    let mut told: Vec<Told> = Vec::new();
    while !*stop.borrow_and_update() {
        sleep(PAUSE).await;
        let number = *next.borrow();
        let value = Bytes::from(format!("{client}.{}", told.len()));
        let node = &nodes[told.len() % nodes.len()];
        let answer = node.set(key(number), value.clone(), Some(Expect::Absent(true))).await;
        let outcome = Outcome::of(&answer);
        told.push(Told { number, value, outcome });
        // What may be there or not is not waited for.
        next.send_if_modified(|at| {
            let is_taken = *at == number && outcome != Outcome::NotWritten;
            *at += u64::from(is_taken);
            is_taken
        });
    }
    Ok(told)
}

fn key(number: u64) -> Bytes {
    format!("{PREFIX}{number:010}").into()
}

/// Fails if two clients were told that they came first, if what was acknowledged is not there as it was
/// written, or if what was refused is. `kvs` is the whole store. It answers how many keys there are.
pub fn check(told: &[Told], kvs: &[wire::KeyValue]) -> Result<usize> {
    let found: HashMap<&[u8], &wire::KeyValue> =
        kvs.iter().filter(|kv| kv.key.starts_with(PREFIX.as_bytes())).map(|kv| (&kv.key[..], kv)).collect();
    let mut by_key: HashMap<Bytes, Vec<&Told>> = HashMap::new();
    told.iter().for_each(|told| by_key.entry(key(told.number)).or_default().push(told));
    for (key, attempts) in &by_key {
        let name = key.escape_ascii();
        let kv = found.get(&key[..]);
        for Told { value, outcome, .. } in attempts {
            let is_there = kv.is_some_and(|kv| kv.value == value);
            match outcome {
                Outcome::Written(revision) => {
                    let kv = kv.context(format!("the acknowledged insert of {name} is lost"))?;
                    ensure!(is_there, "{name}: {value:?} was acknowledged, and {:?} is there", kv.value);
                    let is = (kv.create_revision, kv.mod_revision, kv.version);
                    ensure!(
                        is == (*revision, *revision, 1),
                        "{name} was inserted at {revision}, and is {is:?}"
                    );
                }
                Outcome::NotWritten => ensure!(!is_there, "{name}: {value:?} was refused, and is there"),
                Outcome::Unknown => {}
            }
        }
        let known = kv.is_none_or(|kv| attempts.iter().any(|told| told.value == kv.value));
        ensure!(known, "nobody wrote what {name} holds: {:?}", kv.map(|kv| &kv.value));
    }
    let invented = found.keys().find(|key| !by_key.contains_key(**key));
    ensure!(invented.is_none(), "nobody wrote {:?}", invented.map(|key| key.escape_ascii().to_string()));
    Ok(found.len())
}

#[cfg(test)]
mod tests {
    //! Goal: two winners, a lost or changed winner, and a loser that is there all the same are found.
    use super::*;
    use Outcome::{NotWritten, Unknown, Written};

    fn told(number: u64, value: &'static str, outcome: Outcome) -> Told {
        Told { number, value: value.into(), outcome }
    }

    fn kv(number: u64, value: &'static str, revision: u64, version: u64) -> wire::KeyValue {
        let (create_revision, mod_revision) = (revision, revision);
        wire::KeyValue {
            key: key(number),
            value: value.into(),
            create_revision,
            mod_revision,
            version,
            ..Default::default()
        }
    }

    #[test]
    fn one_wins_and_stays() {
        let all = [told(0, "a", Written(5)), told(0, "b", NotWritten), told(1, "c", Unknown)];
        assert_eq!(check(&all, &[kv(0, "a", 5, 1)]).unwrap(), 1);
        assert_eq!(check(&all, &[kv(0, "a", 5, 1), kv(1, "c", 6, 1)]).unwrap(), 2);
        assert!(check(&all, &[]).is_err(), "lost");
        assert!(check(&all, &[kv(0, "b", 5, 1)]).is_err(), "the loser is there");
        assert!(check(&all, &[kv(0, "a", 6, 2)]).is_err(), "written again");
        assert!(check(&all, &[kv(0, "a", 5, 1), kv(2, "d", 7, 1)]).is_err(), "invented");
        let two = [told(0, "a", Written(5)), told(0, "b", Written(6))];
        assert!(check(&two, &[kv(0, "a", 5, 1)]).is_err(), "two winners");
    }
}
