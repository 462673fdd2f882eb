//! What must happen sometimes: a simulation in which no log's end is ever torn tests nothing of how such an end is
//! dropped.
//!
//! The nodes say in their logs when such a thing happens, and here that is counted.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What an hour of simulation must reach, and what a node says then: a part of a line, with its fields.
pub const MARKS: [(&str, &str); 20] = [
    ("torn end of the log dropped", "dropped the log's last write"),
    ("snapshot installed", "snapshot installed"),
    ("leadership handed over", "leadership handed over"),
    ("leadership not handed over", "leadership not handed over"),
    ("stalled, and does not lead", "this member is not ready, and does not lead"),
    ("leader stepped down by the watchdog", "handing leadership over to="),
    ("progress again after a stall", "there is progress again"),
    ("ended after a stall of a minute", "the process ends, and the other members go on"),
    ("space alarm raised", "space alarm changed raised=true"),
    ("space alarm cleared", "space alarm changed raised=false"),
    ("apply waits for room", "the disk is full: writes to the store wait"),
    ("apply goes on with room", "the disk has room again"),
    ("log waits for room", "no room for the next log segment"),
    ("ballast removed", "removed the ballast"),
    ("election without a winner", "nobody won the election"),
    ("feature level raised", "every member knows the next feature level"),
    ("raft ended by itself", "raft has ended by itself"),
    ("log write or sync failed", "cannot write log segment"),
    ("watch behind the ring", "a watch reads from disk"),
    ("member silent, and heard again", "a member answers again"),
];

/// Levels down to this are heard, and one deeper where watches are served.
const LEVEL: Level = Level::INFO;
const DEEPER: (&str, Level) = ("kvorum_node::api::kv::watch", Level::DEBUG);

/// How often each was reached.
#[derive(Clone, Debug, Default)]
pub struct Marks(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Marks {
    /// How often each was reached that was.
    pub fn reached(&self) -> BTreeMap<String, u64> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// What listens to the nodes' logs.
    pub fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        Listener(self.clone()).with_filter(filter_fn(is_heard))
    }
}

fn is_heard(of: &Metadata<'_>) -> bool {
    let level = if of.target() == DEEPER.0 { DEEPER.1 } else { LEVEL };
    of.is_event() && *of.level() <= level && of.target().starts_with("kvorum")
}

struct Listener(Marks);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let Line { message, fields } = line;
        let said = message + &fields;
        let reached = MARKS.iter().filter(|(_, part)| said.contains(part));
        let mut counted = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        reached.for_each(|(name, _)| *counted.entry(name).or_default() += 1);
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Goal: what nodes say is counted, with its fields, and nothing else is. Method: some lines.
    #[test]
    fn what_is_said_is_counted() {
        let marks = Marks::default();
        let listening = tracing_subscriber::registry().with(marks.layer());
        tracing::subscriber::with_default(listening, || {
            tracing::warn!(target: "kvorum_node::duties", raised = true, "space alarm changed");
            tracing::info!(target: "kvorum_node::raft", bytes = 7, "snapshot installed");
            tracing::info!(target: "kvorum_node::raft", bytes = 8, "snapshot installed");
            tracing::info!(target: "openraft", "snapshot installed");
        });
        let reached: Vec<_> = marks.reached().into_iter().collect();
        assert_eq!(reached, [("snapshot installed".to_owned(), 2), ("space alarm raised".to_owned(), 1)]);
    }
}
