//! What the answer to a write proves.

use std::error::Error as _;

use tonic::Status;
use tonic_types::StatusExt as _;

/// The domain of Kvorum's reasons.
const DOMAIN: &str = "kvorum.io";

/// What is known of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unacknowledged {
    /// It was not done, and never will be.
    NotDone,
    /// Its condition did not hold.
    ConditionFailed,
    /// It may be done, have been done, or be done at any time from now on.
    Unknown,
}

/// Judges the status of a write. What is not surely harmless is unknown: a node that says NOT_LEADER of a
/// write that is applied later is convicted by the history, as its value is read and was never written.
pub fn judge(status: &Status) -> Unacknowledged {
    if let Some(info) = status.get_details_error_info()
        && info.domain == DOMAIN
    {
        return match info.reason.as_str() {
            "CONDITION_FAILED" => Unacknowledged::ConditionFailed,
            "NOT_LEADER" | "NO_LEADER" | "UNJOINED" | "BUSY" | "SHUTTING_DOWN" | "TOO_LARGE" | "NO_SPACE"
            | "INVALID" => Unacknowledged::NotDone,
            _ => Unacknowledged::Unknown,
        };
    }
    match was_sent(status) {
        true => Unacknowledged::Unknown,
        false => Unacknowledged::NotDone,
    }
}

/// Whether there was a connection that may have carried the request.
fn was_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return false;
        }
        cause = error.source();
    }
    true
}

#[cfg(test)]
mod tests {
    //! Goal: nothing that may have happened counts as not done. Method: statuses as a node and a broken
    //! connection make them.
    use super::*;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    fn of(reason: &str, domain: &str) -> Unacknowledged {
        let details = ErrorDetails::with_error_info(reason, domain, []);
        judge(&Status::with_error_details(Code::Unavailable, "", details))
    }

    #[test]
    fn only_a_reason_of_ours_proves_that_nothing_was_done() {
        assert_eq!(of("NO_LEADER", DOMAIN), Unacknowledged::NotDone);
        assert_eq!(of("CONDITION_FAILED", DOMAIN), Unacknowledged::ConditionFailed);
        assert_eq!(of("OUTCOME_UNKNOWN", DOMAIN), Unacknowledged::Unknown);
        assert_eq!(of("NO_LEADER", "example.org"), Unacknowledged::Unknown);
        assert_eq!(judge(&Status::unavailable("broken pipe")), Unacknowledged::Unknown);
    }

    #[tokio::test]
    async fn what_found_no_connection_was_not_done() {
        let port = crate::ports::free().unwrap();
        let client = crate::rpc::RawClient::new(&format!("127.0.0.1:{port}")).unwrap();
        let status = client.set("k".into(), "v".into(), None).await.unwrap_err();
        assert_eq!(judge(&status), Unacknowledged::NotDone);
    }
}
