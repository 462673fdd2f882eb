use super::*;

const RESPONSE_BYTES_MAX: usize = 1 << 20;

fn revision(revision: u64, keys: &[&'static str], value_bytes: usize) -> Arc<RevisionEvents> {
    let event = |key: &&'static str| {
        let value = vec![b'v'; value_bytes].into();
        let record = Record { key: (*key).into(), value, mod_revision: revision, ..Default::default() };
        Event { kind: EventKind::Put, previous: Some(record.clone()), record }
    };
    Arc::new(RevisionEvents { revision, events: keys.iter().map(event).collect(), is_cut: false })
}

/// What was found up to and with a revision.
fn fill(pending: &mut Pending, found: Vec<Arc<RevisionEvents>>, upto: u64) {
    pending.fill(Place::default(), found, Place::before(upto + 1));
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
    let mut pending = Pending::new(false, RESPONSE_BYTES_MAX);
    fill(&mut pending, vec![revision(3, &["a1", "b"], 1), revision(4, &["a2"], 1)], 9);
    let all = drain(&mut pending, &KeyRange::prefix("a"));
    assert_eq!(all, [(vec!["a1".into(), "a2".into()], 9, false)]);
    fill(&mut pending, vec![revision(10, &["b"], 1)], 10);
    assert!(drain(&mut pending, &KeyRange::prefix("a")).is_empty(), "nothing to say is no response");
}

/// Goal: a response stays within its size; a revision is split only when it alone is too large,
/// and every fragment but its last says so.
#[test]
fn only_a_large_revision_is_split() {
    let third = RESPONSE_BYTES_MAX / 3;
    let mut pending = Pending::new(false, RESPONSE_BYTES_MAX);
    let revisions = vec![
        revision(1, &["a"], third),
        revision(2, &["b", "c", "d", "e"], third),
        revision(3, &["f"], third * 4),
        revision(4, &["g"], 1),
    ];
    fill(&mut pending, revisions, 4);
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
        let mut pending = Pending::new(wanted, RESPONSE_BYTES_MAX);
        let third = RESPONSE_BYTES_MAX / 3;
        fill(&mut pending, vec![revision(1, &["a"], third), revision(2, &["b"], third)], 2);
        let range = KeyRange::prefix("");
        let (events, ..) = pending.response(&range).unwrap();
        assert_eq!(events[0].previous.is_some(), wanted);
        assert_eq!(1 + drain(&mut pending, &range).len(), responses);
    }
}

/// Goal: a revision that was read in part is sent as far as it was read, apart from whole ones, and says
/// that more may follow. Method: two whole revisions and a part, then the rest.
#[test]
fn a_part_of_a_revision_is_a_fragment() {
    let mut pending = Pending::new(false, RESPONSE_BYTES_MAX);
    let found = vec![revision(1, &["a1"], 1), revision(2, &["a2"], 1), revision(3, &["a3", "b", "a4"], 1)];
    pending.fill(Place::before(1), found, Place { revision: 3, number: 7 });
    let range = KeyRange::prefix("a");
    let keys = |keys: &[&str]| keys.iter().map(|key| key.to_string()).collect::<Vec<_>>();
    let all = drain(&mut pending, &range);
    assert_eq!(all, [(keys(&["a1", "a2"]), 2, false), (keys(&["a3", "a4"]), 3, true)]);
    assert_eq!(pending.complete, 2);
    pending.fill(Place { revision: 3, number: 7 }, vec![revision(3, &["a5"], 1)], Place::before(4));
    assert_eq!(pending.position(), Some((Place { revision: 3, number: 7 }, 0)));
    assert_eq!(drain(&mut pending, &range), [(keys(&["a5"]), 3, false)]);
}

/// Goal: what was sent of a revision is passed over when that is read again, in whatever parts.
#[test]
fn what_was_sent_is_passed_over() {
    let range = KeyRange::prefix("a");
    let place = |number| Place { revision: 3, number };
    // All at once: of four events in the range two were sent.
    let mut pending = Pending::new(false, RESPONSE_BYTES_MAX);
    let whole = ["b", "a1", "a2", "b", "a3", "a4"];
    pending.fill(place(0), vec![revision(3, &whole, 1)], Place::before(4));
    assert_eq!(pending.skip(2, &range), 0);
    assert_eq!(pending.position(), Some((place(0), 2)));
    assert_eq!(drain(&mut pending, &range)[0].0, ["a3", "a4"]);
    // In two parts: the first holds one of the two, and what is in between holds none.
    pending.fill(place(0), vec![revision(3, &["a1"], 1)], place(2));
    assert_eq!(pending.skip(2, &range), 1);
    assert_eq!(pending.position(), None);
    pending.fill(place(2), Vec::new(), place(3));
    assert_eq!(pending.skip(1, &range), 1);
    pending.fill(place(3), vec![revision(3, &["a2", "a3"], 1)], Place::before(4));
    assert_eq!(pending.skip(1, &range), 0);
    assert_eq!(drain(&mut pending, &range)[0].0, ["a3"]);
    // What follows the revision is not passed over.
    pending.fill(place(9), vec![revision(4, &["a5"], 1)], Place::before(5));
    assert_eq!(pending.skip(1, &range), 0);
    assert_eq!(drain(&mut pending, &range)[0].0, ["a5"]);
}
