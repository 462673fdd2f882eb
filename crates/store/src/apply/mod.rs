//! Applying the log: what each command does to the state, its limits and its outcome, a file a command.
//!
//! [`run`] takes entries apart and hands each command to the file that is named after it; [`applier`] is
//! what they all work on: the keys that the run has touched ([`overlay`]) and the rows that it writes
//! ([`rows`]). `Tick` changes nothing but cluster time, which every batch moves, and has no file.

mod alarms;
mod applier;
mod applying;
mod auth;
mod compact;
mod deadline;
mod event;
mod expire_due;
mod feature_level;
mod growth;
mod new_history;
mod overlay;
mod rows;
mod run;
mod set_quota;
mod set_ttl;
mod write;

pub use self::applying::{Applying, Attempt, Run};
pub(crate) use self::event::delete_event;
pub use self::event::{Event, EventKind, RevisionEvents};
pub(crate) use self::growth::refuse_growth;
pub(crate) use self::run::attempt;
