//! What the operator itself shows to members, and whom it believes. It lives in memory alone.

use std::time::Duration;

use kvorum_client::Tls;
use kvorum_tls::make::{self, Subject};

use super::content::Content;

/// The life of its certificate.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// After so long it is made anew, in seconds.
const RENEWED_AFTER: i64 = 12 * 3600;

/// See the module.
#[derive(Clone, Debug)]
pub struct Own {
    /// With it members are dialled.
    pub tls: Tls,
    /// The CAs that are believed, the one that signed first.
    bundle: String,
    /// When it was made, in seconds since 1970.
    made: i64,
}

impl Own {
    /// When it was made, in seconds since 1970, and with which CAs.
    pub fn made(&self) -> (i64, &str) {
        (self.made, &self.bundle)
    }
}

/// What is shown and believed from now on: what was before, as long as it does. All CAs are believed that any step
/// still has, or the operator would lock itself out of the members that it must repair.
pub fn own(before: Option<Own>, content: &Content, now: i64) -> Option<Own> {
    let Some(authority) = &content.authority else { return before };
    let of_members = content.members.as_ref().map_or("", |members| members.bundle.as_str());
    let signer = authority.signer()?;
    let bundle = format!("{}{}{of_members}", signer.certificate, authority.bundle());
    if let Some(before) = &before
        && before.bundle == bundle
        && now - before.made < RENEWED_AFTER
    {
        return Some(before.clone());
    }
    let made = make::leaf(signer, &Subject::Operator, LIFE).ok()?;
    let pair = (made.certificate.as_bytes(), made.key.as_bytes());
    let tls = Tls::pem(bundle.as_bytes(), Some(pair)).ok()?;
    Some(Own { tls, bundle, made: now })
}
