//! Goal: a byte that changed on a member's disk is found: the member does not start, or stops at the read
//! that meets it, and names the file; or it was a byte that matters to nobody. Wrong data is never served.
//!
//! Method: the data directory of a stopped member is copied, one bit at a random place of a random file
//! is flipped in the copy, and a node started on it. What it serves, if it serves, is compared with what
//! was written: the present, an older revision, the hash. Some dozens of flips (`FLIPS`), in turn in log,
//! MANIFEST, CURRENT, table files and identity; `SEED` repeats their places. `kvorum-node verify` looks
//! at each copy first, and must find whatever the node stops at, filters apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use kvorum_faults::process::Node;
use kvorum_faults::program::{self, Ended};
use kvorum_faults::rpc::{Consistency, RawClient};
use kvorum_faults::{Cluster, Context as _, Failure, Layout, Result, ensure, settings, wait};
use kvorum_proto::kv::v1 as wire;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Keys, enough for table files of many blocks, and the size of their values.
const KEYS: usize = 2_000;
const VALUE_BYTES: usize = 200;
/// Writes that only the log holds when the member is stopped.
const TAIL_WRITES: usize = 200;
/// A lone member elects itself and replays its log within this, or has stopped.
const SERVE_LIMIT: Duration = Duration::from_secs(20);
/// After a failed read, the process that stops on its account is gone within this.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Log,
    Manifest,
    Current,
    Table,
    Identity,
}

const TARGETS: [Target; 7] = [
    Target::Log,
    Target::Table,
    Target::Manifest,
    Target::Log,
    Target::Table,
    Target::Current,
    Target::Identity,
];

/// What the member held before.
struct Expected {
    revision: u64,
    now: Vec<wire::KeyValue>,
    older_revision: u64,
    older: Vec<wire::KeyValue>,
    hash: u64,
}

/// What became of a damaged copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The node stopped and named the file.
    Refused,
    /// It served what was written.
    Served,
}

#[tokio::test]
async fn damage_is_named_and_wrong_data_never_served() -> Result<()> {
    let (flips, seed) = (settings::number("FLIPS", 42), settings::seed());
    eprintln!("damage: FLIPS={flips} SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::found(1, Layout::default()).await?;
    let node = &cluster.nodes()[0];
    let expected = prepare(&cluster).await?;
    let sound = node.data().with_extension("sound");
    fs::rename(node.data(), &sound)?;

    let mut ends = Vec::new();
    for flip in 0..flips {
        let target = TARGETS[flip % TARGETS.len()];
        copy(&sound, node.data())?;
        let (file, offset) = damage(node.data(), target, &mut rng)?;
        let what = format!("{target:?}: a bit of byte {offset} of {}", file.display());
        let end = check_damaged(node, &file, &expected).await.context(&what)?;
        let may_pass = match target {
            // Zeros behind the log's end, filters and statistics of tables carry no data.
            Target::Log | Target::Table => true,
            // Each of its bytes is covered by a checksum, or decides which file is read.
            Target::Manifest | Target::Current | Target::Identity => false,
        };
        ensure!(may_pass || end == End::Refused, "{what} was not noticed");
        ends.push((target, end));
        fs::remove_dir_all(node.data())?;
    }
    report(&ends);
    ensure!(ends.iter().any(|(_, end)| *end == End::Refused), "no damage was noticed at all");

    // The original, which nobody touched, is as good as before.
    copy(&sound, node.data())?;
    let end = check_damaged(node, Path::new("none"), &expected).await.context("the sound copy")?;
    ensure!(end == End::Served, "a sound member did not start");
    cluster.close()
}

fn report(ends: &[(Target, End)]) {
    for target in [Target::Log, Target::Manifest, Target::Current, Target::Table, Target::Identity] {
        let count = |end| ends.iter().filter(|found| **found == (target, end)).count();
        let (refused, served) = (count(End::Refused), count(End::Served));
        eprintln!("damage: {target:?}: {refused} times refused by name, {served} times served right data");
    }
}

#[tokio::test]
async fn verify_finds_damage_in_every_data_block() -> Result<()> {
    let mut rng = StdRng::seed_from_u64(settings::seed());
    let cluster = Cluster::found(1, Layout::default()).await?;
    let node = &cluster.nodes()[0];
    prepare(&cluster).await?;
    // A kill during a compaction leaves tables that belong to nothing any more, where damage is none. A
    // proper end takes them away.
    node.start().await?;
    node.terminate().await?;
    verify(node.data()).await?.output()?;
    let sound = node.data().with_extension("sound");
    fs::rename(node.data(), &sound)?;
    for _ in 0..10 {
        copy(&sound, node.data())?;
        let table = largest(files(node.data(), Target::Table)?)?;
        // Data blocks come first in a table; their indexes and filters take a small part at its end.
        let offset = rng.random_range(0..fs::metadata(&table)?.len() / 2);
        flip(&table, offset, &mut rng)?;
        expect_found(&verify(node.data()).await?, &table).context(format!("byte {offset}"))?;
        fs::remove_dir_all(node.data())?;
    }
    cluster.close()
}

/// Fills a member's files of every kind, and stops it: part of the state is in tables, part of it in the
/// log alone.
async fn prepare(cluster: &Cluster) -> Result<Expected> {
    let node = &cluster.nodes()[0];
    let client = cluster.client().await?;
    let value = |key: usize, round: u8| -> Bytes { vec![(key as u8) ^ round; VALUE_BYTES].into() };
    for round in 0..2 {
        for keys in (0..KEYS).collect::<Vec<_>>().chunks(500) {
            let batch = keys
                .iter()
                .fold(client.batch(), |batch, key| batch.set(format!("key/{key:06}"), value(*key, round)));
            batch.await?;
        }
    }
    let older_revision = node.status().await?.revision;
    node.terminate().await?;
    node.start().await?;
    for key in 0..TAIL_WRITES {
        client.set(format!("key/{key:06}"), value(key, 9)).await?;
    }
    client.delete("key/001999").await?;
    let raw = RawClient::new(node.client_address())?;
    let revision = node.status().await?.revision;
    let expected = Expected {
        revision,
        now: raw.scan(revision).await?,
        older_revision,
        older: raw.scan(older_revision).await?,
        hash: node.hash(revision).await?,
    };
    ensure!(expected.now.len() == KEYS - 1 && expected.older.len() == KEYS, "the keys are not there");
    node.kill()?;
    Ok(expected)
}

/// Lets `verify` and a node look at a copy. Fails if the node served anything else than was written, or
/// stopped without a word on the file.
async fn check_damaged(node: &Node, file: &Path, expected: &Expected) -> Result<End> {
    let verified = verify(node.data()).await?;
    let logged = node.log()?.len();
    let served = serve(node, expected).await;
    let end = match served {
        Ok(()) => {
            node.kill()?;
            End::Served
        }
        Err(failure) => {
            let ended = node.wait_ended(STOP_LIMIT).await;
            let log = &node.log()?[logged..];
            ensure!(ended.is_ok(), "the node goes on, but {failure}");
            ensure!(!log.contains("panicked"), "it panicked:\n{log}");
            ensure!(names(log, file), "it stopped and did not name the file:\n{log}");
            // A filter that cannot be read is passed over by look-ups, and by verify's too; whether an iterator
            // meets it is chance.
            if !log.contains("block_type = Filter") {
                expect_found(&verified, file).context("the node found what verify did not")?;
            }
            End::Refused
        }
    };
    Ok(end)
}

/// Starts the node and compares all it holds with what was written.
async fn serve(node: &Node, expected: &Expected) -> Result<()> {
    node.start().await?;
    let raw = RawClient::new(node.client_address())?;
    wait::until("the first read", SERVE_LIMIT, async || {
        node.check_alive()?;
        Ok(raw.get("key/000000".into(), Consistency::Linearizable).await.map(drop)?)
    })
    .await?;
    let revision = node.status().await?.revision;
    let Expected { now, older_revision, older, .. } = expected;
    let found = (raw.scan(0).await?, raw.scan(*older_revision).await?, node.hash(expected.revision).await?);
    // Answers that differ are the one thing that must never be, so that they are no mere failure.
    assert!(revision == expected.revision, "revision {revision} is served, {} was", expected.revision);
    assert!(found.0 == *now, "other keys are served than were written");
    assert!(found.1 == *older, "another past is served than was written");
    assert!(found.2 == expected.hash, "the hash differs");
    Ok(())
}

async fn verify(data: &Path) -> Result<Ended> {
    let data = data.display().to_string();
    program::node(&["verify", "--data-dir", &data]).await
}

fn expect_found(verified: &Ended, file: &Path) -> Result<()> {
    let said = format!("{}{}", String::from_utf8_lossy(&verified.stdout), verified.stderr);
    let named = verified.code == Some(1) && names(&said, file) && !said.contains("panicked");
    ensure!(named, "verify ended with {:?} and said:\n{said}", verified.code);
    Ok(())
}

fn names(text: &str, file: &Path) -> bool {
    text.contains(&file.file_name().unwrap_or_default().to_string_lossy()[..])
}

/// Flips one bit somewhere, and answers where.
fn damage(data: &Path, target: Target, rng: &mut StdRng) -> Result<(PathBuf, u64)> {
    let mut candidates = Vec::new();
    for file in files(data, target)? {
        let bytes = fs::read(&file)?;
        // A kill may leave a file that was just made, where there is nothing to damage yet.
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            candidates.push((file, last as u64 + 1, bytes.len() as u64));
        }
    }
    candidates.sort();
    ensure!(!candidates.is_empty(), "every file for {target:?} is empty");
    let (file, used, len) = candidates.swap_remove(rng.random_range(0..candidates.len()));
    // A segment's rest is zeros; a few of them are among the places, so that they are tried too.
    let places = if target == Target::Log { (used + used / 8).min(len) } else { len };
    let offset = rng.random_range(0..places);
    flip(&file, offset, rng)?;
    Ok((file, offset))
}

fn flip(file: &Path, offset: u64, rng: &mut StdRng) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let opened = fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << rng.random_range(0..8);
    Ok(opened.write_all_at(&byte, offset)?)
}

fn files(data: &Path, target: Target) -> Result<Vec<PathBuf>> {
    if target == Target::Identity {
        return Ok(vec![data.join("identity")]);
    }
    let directory = match target {
        Target::Log => data.join("log"),
        _ => state(data)?,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fits = match target {
            // Not the spare, which holds nothing yet.
            Target::Log => name.ends_with(".log"),
            Target::Manifest => name.starts_with("MANIFEST-"),
            Target::Current => name == "CURRENT",
            Target::Table => name.ends_with(".sst"),
            Target::Identity => false,
        };
        if fits {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "{} has no file for {target:?}", data.display());
    Ok(found)
}

fn state(data: &Path) -> Result<PathBuf> {
    let is_state =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state-"));
    let mut paths = fs::read_dir(data)?.flatten().map(|entry| entry.path());
    paths.find(is_state).context("the data directory has no state")
}

fn largest(files: Vec<PathBuf>) -> Result<PathBuf> {
    let bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    files.into_iter().max_by_key(bytes).context("there are no files")
}

/// Copies a data directory without the zeros of its segments.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status()?;
    match copied.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("cp failed ({copied})"))),
    }
}
