//! Sets of keys as sorted ranges that do not touch each other.

use bytes::Bytes;
use kvorum_store::command::KeyRange;

/// A set of keys: ascending ranges, with a gap between each and the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(Bytes, End)>);

/// Where a range ends. The order is that of what lies before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    /// Behind the last key.
    Never,
}

impl End {
    fn of(range: &KeyRange) -> End {
        if range.unbounded {
            return End::Never;
        }
        if !range.is_key() {
            return End::Before(range.end.clone());
        }
        // The first key behind the one.
        let mut next = Vec::with_capacity(range.start.len() + 1);
        next.extend_from_slice(&range.start);
        next.push(0);
        End::Before(next.into())
    }

    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => &end[..] > key,
            End::Never => true,
        }
    }
}

impl Ranges {
    /// All keys that are in any of these ranges.
    pub fn of<'a>(ranges: impl IntoIterator<Item = &'a KeyRange>) -> Ranges {
        let pair = |range: &KeyRange| (range.start.clone(), End::of(range));
        let mut sorted: Vec<_> =
            ranges.into_iter().map(pair).filter(|(start, end)| end.is_behind(start)).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(Bytes, End)> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match merged.last_mut() {
                // They overlap, or one begins where the other ends.
                Some((_, last)) if *last >= End::Before(start.clone()) => {
                    if end > *last {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Ranges(merged)
    }

    /// Whether all keys of a range are in the set.
    pub fn cover(&self, range: &KeyRange) -> bool {
        let at = self.0.partition_point(|(start, _)| *start <= range.start);
        let Some((_, end)) = at.checked_sub(1).map(|at| &self.0[at]) else { return false };
        if range.is_key() { end.is_behind(&range.start) } else { *end >= End::of(range) }
    }

    /// Whether a key is in the set.
    pub fn cover_key(&self, key: &[u8]) -> bool {
        let at = self.0.partition_point(|(start, _)| start[..] <= *key);
        at.checked_sub(1).is_some_and(|at| self.0[at].1.is_behind(key))
    }

    /// How many ranges it takes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Every key of up to three bytes of a small alphabet that has the lowest and the highest byte in it.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![vec![]];
        for length in 0..3 {
            let longer: Vec<Vec<u8>> = keys
                .iter()
                .filter(|key| key.len() == length)
                .flat_map(|key| [0, 1, u8::MAX].map(|byte| [&key[..], &[byte]].concat()))
                .collect();
            keys.extend(longer);
        }
        keys
    }

    fn any_key() -> impl Strategy<Value = Bytes> {
        proptest::sample::select(keys()).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            any_key().prop_map(KeyRange::key),
            (any_key(), any_key()).prop_map(|(start, end)| KeyRange { start, end, unbounded: false }),
            any_key().prop_map(|start| KeyRange { start, end: Bytes::new(), unbounded: true }),
            any_key().prop_map(KeyRange::prefix),
        ]
    }

    proptest! {
        /// Goal: a set covers just what its ranges hold. Method: the same question put to each range for each of
        /// all short keys, one longer than any bound among them, so that every gap between two bounds has a key.
        #[test]
        fn a_set_covers_what_its_ranges_hold(granted in vec(any_range(), 0..8), asked in any_range()) {
            let set = Ranges::of(&granted);
            // A prefix ends at a key that may be none of the short ones.
            let bounds = granted.iter().chain([&asked]).flat_map(|range| [range.start.to_vec(), range.end.to_vec()]);
            let probes: Vec<Vec<u8>> = keys().into_iter().chain(bounds).flat_map(|key| {
                let longer = [&key[..], &[0, 0, 0, 0]].concat();
                [key, longer]
            }).collect();
            for key in &probes {
                let held = granted.iter().any(|range| range.contains(key));
                prop_assert_eq!(set.cover_key(key), held, "{:?} in {:?}", key, granted);
            }
            let mut inside = probes.iter().filter(|key| asked.contains(key)).peekable();
            if inside.peek().is_some() {
                let all = inside.all(|key| granted.iter().any(|range| range.contains(key)));
                // Without an end, a range holds keys behind every probe.
                let to_the_end = !asked.unbounded || granted.iter().any(|range| range.unbounded);
                prop_assert_eq!(set.cover(&asked), all && to_the_end, "{:?} of {:?}", asked, granted);
            }
            for pair in set.0.windows(2) {
                prop_assert!(!pair[0].1.is_behind(&pair[1].0) && pair[0].1 != End::Before(pair[1].0.clone()));
            }
        }
    }

    /// A range without an end is all keys from its start on, not one key; one key is not what begins with it.
    #[test]
    fn a_range_without_an_end_is_no_key() {
        let one = Ranges::of(&[KeyRange::key("a")]);
        let unbounded = KeyRange { start: "a".into(), end: Bytes::new(), unbounded: true };
        assert!(one.cover(&KeyRange::key("a")) && !one.cover(&unbounded));
        assert!(!one.cover(&KeyRange::prefix("a")) && !one.cover_key(b"a\0"));
        assert!(Ranges::of([&unbounded]).cover(&unbounded));
        // Two roles together cover what neither does.
        let halves = [
            KeyRange { start: "a".into(), end: "m".into(), unbounded: false },
            KeyRange { start: "m".into(), end: "z".into(), unbounded: false },
        ];
        assert!(Ranges::of(&halves).cover(&KeyRange {
            start: "c".into(),
            end: "x".into(),
            unbounded: false
        }));
    }
}
