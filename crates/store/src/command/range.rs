//! Ranges of keys.

use bytes::Bytes;

/// A half-open range of keys.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct KeyRange {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// The first key after the range; empty: see `unbounded`.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Without an `end`: the range goes on to the last key, rather than being the one key `start`.
    #[prost(bool, tag = "3")]
    pub unbounded: bool,
}

impl KeyRange {
    /// The one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: Bytes::new(), unbounded: false }
    }

    /// All keys that begin with `prefix`; with an empty one, all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        KeyRange { unbounded: end.is_empty(), start, end: end.into() }
    }

    /// Whether the range is one key.
    pub fn is_key(&self) -> bool {
        self.end.is_empty() && !self.unbounded
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_key() {
            return key == self.start;
        }
        key >= &self.start[..] && (self.unbounded || key < &self.end[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_just_the_prefix() {
        let range = KeyRange::prefix(&b"a\xff"[..]);
        assert_eq!((&range.start[..], &range.end[..], range.unbounded), (&b"a\xff"[..], &b"b"[..], false));
        assert!(range.contains(b"a\xff") && range.contains(b"a\xff\xff") && !range.contains(b"b"));
        assert!(KeyRange::prefix(&b"\xff\xff"[..]).unbounded);
        assert!(KeyRange::prefix(Bytes::new()).contains(b""));
        assert!(KeyRange::key(&b"k"[..]).contains(b"k") && !KeyRange::key(&b"k"[..]).contains(b"k2"));
    }
}
