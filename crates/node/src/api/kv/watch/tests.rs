use super::*;

fn revision(revision: u64, keys: &[&'static str], value_bytes: usize) -> Arc<RevisionEvents> {
    let event = |key: &&'static str| {
        let value = vec![b'v'; value_bytes].into();
        let record = Record { key: (*key).into(), value, mod_revision: revision, ..Default::default() };
        Event { kind: EventKind::Put, previous: Some(record.clone()), record }
    };
    Arc::new(RevisionEvents { revision, events: keys.iter().map(event).collect() })
}

/// Everything that is pending, as (keys, revision, fragment).
fn drain(pending: &mut Pending, range: &KeyRange) -> Vec<(Vec<String>, u64, bool)> {
    let responses = std::iter::from_fn(|| pending.response(range));
    let key = |event: &pb::Event| {
        String::from_utf8(event.kv.as_ref().expect("every event has one").key.to_vec()).unwrap()
    };
    responses.map(|(events, at, fragment)| (events.iter().map(key).collect(), at, fragment)).collect()
}

/// Goal: small revisions share a response, events outside the range are left out, and the mark
/// goes as far as was looked. Method: three revisions, one of them partly, one wholly outside.
#[test]
fn whole_revisions_share_a_response() {
    let mut pending = Pending::new(false);
    pending.extend(vec![revision(3, &["a1", "b"], 1), revision(4, &["a2"], 1)]);
    pending.complete = 9;
    let all = drain(&mut pending, &KeyRange::prefix("a"));
    assert_eq!(all, [(vec!["a1".into(), "a2".into()], 9, false)]);
    pending.extend(vec![revision(10, &["b"], 1)]);
    assert!(drain(&mut pending, &KeyRange::prefix("a")).is_empty(), "nothing to say is no response");
}

/// Goal: a response stays within its size; a revision is split only when it alone is too large,
/// and every fragment but its last says so.
#[test]
fn only_a_large_revision_is_split() {
    let third = RESPONSE_BYTES_MAX / 3;
    let mut pending = Pending::new(false);
    pending.extend(vec![
        revision(1, &["a"], third),
        revision(2, &["b", "c", "d", "e"], third),
        revision(3, &["f"], third * 4),
        revision(4, &["g"], 1),
    ]);
    pending.complete = 4;
    let all = drain(&mut pending, &KeyRange::prefix(""));
    let keys = |keys: &[&str]| keys.iter().map(|key| key.to_string()).collect::<Vec<_>>();
    assert_eq!(
        all,
        [
            (keys(&["a"]), 1, false),
            (keys(&["b", "c"]), 2, true),
            (keys(&["d", "e"]), 2, false),
            (keys(&["f"]), 3, false),
            (keys(&["g"]), 4, false),
        ]
    );
}

/// Goal: what was there before is sent to those who asked for it, and counts as size.
#[test]
fn previous_records_are_sent_on_request() {
    for (wanted, responses) in [(false, 1), (true, 2)] {
        let mut pending = Pending::new(wanted);
        let third = RESPONSE_BYTES_MAX / 3;
        pending.extend(vec![revision(1, &["a"], third), revision(2, &["b"], third)]);
        let range = KeyRange::prefix("");
        let (events, ..) = pending.response(&range).unwrap();
        assert_eq!(events[0].previous.is_some(), wanted);
        assert_eq!(1 + drain(&mut pending, &range).len(), responses);
    }
}
