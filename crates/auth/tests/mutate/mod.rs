//! Inputs that are nearly right: kept ones, changed in places.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// How long each target is tried by default.
const SECONDS: u64 = 1;
/// Changes to one input.
const CHANGES_MAX: usize = 8;
/// Bytes that one change takes out, doubles or puts in.
const PIECE_BYTES_MAX: usize = 64;

/// Where the kept inputs of a target are.
pub fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

/// The kept inputs of a target, in order of their names.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory(target)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no kept inputs");
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Tries something until the time is over (`FUZZ_SECONDS`), from `FUZZ_SEED` or another seed each time.
pub fn fuzz(target: &str, mut attempt: impl FnMut(&mut StdRng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    eprintln!("{target}: FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut attempts = 0_u64;
    while Instant::now() < until {
        attempt(&mut rng);
        attempts += 1;
    }
    eprintln!("{target}: {attempts} inputs");
}

/// One of the inputs, changed in up to [`CHANGES_MAX`] places, also by words that mean something.
pub fn mutated(rng: &mut StdRng, inputs: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut bytes = inputs.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(0..=CHANGES_MAX) {
        change(rng, &mut bytes, inputs, words);
    }
    bytes
}

fn change(rng: &mut StdRng, bytes: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&str]) {
    let start = rng.random_range(0..=bytes.len());
    let end = (start + rng.random_range(0..=PIECE_BYTES_MAX)).min(bytes.len());
    match rng.random_range(0..9) {
        0 if start < bytes.len() => bytes[start] ^= 1 << rng.random_range(0..8),
        1 if start < bytes.len() => bytes[start] = rng.random(),
        2 => bytes.insert(start, rng.random()),
        3 => drop(bytes.drain(start..end)),
        4 => {
            let piece = bytes[start..end].to_vec();
            let at = rng.random_range(0..=bytes.len());
            bytes.splice(at..at, piece);
        }
        5 => {
            let other = inputs.choose(rng).unwrap();
            let from = rng.random_range(0..=other.len());
            bytes.truncate(start);
            bytes.extend(&other[from..]);
        }
        6 => bytes.truncate(start),
        // In the place of another word, or beside it.
        7 => drop(bytes.splice(start..end, words.choose(rng).unwrap().bytes())),
        _ => drop(bytes.splice(start..start, words.choose(rng).unwrap().bytes())),
    }
}
