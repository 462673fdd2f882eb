use rand::SeedableRng as _;

use super::*;

/// A directory with a journal, in which a test does things.
struct Place {
    dir: tempfile::TempDir,
    journal: Journal,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let journal = Journal::new(dir.path().join("attic"));
        Place { dir, journal }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    fn make(&mut self, name: &str) -> Arc<File> {
        let path = self.path(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        self.journal.made(&path).unwrap();
        Arc::new(file)
    }

    fn write(&mut self, file: &Arc<File>, bytes: &[u8], at: u64) {
        self.journal.writes(file, at, bytes.len() as u64).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn sync_names(&mut self) {
        self.journal.synced_dir(&self.dir.path().join("data")).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let items = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What the losses of many seeds leave, each with how often.
fn losses<T: Ord>(loss: impl Fn(&mut StdRng) -> T) -> BTreeMap<T, usize> {
    let mut found = BTreeMap::new();
    for seed in 0..200 {
        *found.entry(loss(&mut StdRng::seed_from_u64(seed))).or_default() += 1;
    }
    found
}

/// Goal: what is synced stays; of what is not each sector does or does not, whole. Method: three sectors over
/// synced ones, lost many times.
#[test]
fn sectors_stay_or_go_whole() {
    let left = losses(|random| {
        let mut place = Place::new();
        let file = place.make("file");
        place.write(&file, &[1; 4 * 512], 0);
        place.journal.synced(&file).unwrap();
        place.sync_names();
        place.write(&file, &[2; 700], 512);
        place.write(&file, &[3; 100], 600);
        place.journal.power_lost(random).unwrap();
        let content = fs::read(place.path("file")).unwrap();
        assert_eq!((content.len(), &content[..512]), (4 * 512, &[1; 512][..]));
        assert_eq!(content[512 + 700..], [1; 4 * 512 - 512 - 700], "what no write has touched");
        let first =
            content[512..600] == [2; 88] && content[600..700] == [3; 100] && content[700..1024] == [2; 324];
        let second = content[1024..1212] == [2; 188];
        assert!(first || content[512..1024] == [1; 512], "the first sector is whole");
        assert!(second || content[1024..1212] == [1; 188], "and so is the second");
        (first, second)
    });
    assert_eq!(left.len(), 4, "each of the four cases comes: {left:?}");
    assert!(left.values().all(|count| *count >= 10), "{left:?}");
}

/// Goal: a file that was made longer and not synced is as long as before, or has zeros or content. Method: as above.
#[test]
fn room_that_was_taken_stays_or_goes() {
    let left = losses(|random| {
        let mut place = Place::new();
        let file = place.make("file");
        place.write(&file, &[1; 100], 0);
        place.journal.synced(&file).unwrap();
        place.sync_names();
        place.write(&file, &[2; 1000], 100);
        place.journal.power_lost(random).unwrap();
        let content = fs::read(place.path("file")).unwrap();
        assert_eq!(content[..100], [1; 100]);
        assert!(content[100..].iter().all(|byte| [0, 2].contains(byte)), "never what was not written");
        (content.len(), content[100..].contains(&2), content[100..].contains(&0))
    });
    assert!(left.contains_key(&(100, false, false)), "{left:?}");
    assert!(left.contains_key(&(1100, true, false)), "{left:?}");
    assert!(left.keys().all(|(length, ..)| *length == 100 || *length > 512), "{left:?}");
}

/// Goal: names that are not synced go, the latest first; what was renamed over or removed is there again. Method: a
/// file is replaced as an identity is, and another removed, with the power lost many times.
#[test]
fn names_go_from_the_last_on() {
    let left = losses(|random| {
        let mut place = Place::new();
        for (name, content) in [("identity", b"old"), ("gone", b"???")] {
            let file = place.make(name);
            place.write(&file, content, 0);
            place.journal.synced(&file).unwrap();
        }
        place.sync_names();
        let file = place.make("identity.new");
        place.write(&file, b"new", 0);
        place.journal.synced(&file).unwrap();
        let (from, to, gone) = (place.path("identity.new"), place.path("identity"), place.path("gone"));
        place.journal.rename(&from, &to).unwrap();
        place.journal.remove(&gone).unwrap();
        place.journal.power_lost(random).unwrap();
        (place.names().join(" "), fs::read_to_string(to).unwrap())
    });
    let case = |names: &str, identity: &str| (names.to_owned(), identity.to_owned());
    let cases = [
        case("gone identity", "old"),
        case("gone identity identity.new", "old"),
        case("gone identity", "new"),
        case("identity", "new"),
    ];
    assert_eq!(left.keys().cloned().collect::<std::collections::BTreeSet<_>>(), cases.into());
}

/// Goal: what is synced outlasts every loss, whatever was done before, and the attic keeps nothing. Method: the
/// same with a sync of the names at the end.
#[test]
fn what_is_synced_stays() {
    let left = losses(|random| {
        let mut place = Place::new();
        fs::create_dir(place.path("incoming")).unwrap();
        let incoming = place.path("incoming");
        place.journal.made(&incoming).unwrap();
        let file = place.make("incoming/table");
        place.write(&file, &[7; 3000], 0);
        place.journal.synced(&file).unwrap();
        place.journal.synced_dir(&incoming).unwrap();
        let state = place.path("state");
        place.journal.rename(&incoming, &state).unwrap();
        let old = place.make("old");
        place.write(&old, b"old", 0);
        let path = place.path("old");
        place.journal.remove(&path).unwrap();
        place.sync_names();
        assert_eq!(fs::read_dir(place.dir.path().join("attic")).unwrap().count(), 0);
        place.journal.power_lost(random).unwrap();
        (place.names(), fs::read(place.path("state/table")).unwrap() == [7; 3000])
    });
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [(vec!["state".to_owned()], true)]);
}

/// Goal: names in a directory that was renamed are undone where it is now. Method: the rename is durable, what
/// was made in it before is not.
#[test]
fn changes_follow_their_directory() {
    let left = losses(|random| {
        let mut place = Place::new();
        fs::create_dir(place.path("incoming")).unwrap();
        let incoming = place.path("incoming");
        place.journal.made(&incoming).unwrap();
        place.make("incoming/table");
        let state = place.path("state");
        place.journal.rename(&incoming, &state).unwrap();
        place.sync_names();
        place.journal.power_lost(random).unwrap();
        assert_eq!(place.names(), ["state"]);
        fs::read_dir(state).unwrap().count()
    });
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [0, 1]);
}

/// Goal: what a failed sync has not written is shown as long as there is power, lost with it whatever is synced later,
/// and there again once it is written anew. The copy of what is durable shows the same. Method: a sector over a synced
/// one, lost many times.
#[test]
fn what_a_failed_sync_has_lost_no_later_one_saves() {
    for writes_anew in [false, true] {
        let left = losses(|random| {
            let mut place = Place::new();
            let file = place.make("file");
            place.write(&file, &[1; 512], 0);
            place.journal.synced(&file).unwrap();
            place.sync_names();
            place.write(&file, &[2; 512], 0);
            place.journal.sync_failed(&file, random).unwrap();
            if writes_anew {
                place.write(&file, &[2; 512], 0);
            }
            place.journal.synced(&file).unwrap();
            assert_eq!(fs::read(place.path("file")).unwrap(), [2; 512], "the machine has power");
            let copy = place.dir.path().join("copy");
            place.journal.copy_durable(&place.path(""), &copy).unwrap();
            let copied = fs::read(copy.join("file")).unwrap();
            place.journal.power_lost(random).unwrap();
            let left = fs::read(place.path("file")).unwrap();
            assert_eq!(copied, left, "the copy is what the power leaves");
            left[0]
        });
        let expected = if writes_anew { vec![2] } else { vec![1, 2] };
        assert_eq!(left.into_keys().collect::<Vec<_>>(), expected, "written anew: {writes_anew}");
    }
}
