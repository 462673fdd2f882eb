//! TLS: the only place that knows rustls, rcgen and X.509. Node, client and operator speak it by this crate.
//!
//! - [`MemberTls`] is what a member is known by and whom it believes, read from files that may be replaced at any
//!   time; [`TlsPort`] takes connections by it, and [`MemberTls::dial`] makes them.
//! - [`ClientTls`] is the same for a client.
//! - [`make`] makes CAs and certificates.
//!
//! Architecture invariants: TLS 1.3 and nothing before it; no session is resumed and no data comes before the end
//! of a handshake; every configuration names its provider; each handshake takes the configuration of its moment, so
//! that certificate, key and CAs fit together; what does not fit is not taken; no key is printed.
#![forbid(unsafe_code)]

mod accept;
mod beside;
mod certificate;
mod config;
mod core_file;
mod dial;
mod explain;
pub mod make;
mod material;
mod member;
mod pem;
mod provider;
mod slots;
mod stream;
mod trust;

pub use accept::{Accepted, Mode, Peer, TlsPort, TlsStream, is_http1};
pub use beside::Told;
pub use certificate::{
    Facts, Identity, Unreadable, bundle_fingerprint, date, fingerprint, hex, pem_fingerprint,
    pem_leaf_fingerprint,
};
pub use core_file::keep_out_of_core_files;
pub use dial::{COMPARE_INTERVAL, ClientTls, DIAL_TIMEOUT, Dialed, DialedStream};
pub use explain::{Fault, Reason};
pub use material::{MaterialError, Paths, check_member, check_pair};
pub use member::{Loaded, MemberTls, Reload};
pub use pem::FileError;
pub use stream::{Begun, Bytes};
pub use trust::{Port, ROOT};
