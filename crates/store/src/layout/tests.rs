//! Tests of what stands on disk.

use super::codec::FORMAT;
use super::{
    Change, ChangeKind, Head, Malformed, RecordHead, Superseded, change_key, decode_alarms,
    decode_change_key, decode_feature_level, decode_history_key, encode_alarms, encode_feature_level,
    history_after, history_key, history_prefix,
};
use crate::entry::LogId;
use crate::feature::FEATURE_LEVEL_MAX;

/// Goal: keys of `history` sort by user key, then newest first, and give the key back, zero
/// bytes and keys that begin with one another included. Method: all pairs of awkward keys.
#[test]
fn history_keys_keep_the_order() {
    let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"a", b"a\0", b"ab"];
    let encoded = |key: &[u8], revision| {
        let mut out = Vec::new();
        history_key(key, revision, &mut out);
        out
    };
    for (i, a) in keys.iter().enumerate() {
        assert!(encoded(a, 9) < encoded(a, 8));
        let (mut prefix, mut after, mut back) = (Vec::new(), Vec::new(), Vec::new());
        history_prefix(a, &mut prefix);
        history_after(a, &mut after);
        assert!(prefix < encoded(a, u64::MAX) && encoded(a, 0) < after);
        assert_eq!(decode_history_key(&encoded(a, 7), &mut back), Ok(7));
        assert_eq!(&back, a);
        for b in &keys[i + 1..] {
            history_prefix(b, &mut prefix);
            assert!(encoded(a, 0) < encoded(b, u64::MAX) && after < prefix, "{a:?} {b:?}");
        }
    }
}

/// Goal: every row survives encoding, and no cut of it is taken for one. Method: extreme values.
#[test]
fn rows_survive_encoding() {
    let head = RecordHead { create_revision: 1, mod_revision: u64::MAX, version: 128, deadline_ms: 0 };
    let mut row = Vec::new();
    head.encode(b"value", &mut row);
    assert_eq!(RecordHead::decode(&row), Ok((head, &b"value"[..])));
    (0..row.len() - 5).for_each(|cut| assert_eq!(RecordHead::decode(&row[..cut]), Err(Malformed)));

    for value in [Some(&b"v"[..]), Some(b""), None] {
        let superseded = Superseded { end_revision: 300, head, value };
        superseded.encode(&mut row);
        assert_eq!(Superseded::decode(&row), Ok(superseded));
    }
    row.push(0);
    assert_eq!(Superseded::decode(&row), Err(Malformed), "a shared value is not in the row");

    for kind in [ChangeKind::Put, ChangeKind::Delete] {
        let change = Change { kind, previous_revision: 7, previous_value_bytes: 1 << 40, key: b"k" };
        change.encode(&mut row);
        assert_eq!(Change::decode(&row), Ok(change));
    }
    assert_eq!(decode_change_key(&change_key(5, 6)), Ok((5, 6)));

    let head = Head {
        feature_level: FEATURE_LEVEL_MAX,
        applied: Some(LogId { term: 3, index: 4 }),
        compact_next: (5, 6),
        superseded_next: (7, 8),
        ..Head::EMPTY
    };
    assert_eq!(Head::decode(&head.encode()), Ok(head));
    assert_eq!(Head::decode(&Head::EMPTY.encode()), Ok(Head::EMPTY));
    assert_eq!(Head::EMPTY.encode()[0], FORMAT, "the first release reads a head of level 1");
    let mut newer = head.encode();
    newer[0] += 1;
    assert_eq!(Head::decode(&newer), Err(Malformed));
    assert_eq!(decode_feature_level(&encode_feature_level(7, "0.9")), Ok((7, "0.9")));
    assert_eq!(decode_alarms(&encode_alarms([1, u64::MAX].iter())), Ok(vec![1, u64::MAX]));
}
