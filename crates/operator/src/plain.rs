//! How many clients connect without TLS yet, while both are taken: what an event tells whoever is to decide when
//! `Required` harms nobody.

use std::time::{Duration, Instant};

use crate::names;
use crate::observe::plain_clients;
use crate::observed::Observed;

/// Those that are left are told of so often at most: they come and go.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    count: i64,
    at: Instant,
}

/// How many there are; nothing where TLS is not optional, or a member has not said it.
pub fn left(observed: &Observed) -> Option<i64> {
    let said = |ordinal| observed.nodes.get(ordinal).is_some_and(|node| node.tls.is_some());
    observed.pods.keys().all(said).then(|| plain_clients(observed.nodes.values())).flatten()
}

/// What is to be told, if it is time: that some are left, now and then; that none is, once after some were.
pub fn tell(told: &mut Option<Told>, left: Option<i64>, cluster: &str, at: Instant) -> Option<String> {
    let count = left?;
    let due = match *told {
        None => count > 0,
        Some(last) if count > 0 => at.duration_since(last.at) >= TOLD_EVERY,
        Some(last) => last.count > 0,
    };
    due.then_some(())?;
    *told = Some(Told { count, at });
    Some(match count {
        0 => "No client connects without TLS any more, as far as connections are open now: spec.tls.mode can be Required."
            .to_owned(),
        count => format!(
            "{count} connections of clients are without TLS; kvorum_connections{{port=\"client\",tls=\"no\"}} says to which \
             members. Give these clients the CA in ConfigMap {} before spec.tls.mode is Required.",
            names::ca(cluster)
        ),
    })
}

#[cfg(test)]
mod tests {
    use kvorum_crd::TlsMode;

    use super::*;
    use crate::observed::{Node, NodeTls, Pod};

    /// Goal: a person hears of it without asking, and is not flooded. Method: a day's counts, one after the other.
    #[test]
    fn it_is_told_now_and_then_and_once_at_the_end() {
        let (start, mut told) = (Instant::now(), None);
        for (seconds, left, said) in [
            (0, Some(0), None),
            (1, None, None),
            (2, Some(3), Some("ConfigMap demo-ca ")),
            (3, Some(5), None),
            (601, Some(4), None),
            (602, Some(4), Some("4 connections")),
            (603, Some(0), Some("No client")),
            (604, Some(0), None),
            (605, Some(1), None),
            (606, Some(0), None),
            (1203, Some(2), Some("2 connections")),
            (1204, None, None),
            (1205, Some(0), Some("No client")),
        ] {
            let words = tell(&mut told, left, "demo", start + Duration::from_secs(seconds));
            assert_eq!(words.is_some(), said.is_some(), "at {seconds} s: {words:?}");
            assert!(words.unwrap_or_default().contains(said.unwrap_or_default()), "at {seconds} s");
        }
    }

    /// Goal: none is said to be left only where every member has said so, and both are taken.
    #[test]
    fn who_does_not_answer_may_have_some() {
        let mut observed =
            Observed { pods: [(0, Pod::default()), (1, Pod::default())].into(), ..Observed::default() };
        let node = |mode, plain_clients| Node {
            tls: Some(NodeTls { mode, plain_clients, ..NodeTls::default() }),
            ..Node::default()
        };
        observed.nodes.insert(0, node(TlsMode::Optional, 2));
        assert_eq!(left(&observed), None);
        observed.nodes.insert(1, node(TlsMode::Optional, 1));
        assert_eq!(left(&observed), Some(3));
        observed.nodes = [(0, node(TlsMode::Required, 0)), (1, node(TlsMode::Required, 0))].into();
        assert_eq!(left(&observed), None);
    }
}
