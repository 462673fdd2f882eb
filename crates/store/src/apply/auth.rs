//! `AuthChange`: users, roles and rights change, and with them the revision that every command's check is compared
//! with. What a change does and when it is refused is told in [`crate::auth`].

use std::sync::Arc;

use super::applier::Applier;
use super::growth::no_room;
use crate::auth::{self, Auth};
use crate::command::{Answer, AuthChange, AuthMode, Done, Kind, Reason, Refused};
use crate::layout::{self, AUTH, AuthRow};

impl Applier<'_> {
    /// Refuses what somebody asks for and was not checked as of the rights that count now. It was checked against
    /// others, or not at all, or was let pass. Where nobody is refused, that is so of changes of rights alone: one whose
    /// outcome nobody knows must not come after later ones.
    pub(super) fn refuse_moved(&self, kind: &Kind, checked_as_of: u64) -> Option<Refused> {
        let auth = &self.published.auth;
        let fenced = match auth.mode() {
            AuthMode::Disabled => false,
            AuthMode::Observe => matches!(kind, Kind::Auth(_)),
            AuthMode::Required => kind.is_asked_for(),
        };
        let moved = fenced && checked_as_of != auth.revision();
        moved.then(|| Refused { actual: auth.revision(), ..Refused::because(Reason::AuthMoved) })
    }

    pub(super) fn change_auth(&mut self, change: AuthChange) -> Answer {
        if auth::grows(&change)
            && let Some(refused) = no_room(&self.rows.head, &self.published.space_alarms)
        {
            return Answer::Refused(refused);
        }
        let mut auth = Auth::clone(&self.published.auth);
        let touched = match auth.change(change, &self.state.limits) {
            Ok(Some(touched)) => touched,
            Ok(None) => return Answer::Done(Done {}),
            Err(refused) => return Answer::Refused(refused),
        };
        for name in &touched.users {
            let row = auth.user(name).map(layout::encode_auth);
            self.rows.set_meta(&AuthRow::User(name).key(), row.as_deref());
        }
        for name in &touched.roles {
            let row = auth.role(name).map(layout::encode_auth);
            self.rows.set_meta(&AuthRow::Role(name).key(), row.as_deref());
        }
        self.rows.put_meta(AUTH, &layout::encode_auth(auth.head()));
        let logical_bytes = &mut self.rows.head.logical_bytes;
        *logical_bytes = *logical_bytes + auth.bytes() - self.published.auth.bytes();
        self.published.auth = Arc::new(auth);
        Answer::Done(Done {})
    }
}
