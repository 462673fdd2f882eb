//! Waiting for something to become true, with an end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Failure, Result};

/// Between two looks: short beside everything that is waited for, and cheap.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer. A look that fails says why in the failure with which
/// this ends when the time is up.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(failure) if Instant::now() >= deadline => {
                return Err(Failure::new(format!("{what} did not happen within {within:?}: {failure}")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
