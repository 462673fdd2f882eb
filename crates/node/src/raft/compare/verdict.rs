//! Who is wrong, where members differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a member holds of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    /// Over the records.
    pub hash: u64,
    /// How many there are.
    pub keys: u64,
    /// There are many more than the leader has.
    pub more: bool,
}

/// What comes of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that have answered hold the same.
    #[default]
    Equal,
    /// A majority of the voters holds the same, and these do not.
    Odd(Vec<u64>),
    /// Members differ, and no majority of the voters holds the same.
    Unclear,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Equal => f.write_str("all are equal"),
            Verdict::Odd(ids) => {
                f.write_str("not like the majority:")?;
                ids.iter().try_for_each(|id| write!(f, " {id:016x}"))
            }
            Verdict::Unclear => f.write_str("no majority is equal"),
        }
    }
}

/// The verdict over those that have answered.
pub(super) fn of(held: &BTreeMap<u64, Held>, voters: &BTreeSet<u64>) -> Verdict {
    let mut groups: BTreeMap<Held, Vec<u64>> = BTreeMap::new();
    for (id, held) in held {
        groups.entry(*held).or_default().push(*id);
    }
    if groups.len() <= 1 {
        return Verdict::Equal;
    }
    let majority = groups.iter().find(|(_, ids)| {
        let votes = ids.iter().filter(|id| voters.contains(id)).count();
        2 * votes > voters.len()
    });
    match majority {
        Some((right, _)) => {
            Verdict::Odd(held.iter().filter(|(_, h)| *h != right).map(|(id, _)| *id).collect())
        }
        None => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only who differs from a majority of the voters is accused. Method: a table of what members hold.
    #[test]
    fn only_a_majority_accuses() {
        let verdict = |held: &[(u64, u64)], voters: &[u64]| {
            let held = held.iter().map(|(id, hash)| (*id, Held { hash: *hash, keys: 1, more: false }));
            of(&held.collect(), &voters.iter().copied().collect())
        };
        let three = [1, 2, 3];
        assert_eq!(verdict(&[(1, 7), (2, 7), (3, 7)], &three), Verdict::Equal);
        assert_eq!(verdict(&[(1, 7)], &three), Verdict::Equal, "nobody else answers");
        assert_eq!(verdict(&[(1, 7), (2, 7), (3, 8)], &three), Verdict::Odd(vec![3]));
        assert_eq!(verdict(&[(1, 8), (2, 7), (3, 7)], &three), Verdict::Odd(vec![1]), "the leader too");
        assert_eq!(verdict(&[(1, 7), (2, 8)], &three), Verdict::Unclear, "one is silent");
        assert_eq!(verdict(&[(1, 7), (2, 8), (3, 9)], &three), Verdict::Unclear);
        assert_eq!(verdict(&[(1, 7), (2, 8)], &[1, 2]), Verdict::Unclear, "two cannot outvote each other");
        assert_eq!(verdict(&[(1, 7), (2, 7), (9, 8)], &three), Verdict::Odd(vec![9]), "a learner");
        assert_eq!(
            verdict(&[(1, 7), (8, 8), (9, 8)], &[1]),
            Verdict::Odd(vec![8, 9]),
            "learners have no vote"
        );
        let more = Held { hash: 7, keys: 1, more: true };
        let held = [(1, Held { more: false, ..more }), (2, Held { more: false, ..more }), (3, more)];
        assert_eq!(of(&held.into(), &three.into()), Verdict::Odd(vec![3]), "who has more keys");
    }
}
