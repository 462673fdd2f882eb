//! What a failed attempt means: the one place that reads gRPC status codes and reasons.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::Error;
use crate::channel::SendError;

/// The domain of the reasons that this crate knows.
const DOMAIN: &str = "kvorum.io";

/// A failed attempt at a call.
#[derive(Debug)]
pub(crate) struct Setback {
    pub(crate) fate: Fate,
    /// For the list of endpoints in an error: one line.
    pub(crate) problem: String,
    /// The connection cannot be relied on any more.
    pub(crate) broken: bool,
}

/// What became of the request.
#[derive(Debug, PartialEq)]
pub(crate) enum Fate {
    /// It was answered: this is the caller's error.
    Answered(Error),
    /// Surely nothing was proposed.
    NotApplied(Next),
    /// Nobody knows. A read can be repeated, a write cannot.
    Unknown,
    /// The token proves nothing, though another may: surely nothing was done.
    BadToken(Error),
    /// The revision is one the node does not have yet, though others may.
    Behind(Error),
}

/// Where a request that was not taken may be taken.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// At the leader, with this client address.
    Leader(String),
    /// At any node; here too, after a while.
    Anywhere,
    /// Here, in a moment; others need not be asked.
    Here,
    /// At another node; never here, unless a person does something about this one.
    Elsewhere,
}

impl Setback {
    /// The request did not leave this machine.
    pub(crate) fn not_sent(problem: String) -> Setback {
        Setback { fate: Fate::NotApplied(Next::Anywhere), problem, broken: true }
    }

    /// The request was not sent, since a probe of the connection ended so.
    pub(crate) fn of_probe(self) -> Setback {
        let fate = match self.fate {
            fate @ Fate::NotApplied(Next::Elsewhere) => fate,
            _ => Fate::NotApplied(Next::Anywhere),
        };
        Setback { fate, broken: true, ..self }
    }

    /// The node was reached, and does not do this for this client.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self.fate, Fate::BadToken(_) | Fate::Answered(Error::Denied { .. }))
    }

    /// The request was sent, and the time for an answer is over.
    pub(crate) fn timed_out() -> Setback {
        Setback { fate: Fate::Unknown, problem: "no answer in time".to_owned(), broken: false }
    }

    /// The node's answer is the caller's error.
    pub(crate) fn answered(error: Error) -> Setback {
        Setback { problem: error.to_string(), fate: Fate::Answered(error), broken: false }
    }
}

/// Judges the status with which an attempt at `endpoint` ended.
pub(crate) fn judge(status: &Status, endpoint: &str) -> Setback {
    if let Some(info) = status.get_details_error_info()
        && info.domain == DOMAIN
    {
        let fate = of_reason(&info.reason, &info.metadata, status, endpoint);
        let problem = match status.message() {
            "" => info.reason,
            message => message.to_owned(),
        };
        return Setback { fate, problem, broken: false };
    }
    // A status with a source was made on this side, out of a transport's error.
    if let Some(source) = status.source() {
        if wants_tls(source) {
            let problem = "this port speaks TLS, so that a client must be given the cluster's CA".to_owned();
            return Setback { fate: Fate::NotApplied(Next::Elsewhere), problem, broken: true };
        }
        let fate = match never_processed(source) {
            true => Fate::NotApplied(Next::Anywhere),
            false => Fate::Unknown,
        };
        return Setback { fate, problem: root_cause(source), broken: true };
    }
    if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) {
        // The server has stopped working on it, for whatever that tells.
        return Setback::timed_out();
    }
    Setback { fate: of_code(status, endpoint), problem: line(status.message(), status.code()), broken: false }
}

fn of_reason(reason: &str, metadata: &HashMap<String, String>, status: &Status, endpoint: &str) -> Fate {
    let message = status.message().to_owned();
    match reason {
        "NOT_LEADER" => {
            Fate::NotApplied(metadata.get("leader").cloned().map_or(Next::Anywhere, Next::Leader))
        }
        // DEADLINE says that the time was over before anything was done.
        "NO_LEADER" | "SHUTTING_DOWN" | "DEADLINE" => Fate::NotApplied(Next::Anywhere),
        // Rights changed while it was on its way, or are to be declared in a moment.
        "BUSY" | "AUTH_MOVED" | "AUTH_CLOSED" => Fate::NotApplied(Next::Here),
        // A disk that belongs to no cluster, or that its cluster no longer counts on.
        "UNJOINED" | "STATUS_ONLY" => Fate::NotApplied(Next::Elsewhere),
        "OUTCOME_UNKNOWN" => Fate::Unknown,
        // It has looked at nothing: its data differs from the other members'.
        "CORRUPT" if status.code() == Code::Unavailable => Fate::NotApplied(Next::Elsewhere),
        // The other nodes may be well, so that a read is worth a second try.
        "CORRUPT" => Fate::Unknown,
        "COMPACTED" => Fate::Answered(Error::Compacted {
            message,
            compacted: metadata.get("compacted").and_then(|revision| revision.parse().ok()),
        }),
        "FUTURE_REVISION" => Fate::Behind(Error::FutureRevision { message }),
        "CONDITION_FAILED" => Fate::Answered(match failed_condition(metadata) {
            Some(failed) => failed,
            // Every node says which key it was: this is none, or one that speaks another language.
            None => rpc_error(endpoint, reason, &message),
        }),
        "TOO_LARGE" => Fate::Answered(Error::TooLarge { message }),
        "NO_SPACE" => Fate::Answered(Error::NoSpace { message }),
        "INVALID_TOKEN" => {
            let why = metadata.get("why").map(|why| format!(": {why}")).unwrap_or_default();
            Fate::BadToken(Error::Denied { message: format!("{message}{why}") })
        }
        "PERMISSION_DENIED" | "AUTH_FAILED" | "AUTH_PLAIN" => Fate::Answered(Error::Denied { message }),
        "USER_EMPTY" => Fate::Answered(Error::Denied {
            message: format!(
                "{message}: rights count here; show a certificate, or send a token or a password"
            ),
        }),
        "INVALID" => Fate::Answered(Error::Invalid { message }),
        other => Fate::Answered(rpc_error(endpoint, other, &message)),
    }
}

/// The key, which is any bytes and metadata is text, and the revision of its last change.
fn failed_condition(metadata: &HashMap<String, String>) -> Option<Error> {
    let digits = metadata.get("key_hex")?.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let key: Option<Vec<u8>> =
        if digits.len() % 2 == 0 { digits.chunks(2).map(byte).collect() } else { None };
    let actual: u64 = metadata.get("actual")?.parse().ok()?;
    Some(Error::ConditionFailed { key: key?.into(), actual: (actual != 0).then_some(actual) })
}

fn of_code(status: &Status, endpoint: &str) -> Fate {
    match status.code() {
        // The server or something between gave up, or broke: the request may have got through.
        Code::Unavailable | Code::Unknown | Code::Internal => Fate::Unknown,
        Code::Unimplemented => Fate::Answered(rpc_error(
            endpoint,
            "Unimplemented",
            "it does not know the call; keys are served at the client port of a Kvorum node, members and snapshots at its peer port",
        )),
        code => Fate::Answered(rpc_error(endpoint, &format!("{code:?}"), status.message())),
    }
}

fn rpc_error(endpoint: &str, code: &str, message: &str) -> Error {
    Error::Rpc { endpoint: endpoint.to_owned(), code: code.to_owned(), message: message.to_owned() }
}

fn line(message: &str, code: Code) -> String {
    match message {
        "" => code.description().to_owned(),
        message => message.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Whether the transport guarantees that no node saw the request.
fn never_processed(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        if cause.downcast_ref::<SendError>().is_some_and(|error| error.unsent) {
            return true;
        }
        cause.downcast_ref::<h2::Error>().is_some_and(|error| {
            let gone_gracefully =
                error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            // A GOAWAY fails only the streams above the last one that the server took up.
            gone_gracefully || (error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
    })
}

/// Whether a port told a client without TLS that it wants some.
fn wants_tls(error: &(dyn StdError + 'static)) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::INADEQUATE_SECURITY)
    })
}

/// The innermost cause, in the words of the operating system where it has any.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        text = match cause.downcast_ref::<io::Error>() {
            Some(error) if error.raw_os_error().is_some() => return error.kind().to_string(),
            // TLS has words of its own for the end of a process.
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return "the other side closed the connection".to_owned();
            }
            _ => cause.to_string(),
        };
    }
    text
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> + 'a {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    //! Goal: a write is repeated exactly when the answer guarantees that nothing was proposed.
    //! Method: a table of every reason and of the codes without one.
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn reason(reason: &str, metadata: &[(&str, &str)]) -> Fate {
        let metadata: HashMap<String, String> =
            metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let details = ErrorDetails::with_error_info(reason, "kvorum.io", metadata);
        judge(&Status::with_error_details(Code::Unavailable, "message", details), "a:1").fate
    }

    #[test]
    fn few_reasons_say_that_nothing_was_proposed() {
        for name in ["NOT_LEADER", "NO_LEADER", "SHUTTING_DOWN", "DEADLINE"] {
            assert_eq!(reason(name, &[]), Fate::NotApplied(Next::Anywhere), "{name}");
        }
        for name in ["UNJOINED", "STATUS_ONLY", "CORRUPT"] {
            assert_eq!(reason(name, &[]), Fate::NotApplied(Next::Elsewhere), "{name}");
        }
        for name in ["BUSY", "AUTH_MOVED", "AUTH_CLOSED"] {
            assert_eq!(reason(name, &[]), Fate::NotApplied(Next::Here), "{name}");
        }
        let bad = reason("INVALID_TOKEN", &[("why", "it has expired")]);
        assert_eq!(bad, Fate::BadToken(Error::Denied { message: "message: it has expired".to_owned() }));
        for name in ["PERMISSION_DENIED", "USER_EMPTY", "AUTH_FAILED", "AUTH_PLAIN"] {
            assert!(matches!(reason(name, &[]), Fate::Answered(Error::Denied { .. })), "{name}");
        }
        let leader = reason("NOT_LEADER", &[("leader", "b:2")]);
        assert_eq!(leader, Fate::NotApplied(Next::Leader("b:2".to_owned())));
        assert_eq!(reason("OUTCOME_UNKNOWN", &[]), Fate::Unknown);
        // A store that failed in the middle of it.
        let failed = Status::data_loss("");
        assert_eq!(of_reason("CORRUPT", &HashMap::new(), &failed, "a:1"), Fate::Unknown);
        for name in ["COMPACTED", "CONDITION_FAILED", "TOO_LARGE", "NO_SPACE", "INVALID", "FROM_A_NEWER_NODE"]
        {
            assert!(matches!(reason(name, &[]), Fate::Answered(_)), "{name}");
        }
        assert!(matches!(reason("FUTURE_REVISION", &[]), Fate::Behind(_)));
    }

    #[test]
    fn a_compaction_answer_tells_the_oldest_revision() {
        let Fate::Answered(Error::Compacted { compacted, .. }) = reason("COMPACTED", &[("compacted", "17")])
        else {
            panic!("not an answer");
        };
        assert_eq!(compacted, Some(17));
    }

    #[test]
    fn a_failed_condition_names_its_key_and_what_it_met() {
        let failed =
            |key: &str, actual: &str| reason("CONDITION_FAILED", &[("key_hex", key), ("actual", actual)]);
        let expected =
            |key: &'static [u8], actual| Fate::Answered(Error::ConditionFailed { key: key.into(), actual });
        assert_eq!(failed("006bff", "7"), expected(b"\0k\xff", Some(7)));
        assert_eq!(failed("6b", "0"), expected(b"k", None));
        for (key, actual) in [("6", "7"), ("zz", "7"), ("6b", "x"), ("\u{e4}\u{f6}", "7")] {
            let fate = failed(key, actual);
            assert!(matches!(fate, Fate::Answered(Error::Rpc { .. })), "{key} {actual}: {fate:?}");
        }
    }

    #[test]
    fn a_code_without_a_reason_guarantees_nothing() {
        for code in
            [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded]
        {
            assert_eq!(judge(&Status::new(code, "x"), "a:1").fate, Fate::Unknown, "{code:?}");
        }
    }
}
