//! Files that do not hold what was written to them.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use std::os::unix::fs::FileExt as _;

use super::super::frame::{self, Kind, Place};
use super::super::record::{self, Record};
use super::*;

/// A log of several segments with every kind of record, closed.
fn log_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for round in 0..12 {
        let next = log.state().last.map_or(0, |last| last.index + 1);
        synced(|done| log.append(entries(round, next, 8, 900), done));
        synced(|done| log.truncate_after(Some(id(round, next + 5)), done));
        synced(|done| log.save_vote(Vote { term: round, node_id: 3, committed: false }, done));
    }
    synced(|done| log.purge(id(0, 3), done));
    drop(log);
    assert!(files(dir.path()).len() > 5);
    dir
}

/// Bytes up to the last one that is not zero.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

/// Checks that neither opening nor verifying overlooks the file.
fn refused(dir: &Path, file: &Path, what: &str) {
    let findings = verify(dir);
    assert!(findings.iter().any(|finding| finding.to_string().contains(file.to_str().unwrap())), "{what}");
    let error = try_open(dir).err().unwrap_or_else(|| panic!("{what} in {} was accepted", file.display()));
    assert!(error.to_string().contains(file.to_str().unwrap()), "{what} in {}: {error}", file.display());
}

/// Goal: no changed byte goes unnoticed. Method: one byte changed at hundreds of random places of
/// the used parts, in the newest segment as in old ones.
#[test]
fn a_changed_byte_is_refused() {
    let dir = log_dir();
    let mut random = StdRng::seed_from_u64(1);
    for trial in 0..600 {
        let files = files(dir.path());
        let file = &files[if trial % 3 == 0 { files.len() - 1 } else { random.random_range(0..files.len()) }];
        let good = fs::read(file).unwrap();
        let at = random.random_range(0..used(&good));
        let mut bad = good.clone();
        bad[at] ^= random.random_range(1..=255u8);
        fs::write(file, &bad).unwrap();
        refused(dir.path(), file, &format!("byte {at} changed"));
        fs::write(file, &good).unwrap();
    }
    open(dir.path());
}

/// Goal: a change where nothing was written loses nothing. Method: one byte at random places of the
/// unused parts; the log is refused, or it is the same.
#[test]
fn a_changed_byte_in_unused_space_loses_nothing() {
    let dir = log_dir();
    let log = open(dir.path());
    let (state, held) = (log.state(), all(&log));
    drop(log);
    let mut random = StdRng::seed_from_u64(2);
    let mut refusals = 0;
    for _ in 0..200 {
        let files = files(dir.path());
        let file = &files[random.random_range(0..files.len())];
        let good = fs::read(file).unwrap();
        let mut bad = good.clone();
        bad[random.random_range(used(&good)..good.len())] = random.random_range(1..=255u8);
        fs::write(file, &bad).unwrap();
        match try_open(dir.path()) {
            Ok(log) => assert_eq!((log.state(), all(&log)), (state, held.clone())),
            Err(error) => {
                assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
                refusals += 1;
            }
        }
        fs::write(file, &good).unwrap();
    }
    assert!(refusals < 200);
}

/// Goal: zeros in the middle are no end. Method: every run of sectors from some place on, zeroed in
/// every segment but the newest, and single sectors in the newest.
#[test]
fn zeroed_sectors_are_refused() {
    let dir = log_dir();
    let files = files(dir.path());
    for (number, file) in files.iter().enumerate() {
        let good = fs::read(file).unwrap();
        let sectors = used(&good) / 512;
        for sector in (0..sectors).step_by(3) {
            let mut bad = good.clone();
            let newest = number + 1 == files.len();
            let end = if newest { (sector + 1) * 512 } else { bad.len() };
            bad[sector * 512..end].fill(0);
            // The last frame of the newest segment may be torn like that.
            if bad != good && !(newest && sector + 2 >= sectors) {
                fs::write(file, &bad).unwrap();
                refused(dir.path(), file, &format!("sector {sector} zeroed"));
            }
        }
        fs::write(file, &good).unwrap();
    }
    open(dir.path());
}

/// Goal: files of another length are noticed. Method: each file cut at random places, and one grown.
#[test]
fn a_truncated_file_is_refused() {
    let dir = log_dir();
    let mut random = StdRng::seed_from_u64(3);
    for file in files(dir.path()) {
        let good = fs::read(&file).unwrap();
        for bytes in [0, 1, 63, 64, 511, good.len() - 1, good.len() + 64, random.random_range(0..good.len())]
        {
            fs::File::options().write(true).open(&file).unwrap().set_len(bytes as u64).unwrap();
            refused(dir.path(), &file, &format!("length {bytes}"));
            fs::write(&file, &good).unwrap();
        }
    }
    open(dir.path());
}

/// Goal: a missing segment is noticed wherever it was. Method: each one removed, then all.
#[test]
fn a_missing_segment_is_refused() {
    let dir = log_dir();
    assert!(verify(dir.path()).is_empty());
    let files = files(dir.path());
    let aside = dir.path().join("aside");
    for file in &files {
        fs::rename(file, &aside).unwrap();
        refused(dir.path(), file, "a missing file");
        fs::rename(&aside, file).unwrap();
    }
    open(dir.path());
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    assert!(matches!(try_open(dir.path()), Err(LogError::Missing { .. })));
}

/// Goal: a log is opened by its own node only, and segments of another node are not taken in.
/// Method: another identity; one segment replaced by another node's.
#[test]
fn foreign_segments_are_refused() {
    let dir = log_dir();
    let error = Log::open(dir.path(), IDENTITY + 1, options()).err().unwrap();
    assert!(matches!(error, LogError::Identity { found: IDENTITY, .. }), "{error}");
    open(dir.path());

    let other = tempfile::tempdir().unwrap();
    let log = Log::open(other.path(), IDENTITY + 1, options()).unwrap();
    for from in (0..60).step_by(5) {
        synced(|done| log.append(entries(1, from, 5, 900), done));
    }
    drop(log);
    let (ours, theirs) = (&files(dir.path())[2], &files(other.path())[2]);
    fs::copy(theirs, ours).unwrap();
    refused(dir.path(), ours, "a foreign segment");
}

/// Goal: every damaged file is named, not only the first. Method: a byte changed in several.
#[test]
fn verify_names_every_damaged_file() {
    let dir = log_dir();
    assert!(verify(dir.path()).is_empty());
    let files = files(dir.path());
    let damaged = [&files[0], &files[2], &files[3]];
    for file in damaged {
        let mut bytes = fs::read(file).unwrap();
        bytes[3000] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let findings: Vec<_> = verify(dir.path()).iter().map(ToString::to_string).collect();
    assert_eq!(findings.len(), damaged.len(), "{findings:?}");
    for (finding, file) in findings.iter().zip(damaged) {
        assert!(finding.contains(file.to_str().unwrap()), "{finding}");
    }
}

/// Goal: a log that ends before what it knows to be committed is refused. Method: one more frame,
/// made by hand, which says so.
#[test]
fn a_log_behind_its_own_commit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    synced(|done| log.append(entries(1, 0, 3, 100), done));
    drop(log);
    for (committed_next, accepted) in [(3, true), (4, false)] {
        let disk = Machine::system().files;
        let end = recovery::recover(&*disk, &dir.path().join(super::super::DIR), IDENTITY).unwrap();
        let (last, mut frame) = (end.segments.last().unwrap(), Vec::new());
        frame::begin(&mut frame);
        record::put(&mut frame, Record::Vote(Vote { term: 1, node_id: 1, committed: true }));
        let place = Place {
            kind: Kind::Records,
            sequence: end.sequence,
            segment: last.number,
            committed_next,
            offset: last.end,
        };
        frame::finish(&mut frame, place, frame::seed(IDENTITY, last.number));
        let file = fs::File::options().write(true).open(&last.path).unwrap();
        file.write_all_at(&frame, last.end).unwrap();
        let opened = try_open(dir.path());
        assert_eq!(opened.is_ok(), accepted, "{:?}", opened.err());
    }
}
