//! Who reads changes, from where on, and whom a change concerns.

use std::collections::HashMap;

use crate::command::KeyRange;
use crate::db::Bounds;

/// A place in the order of all changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The revision.
    pub revision: u64,
    /// How many changes of that revision are before the place.
    pub number: u32,
}

impl Place {
    /// The place before a revision's first change.
    pub fn before(revision: u64) -> Place {
        Place { revision, number: 0 }
    }
}

/// Somebody who reads changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The first change that he has not read yet.
    pub from: Place,
    /// What concerns him.
    pub range: KeyRange,
}

/// Whom a key concerns.
pub(super) struct Interests<'r> {
    keys: HashMap<&'r [u8], Vec<usize>>,
    /// Ranges in the order of their lower bounds.
    ranges: Vec<Interest>,
    /// Keys that no range holds: from the first one on, up to the lower bound of the range with this number.
    /// A large revision often is a deleted range, whose keys come in order.
    nobodys: Option<(Vec<u8>, usize)>,
}

struct Interest {
    bounds: Bounds,
    /// The greatest upper bound up to here; None: there is no end.
    reach: Option<Vec<u8>>,
    reader: usize,
}

impl<'r> Interests<'r> {
    pub(super) fn new(readers: &'r [Reader]) -> Interests<'r> {
        let mut keys: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut ranges = Vec::new();
        for (reader, Reader { range, .. }) in readers.iter().enumerate() {
            if range.is_key() {
                keys.entry(&range.start[..]).or_default().push(reader);
            } else {
                let bounds = Bounds::of(range);
                ranges.push(Interest { reach: bounds.upper.clone(), bounds, reader });
            }
        }
        ranges.sort_by(|a, b| a.bounds.lower.cmp(&b.bounds.lower));
        for at in 1..ranges.len() {
            let before = ranges[at - 1].reach.clone();
            let range = &mut ranges[at];
            range.reach = before.zip(range.reach.take()).map(|(before, own)| before.max(own));
        }
        Interests { keys, ranges, nobodys: None }
    }

    /// Adds the numbers of those whom a key concerns.
    pub(super) fn concerned(&mut self, key: &[u8]) -> Vec<usize> {
        let mut concerned = Vec::new();
        if !self.keys.is_empty() {
            concerned.extend(self.keys.get(key).into_iter().flatten());
        }
        if self.is_nobodys(key) {
            return concerned;
        }
        let begun = self.ranges.partition_point(|range| range.bounds.lower[..] <= *key);
        for (at, range) in self.ranges[..begun].iter().enumerate().rev() {
            // None of those that begin before this one goes so far.
            if range.reach.as_ref().is_some_and(|reach| reach[..] <= *key) {
                if at + 1 == begun {
                    self.nobodys = Some((key.to_vec(), begun));
                }
                break;
            }
            if range.bounds.contains(key) {
                concerned.push(range.reader);
            }
        }
        concerned
    }

    fn is_nobodys(&self, key: &[u8]) -> bool {
        let Some((first, next)) = &self.nobodys else { return false };
        *key >= first[..] && self.ranges.get(*next).is_none_or(|range| *key < range.bounds.lower[..])
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a change reaches exactly those whom it concerns, however their ranges lie to each other.
    //! Method: all ranges over a few letters, against the range's own word.
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_key_concerns_those_whose_range_holds_it() {
        let letters = ["", "a", "ab", "b", "c"];
        let mut readers: Vec<Reader> = Vec::new();
        let mut add = |range| readers.push(Reader { from: Place::default(), range });
        for start in letters {
            add(KeyRange::prefix(start));
            add(KeyRange { start: start.into(), end: Bytes::new(), unbounded: true });
            if !start.is_empty() {
                add(KeyRange::key(start));
            }
            for end in letters.into_iter().filter(|end| !end.is_empty()) {
                add(KeyRange { start: start.into(), end: end.into(), unbounded: false });
            }
        }
        expect_all_told(&readers);
        // Alone, in pairs, and without those that have no end, so that there are keys between them.
        readers.retain(|reader| !reader.range.unbounded && !reader.range.start.is_empty());
        for (at, reader) in readers.iter().enumerate() {
            expect_all_told(std::slice::from_ref(reader));
            for other in &readers[at..] {
                expect_all_told(&[reader.clone(), other.clone()]);
            }
        }
    }

    fn expect_all_told(readers: &[Reader]) {
        let mut interests = Interests::new(readers);
        for key in ["d", "a", "aa", "ab", "aba", "abc", "ac", "b", "ba", "bb", "c", "ca", "d", "a", "ba"] {
            let mut concerned = interests.concerned(key.as_bytes());
            concerned.sort_unstable();
            let holds = |(_, reader): &(usize, &Reader)| reader.range.contains(key.as_bytes());
            let expected: Vec<usize> = readers.iter().enumerate().filter(holds).map(|(at, _)| at).collect();
            assert_eq!(concerned, expected, "{key} of {readers:?}");
        }
    }
}
