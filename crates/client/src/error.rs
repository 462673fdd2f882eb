//! What can go wrong, one variant a cause.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Why a call failed.
///
/// # Any call
/// can end with [`Unanswered`](Error::Unanswered), [`NoCluster`](Error::NoCluster),
/// [`ClusterChanged`](Error::ClusterChanged), [`IncarnationWentBack`](Error::IncarnationWentBack),
/// [`Invalid`](Error::Invalid), [`Denied`](Error::Denied) or [`Rpc`](Error::Rpc). It changed nothing then.
///
/// # Any write
/// can end with [`OutcomeUnknown`](Error::OutcomeUnknown) too, the only one after which something may have
/// changed, and with [`TooLarge`](Error::TooLarge) or [`NoSpace`](Error::NoSpace).
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use kvorum_client::Error;
///
/// let created = client.set("lock", "me").if_absent().await?.header.revision;
/// match client.set("lock", "you").if_absent().await {
///     Err(Error::ConditionFailed { key, actual, .. }) => {
///         assert_eq!((key, actual), ("lock".into(), Some(created)));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client was given an endpoint that cannot be one, or none at all.
    #[error("endpoint {endpoint:?} cannot be used: {problem}")]
    InvalidEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The deadline passed and no endpoint had answered the call. It changed nothing.
    #[error("no endpoint answered within {}: {}", Seconds(*within), List(tried))]
    Unanswered {
        /// The time that the call had.
        within: Duration,
        /// Each endpoint that was tried, and how its last attempt ended.
        tried: Vec<Tried>,
    },
    /// No endpoint belongs to a cluster, or to what its cluster is now, or each speaks TLS and the client does not.
    /// The call changed nothing, and will come to nothing until that is changed.
    #[error("no endpoint serves this client: {}", List(tried))]
    NoCluster {
        /// Each endpoint, and what it says.
        tried: Vec<Tried>,
    },
    /// The change may have been made, or may still be. Read what it would have changed to find out.
    #[error(
        "the outcome is unknown: {problem} ({endpoint}); look whether it took effect before repeating it"
    )]
    OutcomeUnknown {
        /// The endpoint that had the write.
        endpoint: String,
        /// How it ended.
        problem: String,
    },
    /// A condition of the write did not hold, so that nothing was written.
    #[error("{}", Condition { key, actual: *actual })]
    ConditionFailed {
        /// The condition's key; of a batch, that of the first condition that did not hold.
        key: Bytes,
        /// The revision of the key's last change as the condition met it; `None`: there was no such key.
        actual: Option<u64>,
    },
    /// The revision that was asked for is no longer there.
    #[error("{message}")]
    Compacted {
        /// What was asked for and what there is.
        message: String,
        /// The oldest revision that can still be read, where the node told it.
        compacted: Option<u64>,
    },
    /// The revision that was asked for does not exist yet.
    #[error("{message}")]
    FutureRevision {
        /// What was asked for and what there is.
        message: String,
    },
    /// The request, or its answer, exceeds a limit.
    #[error("{message}")]
    TooLarge {
        /// The size and the limit.
        message: String,
    },
    /// The cluster is out of space and takes nothing that makes the store grow.
    #[error("{message}")]
    NoSpace {
        /// Where, and what helps.
        message: String,
    },
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// An endpoint belongs to another cluster than the one this client talked to before.
    #[error(
        "{endpoint} belongs to cluster {found:016x}, and this client to {expected:016x}: check the endpoints"
    )]
    ClusterChanged {
        /// The endpoint.
        endpoint: String,
        /// The cluster that the client knows.
        expected: u64,
        /// The cluster that answered.
        found: u64,
    },
    /// An endpoint is from before a recovery of its cluster, which went on without it.
    #[error(
        "{endpoint} is of incarnation {found} of its cluster, and this client has seen {known}: the cluster was \
         recovered without that member; remove it, and add it again with an empty data directory"
    )]
    IncarnationWentBack {
        /// The endpoint.
        endpoint: String,
        /// The highest incarnation that the client has seen.
        known: u64,
        /// The incarnation that answered.
        found: u64,
    },
    /// Rights count, and nothing was done: who calls may not do this, does not say who he is, or does not prove it.
    #[error("{message}")]
    Denied {
        /// What the node says, and what to do about it.
        message: String,
    },
    /// A node answered with an error that has no variant of its own.
    #[error("{endpoint} answered {code}: {message}")]
    Rpc {
        /// The endpoint.
        endpoint: String,
        /// The gRPC status code's name, or the machine-readable reason where there is one.
        code: String,
        /// The node's message.
        message: String,
    },
    /// A snapshot file cannot be written, or is not what it should be.
    #[error("{0}")]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// The files for TLS cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A change of the membership cannot be made as asked.
    #[error("{0}")]
    Membership(String),
}

/// An endpoint that was tried in vain.
///
/// ```no_run
/// # async fn example(client: kvorum_client::Client) {
/// use kvorum_client::{Error, Tried};
///
/// if let Err(Error::Unanswered { tried, .. }) = client.get("greeting").await {
///     for Tried { endpoint, problem } in tried {
///         eprintln!("{endpoint}: {problem}");
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The endpoint.
    pub endpoint: String,
    /// How the last attempt ended.
    pub problem: String,
}

/// A condition that did not hold, in the words of the nodes.
struct Condition<'a> {
    key: &'a Bytes,
    actual: Option<u64>,
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "condition failed: key \"{}\" ", self.key.escape_ascii())?;
        match self.actual {
            Some(revision) => write!(f, "was last changed at revision {revision}"),
            None => f.write_str("does not exist"),
        }
    }
}

/// A list of endpoints with what was wrong with each.
struct List<'a>(&'a [Tried]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tried) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} ({})", tried.endpoint, tried.problem)?;
        }
        Ok(())
    }
}

/// A duration as people write it: `5s`, `1.5s`, `200ms`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{}s", (self.0.as_secs_f64() * 10.0).round() / 10.0)
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a person reads what failed, with what, and after how long. Method: compare whole lines.
    use super::*;

    #[test]
    fn a_failed_condition_reads_as_the_node_says_it() {
        let failed =
            |actual| Error::ConditionFailed { key: Bytes::from_static(b"k\xff"), actual }.to_string();
        assert_eq!(failed(Some(7)), "condition failed: key \"k\\xff\" was last changed at revision 7");
        assert_eq!(failed(None), "condition failed: key \"k\\xff\" does not exist");
    }

    #[test]
    fn an_unanswered_call_names_every_endpoint() {
        let tried = |endpoint: &str, problem: &str| Tried {
            endpoint: endpoint.to_owned(),
            problem: problem.to_owned(),
        };
        let error = Error::Unanswered {
            within: Duration::from_secs(5),
            tried: vec![tried("127.0.0.1:2379", "connection refused"), tried("b:2379", "no leader")],
        };
        assert_eq!(
            error.to_string(),
            "no endpoint answered within 5s: 127.0.0.1:2379 (connection refused), b:2379 (no leader)"
        );
    }
}
