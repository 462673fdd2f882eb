//! How a call is made.

use std::time::Duration;

use tokio::time::Instant;

/// How a call is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOptions {
    /// The time that the whole call has, for messages.
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    pub(crate) route: Route,
    pub(crate) repeat: Repeat,
    /// Any node may be behind the revision that is asked for, which surely exists.
    pub(crate) revision_exists: bool,
}

/// Where a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// At the leader.
    Leader,
    /// At this client's own endpoint, since any node answers by itself.
    Home,
}

/// When a failed attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Always: it changes nothing, or nothing more.
    Always,
    /// If surely nothing was proposed.
    IfNotApplied,
}

impl CallOptions {
    pub(crate) fn read(timeout: Duration, route: Route) -> CallOptions {
        let deadline = Instant::now() + timeout;
        CallOptions { timeout, deadline, route, repeat: Repeat::Always, revision_exists: false }
    }

    pub(crate) fn write(timeout: Duration) -> CallOptions {
        CallOptions { repeat: Repeat::IfNotApplied, ..CallOptions::read(timeout, Route::Leader) }
    }
}
