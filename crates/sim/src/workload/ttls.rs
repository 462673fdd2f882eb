//! Keys with a TTL, which is renewed or dropped in the last moment: none ends before its time, by the true time of the
//! world, nor long after it. Some end at the same moment.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, Error};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// The shortest and the longest TTL.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(12));
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How much too early a key may be gone beside what clocks are off: answers take their time, and clocks tick.
const TOLERANCE: Duration = Duration::from_millis(20);
/// How much too late where nothing has gone wrong: half a second is promised, and a commit takes its time.
const LATE_MAX: Duration = Duration::from_secs(2);
/// For so long nothing has gone wrong then.
const CALM: Duration = Duration::from_secs(10);
/// A TTL is changed so long before the key's end at most, and a little after it at most.
const CHANGE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(50));
/// For so long a key is looked for whose TTL was dropped.
const STAYS: Duration = Duration::from_secs(4);

/// One of so many times several keys end at the same moment: more than some members end at a time.
const SEVERAL: u32 = 4;
const AT_ONCE: usize = 5;

/// A key and when it ends: not before the first, and not long after the second.
struct Key {
    name: String,
    ttl: Duration,
    earliest: Duration,
    latest: Duration,
}

/// Sets a key, waits for its end, and begins again.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("ttls {number}"));
    for count in 0_u64.. {
        session.rested().await;
        if session.stops() {
            return;
        }
        let name = format!("ttl/{number:02}-{count:08}");
        let ttl = random.random_range(TTL.0..=TTL.1);
        if random.random_range(0..SEVERAL) == 0 {
            end_at_once(&session, &client, &name, ttl).await;
            continue;
        }
        let called = session.clock.moment();
        let answer = client.set(name.clone(), "v").ttl(ttl).await;
        session.answered_write("set ttl", count, &answer);
        let mut key = Key { name, ttl, earliest: called + ttl, latest: session.clock.moment() + ttl };
        match answer {
            Ok(_) => {
                if random.random_range(0..2) == 0 && !change(&session, &client, &mut random, &mut key).await {
                    continue;
                }
                outlive(&session, &client, &key).await;
            }
            Err(Error::InvalidEndpoint { .. } | Error::Invalid { .. }) => return,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Sets several keys at once, and waits for the ends of all.
async fn end_at_once(session: &Session, client: &Client, name: &str, ttl: Duration) {
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("{name}/{number}")).collect();
    let called = session.clock.moment();
    let batch = names.iter().fold(client.batch(), |batch, name| batch.set_with_ttl(name.clone(), "v", ttl));
    let answer = batch.await;
    session.answered_write("set ttls", 0, &answer);
    if answer.is_err() {
        return sleep(PAUSE).await;
    }
    let latest = session.clock.moment() + ttl;
    for name in names {
        outlive(session, client, &Key { name, ttl, earliest: called + ttl, latest }).await;
    }
}

/// Changes the TTL when the key is about to end. Answers whether it is still known when it ends.
async fn change(session: &Session, client: &Client, random: &mut StdRng, key: &mut Key) -> bool {
    let at =
        (key.earliest + CHANGE.1).saturating_sub(random.random_range(Duration::ZERO..=CHANGE.0 + CHANGE.1));
    while session.clock.moment() < at && !session.stops() {
        sleep(Duration::from_millis(2)).await;
    }
    let ttl = random.random_range(TTL.0..=TTL.1);
    let called = session.clock.moment();
    let renewed = match random.random_range(0..4) {
        0 => {
            let answer = client.persist(key.name.clone()).await;
            session.answered_write("persist", 0, &answer);
            if answer.is_ok_and(|answer| answer.had_ttl) {
                stays(session, client, key).await;
            }
            return false;
        }
        3 => {
            let answer = client.set(key.name.clone(), "without").await;
            session.answered_write("set", 0, &answer);
            if answer.is_ok() {
                stays(session, client, key).await;
            }
            return false;
        }
        1 => {
            let answer = client.expire(key.name.clone(), ttl).await;
            session.answered_write("expire", 0, &answer);
            answer.is_ok_and(|answer| answer.found)
        }
        _ => {
            let answer = client.set(key.name.clone(), "renewed").ttl(ttl).await;
            session.answered_write("renew", 0, &answer);
            answer.is_ok()
        }
    };
    (key.ttl, key.earliest, key.latest) = (ttl, called + ttl, session.clock.moment() + ttl);
    renewed
}

/// A key without a TTL stays.
async fn stays(session: &Session, client: &Client, key: &Key) {
    let until = session.clock.moment() + STAYS;
    while session.clock.moment() < until && !session.stops() {
        sleep(4 * PAUSE).await;
        let answer = client.get(key.name.clone()).await;
        session.answered("get ttl", 0, &answer);
        if answer.is_ok_and(|answer| answer.kv.is_none()) {
            session.violated(format!("{}, whose TTL was dropped, is gone", key.name));
            return;
        }
    }
    let answer = client.delete(key.name.clone()).await;
    session.answered_write("delete", 0, &answer);
}

async fn outlive(session: &Session, client: &Client, key: &Key) {
    // Two clocks may be off, each in its own direction: the one that stamped it and the one that ends it.
    let drift = key.ttl.mul_f64(session.drift_ppm as f64 / 1e6) * 2;
    while !session.stops() {
        sleep(PAUSE).await;
        let called = session.clock.moment();
        let answer = client.get(key.name.clone()).await;
        session.answered("get ttl", 0, &answer);
        let Ok(answer) = answer else { continue };
        if answer.kv.is_none() {
            let early = key.earliest.saturating_sub(session.clock.moment());
            session.told(|told| told.ttls += 1);
            if early > drift + TOLERANCE {
                let Key { name, ttl, .. } = key;
                session
                    .violated(format!("{name}, with a TTL of {ttl:?}, was gone {early:?} before its time"));
            }
            return;
        }
        let is_calm = session.calm_since() + CALM < key.earliest;
        let late = called.saturating_sub(key.latest + drift);
        if is_calm && late > LATE_MAX {
            let Key { name, ttl, .. } = key;
            session.violated(format!("{name}, with a TTL of {ttl:?}, was there {late:?} after its time"));
            return;
        }
    }
}
