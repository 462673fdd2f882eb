//! A condition before it has a time.

/// See the module.
pub struct Verdict {
    /// Its type.
    pub kind: &'static str,
    /// True, False or Unknown.
    pub status: &'static str,
    /// A word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// A verdict of which it is known whether it holds.
pub fn verdict(
    kind: &'static str,
    holds: bool,
    reason: impl Into<String>,
    message: impl Into<String>,
) -> Verdict {
    let status = if holds { "True" } else { "False" };
    Verdict { kind, status, reason: reason.into(), message: message.into() }
}
