//! What the status says of TLS and of certificates.

use k8s_openapi::jiff::Timestamp;
use kvorum_crd::{TlsMode, TlsStatus};

use super::verdict::{Verdict, verdict};
use crate::certificates::Stage;
use crate::observe::{Seen, Tls, plain_clients};

/// A certificate that is not renewed with so much of its life left needs somebody, in seconds.
const LATE: i64 = 21 * 24 * 3600;

/// How far the cluster is with TLS; nothing where it has never had any.
pub fn tls(seen: &Seen, old: Option<&TlsStatus>) -> Option<TlsStatus> {
    let tls = &seen.tls;
    let Some(secrets) = &tls.secrets else {
        return old.map(|_| TlsStatus { phase: word(TlsMode::Disabled).into(), ..TlsStatus::default() });
    };
    let authority = secrets.held.authority.there();
    let signer = authority.and_then(|authority| authority.signer.as_ref().or(authority.next.as_ref()));
    let leaf = secrets.held.members.there();
    Some(TlsStatus {
        phase: phase(tls).to_owned(),
        ca_expires: signer.and_then(|ca| date(ca.not_after)),
        certificate_expires: leaf.and_then(|leaf| date(leaf.not_after)),
        plaintext_connections: plain_clients(seen.observed.nodes.values()),
        waiting_for: waiting(tls),
    })
}

fn phase(tls: &Tls) -> &'static str {
    match tls.next.stage {
        Stage::Trust => "Trust",
        Stage::Issue => "Issue",
        Stage::Settled if tls.next.drops => "Drop",
        Stage::Settled => word(tls.mode()),
    }
}

fn word(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Disabled => "Disabled",
        TlsMode::Optional => "Optional",
        TlsMode::Required => "Required",
    }
}

fn waiting(tls: &Tls) -> Option<String> {
    tls.speak.as_ref().and_then(|speak| speak.waiting.clone()).or_else(|| tls.next.waiting.clone())
}

fn date(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

/// Whether the certificates need somebody.
pub fn problem(seen: &Seen, now: Timestamp) -> Verdict {
    let said = |reason: &str, message: String| verdict("CertificateProblem", true, reason, message);
    let tls = &seen.tls;
    if let Some(failed) = &tls.failed {
        return said("ChangeFailed", failed.clone());
    }
    if let Some(problem) = tls.next.problem.as_ref().or(tls.outside.problem.as_ref()) {
        return said(problem.reason, problem.message.clone());
    }
    let leaf = tls.secrets.as_ref().and_then(|secrets| secrets.held.members.there());
    if let Some(leaf) = leaf.filter(|leaf| leaf.not_after - now.as_second() < LATE) {
        let end = date(leaf.not_after).unwrap_or_default();
        return said(
            "EndsSoon",
            format!(
                "The members' certificate ends at {end} and is not renewed: the operator's log says why."
            ),
        );
    }
    let late = seen.observed.nodes.iter().find(|(_, node)| {
        let expected = leaf.filter(|_| tls.next.change.is_none()).map(|leaf| leaf.fingerprint);
        let loaded = node.tls.map(|tls| tls.report.leaf);
        loaded.is_some_and(|loaded| expected.is_some_and(|expected| expected != loaded))
    });
    if let (Some((ordinal, _)), true) = (late, tls.next.overdue > LOADED_WITHIN) {
        let pod = seen.observed.pod_name(*ordinal);
        return said(
            "NotLoaded",
            format!(
                "Member {pod} shows another certificate than Secret {} holds: `kubectl logs {pod}` says why.",
                crate::names::member_tls(&seen.name)
            ),
        );
    }
    verdict("CertificateProblem", false, "None", "No certificate needs anybody.")
}

/// The kubelet brings a Secret to a pod within this, in seconds.
const LOADED_WITHIN: i64 = 600;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{Next, Problem, Speak};

    #[test]
    fn a_rotation_is_the_phase_and_what_is_wanted_comes_first() {
        let speak = |waiting: Option<&str>| {
            Some(Speak { mode: TlsMode::Required, waiting: waiting.map(str::to_owned) })
        };
        let next = |stage, drops, waiting: Option<&str>| Next {
            stage,
            drops,
            waiting: waiting.map(str::to_owned),
            problem: None::<Problem>,
            ..Next::default()
        };
        for (stage, drops, expected) in [
            (Stage::Settled, false, "Required"),
            (Stage::Settled, true, "Drop"),
            (Stage::Trust, false, "Trust"),
            (Stage::Issue, false, "Issue"),
        ] {
            let tls = Tls { speak: speak(None), next: next(stage, drops, Some("time")), ..Tls::default() };
            assert_eq!((phase(&tls), waiting(&tls).as_deref()), (expected, Some("time")));
        }
        let tls = Tls {
            speak: speak(Some("pods")),
            next: next(Stage::Trust, false, Some("time")),
            ..Tls::default()
        };
        assert_eq!(waiting(&tls).as_deref(), Some("pods"));
    }
}
