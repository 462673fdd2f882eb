//! Tests of the data directory.

use std::fs;
use std::path::Path;

use super::directory::{IDENTITY, names};
use super::identity::{DecodeError, decode};
use super::{DataDir, DataDirError, Identity, Origin};
use crate::log;

/// Goal: no directory that is made can be lost with what is in it. Method: which parents are synced, for
/// paths of which less and less exists.
#[test]
fn every_directory_that_is_made_is_synced_in_its_parent() {
    /// A path, the directories that exist, and the parents of the others, from the top.
    type Case = (&'static str, &'static [&'static str], &'static [&'static str]);
    let cases: [Case; 7] = [
        ("/var/lib/kvorum/data", &["/", "/var", "/var/lib"], &["/var/lib", "/var/lib/kvorum"]),
        ("/var/lib/kvorum/data", &["/"], &["/", "/var", "/var/lib", "/var/lib/kvorum"]),
        ("/var/lib", &["/", "/var", "/var/lib"], &[]),
        ("data", &[], &["."]),
        ("a/b/c", &["a"], &["a", "a/b"]),
        ("a/b/c", &[], &[".", "a", "a/b"]),
        ("./a", &["."], &["."]),
    ];
    for (path, existing, synced) in cases {
        let names = names(Path::new(path), |dir| existing.iter().any(|known| Path::new(known) == dir));
        let new: Vec<_> = names.iter().filter(|name| name.is_new).map(|name| name.parent).collect();
        assert_eq!(new, synced.iter().map(Path::new).collect::<Vec<_>>(), "{path} in {existing:?}");
        // What an attempt made that was cut short is synced as well.
        assert_eq!(names.len(), names_of(path), "{path}");
    }
    fn names_of(path: &str) -> usize {
        Path::new(path).components().filter(|part| matches!(part, std::path::Component::Normal(_))).count()
            + usize::from(path.starts_with('.'))
    }
}

/// Goal: an identity is there for ever, and only its own cluster is accepted. Method: reopen
/// after every step.
#[test]
fn an_identity_stays() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let dir = DataDir::open(&path).unwrap();
    assert_eq!(dir.identity(), None);
    dir.create_identity(7).unwrap();
    assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked { .. })));
    drop(dir);

    let dir = DataDir::open(&path).unwrap();
    assert_eq!(dir.create_identity(8).unwrap().node_id, 7);
    fs::create_dir(path.join(log::DIR)).unwrap();
    dir.set_cluster(0xc1, 2, Origin::Joins).unwrap();
    dir.set_cluster(0xc1, 1, Origin::Joins).unwrap();
    assert!(matches!(
        dir.set_cluster(0xc2, 2, Origin::Joins),
        Err(DataDirError::OtherCluster { found: 0xc1, .. })
    ));
    drop(dir);
    let identity = Identity { node_id: 7, cluster_id: 0xc1, incarnation: 2 };
    assert_eq!(DataDir::open(&path).unwrap().identity(), Some(identity));

    fs::remove_dir(path.join(log::DIR)).unwrap();
    assert!(matches!(DataDir::open(&path), Err(DataDirError::NoLog { .. })));
}

/// Goal: how a disk came to its cluster outlasts a restart, and one that joined does not found. Method: reopen
/// after every step.
#[test]
fn a_disk_that_joins_does_not_found() {
    let parent = tempfile::tempdir().unwrap();
    let open = || DataDir::open(parent.path()).unwrap();
    open().create_identity(7).unwrap();
    fs::create_dir(parent.path().join(log::DIR)).unwrap();
    assert!(!open().founds());
    open().set_cluster(0xc1, 1, Origin::FoundsClosed).unwrap();
    assert!(open().founds() && open().is_closed());
    open().open_cluster().unwrap();
    assert!(open().founds() && !open().is_closed());
    assert_eq!(open().identity(), Some(Identity { node_id: 7, cluster_id: 0xc1, incarnation: 1 }));
    open().set_cluster(0xc1, 1, Origin::Joins).unwrap();
    assert!(!open().founds());
}

/// Goal: a changed identity is never taken for another. Method: every byte, changed and cut.
#[test]
fn a_damaged_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    DataDir::open(dir.path()).unwrap().create_identity(7).unwrap();
    let file = dir.path().join(IDENTITY);
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(matches!(decode(&bad), Err(DecodeError::Damage(_))), "byte {at}");
        assert!(matches!(decode(&good[..at]), Err(DecodeError::Damage(_))), "cut at {at}");
    }
    fs::write(&file, &good[1..]).unwrap();
    let error = DataDir::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
}

/// Goal: what is no data directory is said to be none. Method: a file, a log without identity.
#[test]
fn other_things_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory { .. })));
    fs::create_dir(dir.path().join(log::DIR)).unwrap();
    assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::NoIdentity { .. })));
}
