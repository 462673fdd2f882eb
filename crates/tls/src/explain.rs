//! What went wrong with a connection, for whoever has to mend it.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::certificate::date;

thread_local! {
    /// What the look at a certificate found, in the poll that is under way on this thread. rustls has room for the
    /// kind of the error only, which decides the alert that the other side gets.
    static FOUND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Says what is wrong with a certificate, while it is looked at.
pub(crate) fn explain(text: String) {
    FOUND.set(Some(text));
}

/// Runs a handshake, and catches what was said of the certificate meanwhile.
pub(crate) async fn explained<T>(handshake: impl Future<Output = T>) -> (T, Option<String>) {
    let (mut handshake, mut said) = (pin!(handshake), None);
    poll_fn(move |cx| {
        FOUND.set(None);
        let polled = handshake.as_mut().poll(cx);
        said = FOUND.take().or(said.take());
        polled.map(|output| (output, said.take()))
    })
    .await
}

/// Why a connection was not made, or not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind, of which there are few.
    pub reason: Reason,
    /// In words, one line.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        io::Error::other(fault)
    }
}

/// The kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It went without a word.
    Left,
    /// It speaks without TLS.
    Plain,
    /// It said too little in its time.
    Slow,
    /// There was no room for its handshake.
    Busy,
    /// It showed no certificate.
    NoCertificate,
    /// Another CA has signed its certificate.
    UnknownCa,
    /// Its certificate is over, or not valid yet.
    Expired,
    /// Its certificate is valid, and of somebody who has no business here.
    NotAllowed,
    /// Its certificate is for another name or another use, or is broken.
    BadCertificate,
    /// It speaks no TLS 1.3, or breaks its rules.
    Protocol,
    /// It refuses this side.
    Refused,
    /// The connection broke.
    Broken,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 12] = [
        Reason::Left,
        Reason::Plain,
        Reason::Slow,
        Reason::Busy,
        Reason::NoCertificate,
        Reason::UnknownCa,
        Reason::Expired,
        Reason::NotAllowed,
        Reason::BadCertificate,
        Reason::Protocol,
        Reason::Refused,
        Reason::Broken,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Left => "left",
            Reason::Plain => "plain",
            Reason::Slow => "slow",
            Reason::Busy => "busy",
            Reason::NoCertificate => "no_certificate",
            Reason::UnknownCa => "unknown_ca",
            Reason::Expired => "expired",
            Reason::NotAllowed => "not_allowed",
            Reason::BadCertificate => "bad_certificate",
            Reason::Protocol => "protocol",
            Reason::Refused => "refused",
            Reason::Broken => "broken",
        }
    }
}

impl Fault {
    /// A fault in words of its own.
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Fault {
        Fault { reason, text: text.into() }
    }

    /// What an error of a stream with TLS means; `said` is what was found out about a certificate.
    pub(crate) fn of(error: &io::Error, said: Option<String>) -> Fault {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some(inner) = inner else {
            let text = match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    "it closed the connection before TLS was agreed on".to_owned()
                }
                _ => format!("the connection broke: {error}"),
            };
            return Fault::new(Reason::Broken, text);
        };
        Fault { reason: reason(inner), text: said.unwrap_or_else(|| words(inner)) }
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::AlertReceived(_) => Reason::Refused,
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Reason::Plain,
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Reason::UnknownCa,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Reason::Expired,
            CertificateError::ApplicationVerificationFailure => Reason::NotAllowed,
            _ => Reason::BadCertificate,
        },
        _ => Reason::Protocol,
    }
}

/// An error of TLS for people.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "it does not speak TLS".into(),
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "it does not speak TLS 1.3".into(),
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "it ended at {}, and this machine's clock says {}",
            seconds(not_after.as_secs()),
            seconds(time.as_secs())
        ),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => format!(
            "it begins at {}, and this machine's clock says {}",
            seconds(not_before.as_secs()),
            seconds(time.as_secs())
        ),
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            format!(
                "the certificate is for {}, not for {}",
                match presented.is_empty() {
                    true => "no name".to_owned(),
                    false => presented.join(", "),
                },
                expected.to_str()
            )
        }
        Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. }) => {
            "the certificate is for another use: a server's is no client's, and the other way around".into()
        }
        Error::AlertReceived(alert) => refusal(*alert),
        error => error.to_string(),
    }
}

/// The other side's word, as far as it goes.
fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "it wants a certificate, and was shown none".into(),
        AlertDescription::UnknownCA => "it does not trust the CA of the certificate that it was shown".into(),
        AlertDescription::DecryptError => {
            "it does not trust the certificate that it was shown: another CA with the same name has signed it"
                .into()
        }
        AlertDescription::AccessDenied => {
            "it does not take the holder of the certificate that it was shown on this port".into()
        }
        AlertDescription::CertificateExpired => {
            "the certificate that it was shown has expired, or the clocks of the two machines differ".into()
        }
        AlertDescription::UnsupportedCertificate => {
            "the certificate that it was shown is for another use, perhaps a server's".into()
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".into(),
        AlertDescription::NoApplicationProtocol => "it does not speak HTTP/2".into(),
        alert => format!("it refuses with the alert {alert:?}"),
    }
}

fn seconds(seconds: u64) -> String {
    date(i64::try_from(seconds).unwrap_or(i64::MAX))
}
