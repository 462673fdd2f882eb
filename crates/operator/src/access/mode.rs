//! Whether rights count: a pure function of the spec and of what is on record.

use kvorum_crd::{AuthMode, TlsMode};

use crate::names;

/// What is on record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// There is neither a StatefulSet nor a disk of a member: a new cluster.
    New,
    /// There is, and nobody has ever said whether rights count.
    Unsaid,
    /// This is what was said, or what the cluster was made with.
    Said(AuthMode),
}

/// Whether rights are to count; nothing where nobody has ever said so. `spec_tls` is what the spec says of TLS, `tls` what
/// pods are made for; `counted`: rights do count.
///
/// Rights come by themselves where TLS does, in a new cluster. Whoever asks for a plain one asks for no rights: those that
/// were to come do not, and those that count stay until that is said.
pub fn mode(
    wanted: Option<AuthMode>,
    record: Record,
    counted: bool,
    spec_tls: Option<TlsMode>,
    tls: TlsMode,
) -> Option<AuthMode> {
    let asks_for_plain = spec_tls.is_some_and(|mode| mode != TlsMode::Required);
    let of_record = match record {
        Record::Said(AuthMode::Disabled) => Some(AuthMode::Disabled),
        Record::Said(mode) => Some(mode).filter(|_| counted || !asks_for_plain),
        Record::New => Some(AuthMode::Required).filter(|_| tls == TlsMode::Required),
        Record::Unsaid => None,
    };
    wanted.or(of_record)
}

/// As StatefulSet and claims say it; nothing where rights mean nothing.
pub fn word(mode: AuthMode) -> Option<&'static str> {
    match mode {
        AuthMode::Disabled => None,
        AuthMode::Observe => Some(names::AUTH_OBSERVE),
        AuthMode::Required => Some(names::AUTH_REQUIRED),
    }
}

/// What a word of theirs means.
pub fn read(word: &str) -> AuthMode {
    match word {
        names::AUTH_REQUIRED => AuthMode::Required,
        names::AUTH_OBSERVE => AuthMode::Observe,
        _ => AuthMode::Disabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AuthMode::{Disabled, Required};
    use Record::{New, Said, Unsaid};

    const TLS: Option<TlsMode> = Some(TlsMode::Required);
    const PLAIN: Option<TlsMode> = Some(TlsMode::Disabled);
    const BOTH: Option<TlsMode> = Some(TlsMode::Optional);

    /// Goal: a new cluster has rights where it has TLS, one that exists keeps what it has, and what the spec says goes before
    /// all. Method: a table.
    #[test]
    fn rights_come_with_a_new_cluster_and_stay() {
        for (wanted, record, counted, spec_tls, tls, expected) in [
            (None, New, false, None, TLS, Some(Required)),
            (None, New, false, TLS, TLS, Some(Required)),
            (None, New, false, PLAIN, PLAIN, None),
            (None, New, false, BOTH, BOTH, None),
            // Pods without a StatefulSet and without data, which an older operator made.
            (None, New, false, None, PLAIN, None),
            (None, Unsaid, false, None, PLAIN, None),
            (None, Unsaid, false, None, TLS, None),
            (None, Unsaid, false, TLS, TLS, None),
            (None, Said(Required), false, None, TLS, Some(Required)),
            (None, Said(Required), true, TLS, TLS, Some(Required)),
            (None, Said(Required), true, PLAIN, TLS, Some(Required)),
            (None, Said(Required), false, PLAIN, TLS, None),
            (None, Said(Disabled), false, None, TLS, Some(Disabled)),
            (None, Said(Disabled), false, PLAIN, PLAIN, Some(Disabled)),
            (Some(Disabled), New, false, None, TLS, Some(Disabled)),
            (Some(Disabled), Said(Required), true, None, TLS, Some(Disabled)),
            (Some(Required), Unsaid, false, TLS, TLS, Some(Required)),
        ] {
            let found = mode(wanted, record, counted, spec_tls, tls.unwrap());
            assert_eq!(found, expected, "{wanted:?}, {record:?}, {counted}, {spec_tls:?}, {tls:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!((word(Required).map(read), word(Disabled)), (Some(Required), None));
        assert_eq!(word(AuthMode::Observe).map(read), Some(AuthMode::Observe));
        assert_eq!(read("something else"), Disabled);
    }
}
