//! The time that a call has, by its `grpc-timeout`.

use tokio::time::{Duration, Instant};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The time a call has when its caller names none.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// The most time a unary call gets, so that nothing waits for ever for a leader.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// The server answers so much earlier than the caller gives up, or an eighth of the caller's time
/// if that is less: only an answer can say whether a write may have happened.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// When a call must have been answered, by its `grpc-timeout`.
pub fn deadline(metadata: &MetadataMap) -> Instant {
    Instant::now() + time_to_answer(metadata)
}

/// When a call must have been answered for which there is no other limit; nothing where its caller names none.
pub fn deadline_if_any(metadata: &MetadataMap) -> Option<Instant> {
    asked(metadata).map(|asked| Instant::now() + (asked - margin(asked)))
}

/// The time there is to answer each of `count` writes that a member forwarded in one call, by the
/// milliseconds that its caller had left; by the call's own deadline where the member says none.
pub fn times_to_answer(
    metadata: &MetadataMap,
    timeout_ms: &[u32],
    count: usize,
) -> Result<Vec<Duration>, Status> {
    if timeout_ms.is_empty() {
        return Ok(vec![time_to_answer(metadata); count]);
    }
    if timeout_ms.len() != count {
        let times = timeout_ms.len();
        return Err(Status::invalid_argument(format!("{count} commands came with {times} time-outs")));
    }
    Ok(timeout_ms.iter().map(|ms| within(Duration::from_millis(u64::from(*ms)))).collect())
}

fn time_to_answer(metadata: &MetadataMap) -> Duration {
    asked(metadata).map_or(DEADLINE_DEFAULT, within)
}

fn asked(metadata: &MetadataMap) -> Option<Duration> {
    metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.as_bytes()))
}

/// The time there is for an answer that the caller waits for so long.
fn within(asked: Duration) -> Duration {
    asked.min(DEADLINE_MAX) - margin(asked)
}

fn margin(asked: Duration) -> Duration {
    DEADLINE_MARGIN.min(asked / 8)
}

/// At most eight digits and a unit, see gRPC over HTTP/2.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_of(header: Option<&str>) -> Duration {
        let mut metadata = MetadataMap::new();
        if let Some(header) = header {
            metadata.insert("grpc-timeout", header.parse().unwrap());
        }
        time_to_answer(&metadata)
    }

    /// The caller's deadline is kept, with a margin to tell what happened, and never without bound.
    #[test]
    fn the_deadline_is_the_callers() {
        assert_eq!(wait_of(None), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("nonsense")), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("123456789S")), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("1S")), Duration::from_millis(980));
        assert_eq!(wait_of(Some("80m")), Duration::from_millis(70));
        assert_eq!(wait_of(Some("99999999H")), DEADLINE_MAX - DEADLINE_MARGIN);
    }
}
