//! Power loss in the middle of a write.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::frame::SECTOR_BYTES;
use super::*;

/// Logs before and after one more frame, which lies in the newest segment.
struct Torn {
    before: tempfile::TempDir,
    after: tempfile::TempDir,
}

fn last_file(dir: &Path) -> PathBuf {
    files(dir).pop().unwrap()
}

/// Takes a log apart around its last change.
fn torn(start: impl FnOnce(&Log), last: impl FnOnce(&Log)) -> Torn {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(after.path());
    start(&log);
    copy(after.path(), before.path());
    last(&log);
    drop(log);
    assert_eq!(files(before.path()).len(), files(after.path()).len(), "the last frame is in a new segment");
    Torn { before, after }
}

/// A log of several segments, whose newest one is nearly empty.
fn several_segments(log: &Log, sector_part: usize) {
    synced(|done| log.save_vote(Vote { term: 1, node_id: 2, committed: false }, done));
    for from in (0..60).step_by(3) {
        synced(|done| log.append(entries(1, from, 3, 400), done));
    }
    synced(|done| log.append(entries(1, 60, 1, 9_000), done));
    // Moves the last frame to every place in a sector.
    synced(|done| log.append(entries(1, 61, 1, sector_part), done));
}

/// Opens every kind of rest of the last frame and checks that it is there whole or not at all, and
/// that the log goes on from there.
fn check_rests(torn: &Torn, random: &mut StdRng, rests: usize) {
    let open_all = |dir: &Path| {
        let scratch = tempfile::tempdir().unwrap();
        copy(dir, scratch.path());
        let log = open(scratch.path());
        (log.state(), all(&log))
    };
    let (before, after) = (open_all(torn.before.path()), open_all(torn.after.path()));
    let old = fs::read(last_file(torn.before.path())).unwrap();
    let new = fs::read(last_file(torn.after.path())).unwrap();
    let changed: Vec<_> =
        (0..old.len() / SECTOR_BYTES).map(|at| at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES).collect();
    let changed: Vec<_> =
        changed.into_iter().filter(|sector| old[sector.clone()] != new[sector.clone()]).collect();
    for rest in 0..rests {
        // Few, many, none and all of them.
        let share = [0.0, 0.1, 0.5, 0.9, 1.0][rest % 5];
        let mut file = old.clone();
        let mut whole = true;
        for sector in &changed {
            if random.random_bool(share) {
                file[sector.clone()].copy_from_slice(&new[sector.clone()]);
            } else {
                whole = false;
            }
        }
        let scratch = tempfile::tempdir().unwrap();
        copy(torn.before.path(), scratch.path());
        fs::write(last_file(scratch.path()), &file).unwrap();
        let (state, held) = if whole { &after } else { &before };
        let log = open(scratch.path());
        assert_eq!((log.state().last, log.state().vote), (state.last, state.vote), "{rest}");
        assert_eq!(all(&log), *held);
        let next = entry(9, state.last.unwrap().index + 1, 100);
        synced(|done| log.append(vec![next.clone()], done));
        drop(log);
        assert_eq!(all(&open(scratch.path())).last(), Some(&next));
    }
}

/// Goal: a torn frame goes whole, nothing before it does, and a whole one stays. Method: any of the
/// last frame's sectors, the others zero, for frames of all sizes at all places in a sector.
#[test]
fn any_part_of_the_last_frame_may_be_missing() {
    let mut random = StdRng::seed_from_u64(7);
    for (round, bytes) in [0, 30, 300, 450, 512, 1000, 2000, 4000].into_iter().enumerate() {
        let torn = torn(
            |log| several_segments(log, round * 64 + 40),
            |log| {
                log.set_committed(id(1, 61));
                synced(|done| log.append(entries(2, 62, 1, bytes), done));
            },
        );
        check_rests(&torn, &mut random, 25);
    }
}

/// Goal: the same for frames of other changes. Method: a truncation with entries after it, a purge,
/// a vote.
#[test]
fn torn_changes_of_other_kinds_go_whole_too() {
    let mut random = StdRng::seed_from_u64(8);
    let truncation = torn(
        |log| several_segments(log, 100),
        |log| {
            log.truncate_after(Some(id(1, 60)), Box::new(|| ()));
            synced(|done| log.append(entries(3, 61, 4, 600), done));
        },
    );
    // Truncation and entries may have gone in two frames, if the writer was quick; then the rest of
    // the second one is dropped alone, and the states before and after do not fit.
    if frames_between(&truncation) == 1 {
        check_rests(&truncation, &mut random, 25);
    }
    let vote = torn(
        |log| several_segments(log, 150),
        |log| synced(|done| log.save_vote(Vote { term: 8, node_id: 1, committed: true }, done)),
    );
    check_rests(&vote, &mut random, 10);
}

fn frames_between(torn: &Torn) -> usize {
    let old = fs::read(last_file(torn.before.path())).unwrap();
    let new = fs::read(last_file(torn.after.path())).unwrap();
    let count = |file: &[u8]| file.chunks(64).filter(|block| block.starts_with(b"KvLf")).count();
    count(&new) - count(&old)
}

/// Goal: whatever a tear cannot have made is damage. Method: changes behind the log's end, and a
/// last frame that is whole but for one byte, or whose header is zeros within a sector that is not.
#[test]
fn what_is_not_torn_is_damage() {
    let torn =
        torn(|log| several_segments(log, 100), |log| synced(|done| log.append(entries(2, 62, 2, 900), done)));
    let file = last_file(torn.after.path());
    let good = fs::read(&file).unwrap();
    let old = fs::read(last_file(torn.before.path())).unwrap();
    let start = (0..good.len()).find(|at| old[*at] != good[*at]).unwrap();
    let end = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(end - start > 1800);

    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let error = try_open(torn.after.path()).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(error.to_string().contains(file.to_str().unwrap()), "{what}: {error}");
    };
    for at in start..end {
        if at % 7 == 0 && good[at] != 0 {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            refused(&bad, &format!("a changed byte at {at}"));
        }
    }
    let mut bad = good.clone();
    bad[start..start + 64].fill(0);
    refused(&bad, "a header of zeros");
    let mut bad = good.clone();
    let sector = start.next_multiple_of(SECTOR_BYTES);
    bad[sector..sector + SECTOR_BYTES].fill(0);
    bad[end + 2000] = 1;
    refused(&bad, "a torn frame with something far behind it");
}

/// Goal: a crash at any step of going over to a new segment is harmless. Method: the files as each
/// step leaves them: an unfinished spare; the new segment without the old one's seal.
#[test]
fn a_crash_between_segments_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    synced(|done| log.append(entries(1, 0, 15, 1000), done));
    synced(|done| log.append(entries(1, 15, 1, 2000), done));
    drop(log);
    let segments = files(dir.path());
    assert_eq!(segments.len(), 2);
    let mut first = fs::read(&segments[0]).unwrap();
    let seal = first.iter().rposition(|byte| *byte != 0).unwrap() / 64 * 64;
    assert!(first[seal..].starts_with(b"KvLf"));
    first[seal..seal + 64].fill(0);
    fs::write(&segments[0], &first).unwrap();
    fs::write(dir.path().join("log/spare"), [0; 100]).unwrap();

    let log = open(dir.path());
    assert_eq!(all(&log).len(), 16);
    synced(|done| log.append(entries(2, 16, 30, 1000), done));
    synced(|done| log.append(entries(2, 46, 1, 10), done));
    drop(log);
    assert_eq!(all(&open(dir.path())).len(), 47);
}

/// Goal: a crash while a log is founded leaves none. Method: what such a crash leaves.
#[test]
fn an_unfinished_log_is_founded_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log.new")).unwrap();
    fs::write(dir.path().join("log.new/0000000000000001.log"), [0; 100]).unwrap();
    assert!(!Log::exists(dir.path()));
    assert_eq!(open(dir.path()).state(), LogState::default());
    assert!(Log::exists(dir.path()) && !dir.path().join("log.new").exists());
}
