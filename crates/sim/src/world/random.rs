//! Random numbers from the seed, in streams that do not touch each other: who takes one fault out of a plan
//! moves no other draw.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::trace::hash_bytes;

/// The stream of this name.
pub fn stream(seed: u64, name: &str) -> StdRng {
    StdRng::seed_from_u64(hash_bytes(name.as_bytes()) ^ seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
}

/// True so many times in a million.
pub fn chance(random: &mut StdRng, millionths: u32) -> bool {
    millionths > 0 && random.random_range(0..1_000_000) < millionths
}
