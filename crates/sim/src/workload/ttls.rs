//! Keys with a TTL: none ends before its time, by the true time of the world.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::{Client, Error};
use rand::RngExt as _;
use tokio::time::sleep;

use super::Session;
use crate::world::random::stream;

/// The shortest and the longest TTL.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(12));
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How much too early a key may be gone beside what clocks are off: answers take their time, and clocks tick.
const TOLERANCE: Duration = Duration::from_millis(20);

/// Sets a key, waits for its end, and begins again.
pub async fn work(session: Arc<Session>, client: Client, number: u32) {
    let mut random = stream(session.seed, &format!("ttls {number}"));
    for count in 0_u64.. {
        if session.stops() {
            return;
        }
        let key = format!("ttl/{number:02}-{count:08}");
        let ttl = random.random_range(TTL.0..=TTL.1);
        let called = session.clock.moment();
        let answer = client.set(key.clone(), "v").ttl(ttl).await;
        session.answered("set ttl", count, &answer);
        match answer {
            Ok(_) => outlive(&session, &client, &key, called + ttl, ttl).await,
            Err(Error::InvalidEndpoint { .. } | Error::Invalid { .. }) => return,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn outlive(session: &Session, client: &Client, key: &str, ends: Duration, ttl: Duration) {
    // Two clocks may be off, each in its own direction: the one that stamped it and the one that ends it.
    let drift = ttl.mul_f64(session.drift_ppm as f64 / 1e6) * 2;
    while !session.stops() {
        sleep(PAUSE).await;
        let answer = client.get(key.to_owned()).await;
        session.answered("get ttl", 0, &answer);
        if answer.is_ok_and(|answer| answer.kv.is_none()) {
            let early = ends.saturating_sub(session.clock.moment());
            session.told(|told| told.ttls += 1);
            if early > drift + TOLERANCE {
                session.violated(format!("{key}, with a TTL of {ttl:?}, was gone {early:?} before its time"));
            }
            return;
        }
    }
}
