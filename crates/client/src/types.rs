//! What calls take and answer. The wire types stop here.

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;

/// Who answered, and at which revision of the store.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let header = client.set("greeting", "hello").await?.header;
/// println!("node {:016x} wrote revision {} in term {}", header.node_id, header.revision, header.term);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The node that answered.
    pub node_id: u64,
    /// Its term.
    pub term: u64,
    /// The store's revision at the answer; for a write, the revision it made.
    pub revision: u64,
    /// The cluster's incarnation; 0 where the node does not say.
    pub incarnation: u64,
}

/// A key with its value and history. The revisions mean what etcd's do.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// client.set("greeting", "hello").await?;
/// client.set("greeting", "hi").await?;
/// let kv = client.get("greeting").await?.kv.expect("it was just written");
/// assert_eq!((&kv.value[..], kv.version), (&b"hi"[..], 2));
/// assert!(kv.create_revision < kv.mod_revision && kv.deadline_ms.is_none());
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a scan of keys only.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of its last change.
    pub mod_revision: u64,
    /// How often it was written since it was created.
    pub version: u64,
    /// When it expires, in milliseconds of cluster time, which is no wall clock.
    pub deadline_ms: Option<u64>,
}

/// One change of one key.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::TryStreamExt as _;
/// use kvorum_client::{Event, EventKind, KeyRange};
///
/// client.set("k", "v").await?;
/// client.delete("k").await?;
/// let changes = client.watch(KeyRange::key("k")).from_revision(1).start().await?;
/// let mut events = changes.map_ok(|change| change.events).try_filter(|events| {
///     std::future::ready(!events.is_empty())
/// });
/// let written: Option<Vec<Event>> = events.try_next().await?;
/// assert_eq!(written.map(|events| events[0].kind), Some(EventKind::Put));
/// let deleted: Option<Vec<Event>> = events.try_next().await?;
/// assert_eq!(deleted.map(|events| events[0].kind), Some(EventKind::Delete));
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change; of a deleted one only the key and the revision.
    pub kv: KeyValue,
    /// The key before the change, if that was asked for and is not compacted.
    pub previous: Option<KeyValue>,
}

/// What happened to a key.
///
/// ```
/// use kvorum_client::{Event, EventKind};
///
/// fn line(event: &Event) -> String {
///     let sign = match event.kind {
///         EventKind::Put => '+',
///         EventKind::Delete => '-',
///     };
///     format!("{sign} {}", String::from_utf8_lossy(&event.kv.key))
/// }
/// # let _: fn(&Event) -> String = line;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written, or its TTL was changed.
    Put,
    /// It was deleted, or it expired.
    Delete,
}

/// One key, or a half-open range of keys.
///
/// ```
/// use kvorum_client::KeyRange;
///
/// assert!(KeyRange::prefix("user/").contains(b"user/7"));
/// assert!(!KeyRange::between("a", "c").contains(b"c"), "the end is not part of it");
/// assert_eq!(KeyRange::prefix(""), KeyRange::all());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum End {
    /// The range is the key `start`.
    Same,
    Before(Bytes),
    Unbounded,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: key.into(), end: End::Same }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange { start: Bytes::new(), end: End::Unbounded }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start: Bytes = prefix.into();
        let end = match start.iter().rposition(|&byte| byte != u8::MAX) {
            Some(last) => {
                let mut end = start[..=last].to_vec();
                end[last] += 1;
                End::Before(end.into())
            }
            None => End::Unbounded,
        };
        KeyRange { start, end }
    }

    /// Every key from `start` on.
    pub fn starting_at(start: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: End::Unbounded }
    }

    /// Every key from `start` on that is smaller than `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: End::Before(end.into()) }
    }

    /// The first key of the range.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// Whether the range is one key.
    pub fn is_key(&self) -> bool {
        self.end == End::Same
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Same => key == self.start,
            End::Before(end) => key >= &self.start[..] && key < &end[..],
            End::Unbounded => key >= &self.start[..],
        }
    }

    /// What is left of the range behind `key`; `None` when that is nothing.
    pub fn after(&self, key: &[u8]) -> Option<KeyRange> {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        match &self.end {
            End::Same => None,
            End::Before(end) if start[..] >= end[..] => None,
            end => Some(KeyRange { start: start.into(), end: end.clone() }),
        }
    }

    /// What is left of the range in front of `key`; `None` when that is nothing.
    pub fn before(&self, key: &Bytes) -> Option<KeyRange> {
        if self.is_key() || *key <= self.start {
            return None;
        }
        Some(KeyRange { start: self.start.clone(), end: End::Before(key.clone()) })
    }

    /// The first key behind the range; `None` where it is one key, or goes on to the last one.
    pub fn end(&self) -> Option<&Bytes> {
        match &self.end {
            End::Before(end) => Some(end),
            End::Same | End::Unbounded => None,
        }
    }

    pub(crate) fn into_wire(self) -> wire::KeyRange {
        let (end, unbounded) = match self.end {
            End::Same => (Bytes::new(), false),
            End::Before(end) => (end, false),
            End::Unbounded => (Bytes::new(), true),
        };
        wire::KeyRange { start: self.start, end, unbounded }
    }
}

impl From<wire::KeyRange> for KeyRange {
    fn from(range: wire::KeyRange) -> KeyRange {
        let wire::KeyRange { start, end, unbounded } = range;
        let end = match (unbounded, end.is_empty()) {
            (true, _) => End::Unbounded,
            (false, true) => End::Same,
            (false, false) => End::Before(end),
        };
        KeyRange { start, end }
    }
}

impl From<wire::Header> for Header {
    fn from(header: wire::Header) -> Header {
        let wire::Header { cluster_id, node_id, term, revision, incarnation } = header;
        Header { cluster_id, node_id, term, revision, incarnation }
    }
}

impl From<wire::KeyValue> for KeyValue {
    fn from(kv: wire::KeyValue) -> KeyValue {
        KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            deadline_ms: (kv.deadline_ms != 0).then_some(kv.deadline_ms),
        }
    }
}

impl From<wire::Event> for Event {
    fn from(event: wire::Event) -> Event {
        let kind = match event.kind() {
            wire::event::Kind::Put => EventKind::Put,
            wire::event::Kind::Delete => EventKind::Delete,
        };
        Event { kind, kv: event.kv.unwrap_or_default().into(), previous: event.previous.map(KeyValue::from) }
    }
}

/// An answer's header; one that lacks it reads as one of an unknown cluster at revision 0.
pub(crate) fn header(header: Option<wire::Header>) -> Header {
    header.map(Header::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    //! Goal: ranges cover what their names say, and resuming a scan neither skips nor repeats a key.
    //! Method: edges by hand.
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(KeyRange::prefix("ab"), KeyRange::between("ab", "ac"));
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]), KeyRange::between(&b"a\xff"[..], "b"));
        assert_eq!(KeyRange::prefix(&b"\xff\xff"[..]), KeyRange::starting_at(&b"\xff\xff"[..]));
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    #[test]
    fn the_rest_of_a_range_excludes_the_key() {
        assert_eq!(KeyRange::between("a", "c").after(b"b"), Some(KeyRange::between(&b"b\0"[..], "c")));
        assert_eq!(KeyRange::between("a", &b"b\0"[..]).after(b"b"), None);
        assert_eq!(KeyRange::all().after(b"b"), Some(KeyRange::starting_at(&b"b\0"[..])));
        assert_eq!(KeyRange::key("a").after(b"a"), None);
        assert_eq!(KeyRange::all().before(&"b".into()), Some(KeyRange::between("", "b")));
        assert_eq!(KeyRange::starting_at("b").before(&"b".into()), None);
        assert_eq!(KeyRange::key("a").before(&"a".into()), None);
    }

    #[test]
    fn a_range_contains_its_start_and_not_its_end() {
        let range = KeyRange::between("b", "d");
        assert!(range.contains(b"b") && range.contains(b"c") && !range.contains(b"d"));
        assert!(KeyRange::key("b").contains(b"b") && !KeyRange::key("b").contains(b"bb"));
    }
}
