//! The keys and values of a load.

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::args::LoadArgs;

/// Values are windows into one block of random bytes, so that making one costs nothing and a server which compresses
/// its disk finds nothing in it: the block is many times the size of what a compressor looks back at.
const POOL_BYTES: usize = 4 << 20;

/// Makes keys and values; each client has its own.
pub struct Dataset {
    random: SmallRng,
    pool: Bytes,
    key_bytes: usize,
    value_bytes: usize,
    key_space: u64,
    sequential: bool,
}

impl Dataset {
    /// The data of a load.
    pub fn new(args: &LoadArgs) -> Dataset {
        let mut random = SmallRng::seed_from_u64(args.seed);
        let mut pool = vec![0; POOL_BYTES.max(args.val_size * 2)];
        random.fill(&mut pool[..]);
        Dataset {
            random,
            pool: pool.into(),
            key_bytes: args.key_size,
            value_bytes: args.val_size,
            key_space: args.key_space.get(),
            sequential: args.sequential,
        }
    }

    /// The same data in another order, for the client with this number.
    pub fn for_client(&self, client: usize) -> Dataset {
        let mut seeds = self.random.clone();
        let seed = seeds.random::<u64>() ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Dataset { random: SmallRng::seed_from_u64(seed), pool: self.pool.clone(), ..*self }
    }

    /// The key of the request with this number: the key with this number, or one at random.
    pub fn key(&mut self, request: u64) -> Bytes {
        let number = if self.sequential {
            request % self.key_space
        } else {
            self.random.random_range(0..self.key_space)
        };
        self.key_number(number)
    }

    /// The key with this number: its decimal digits behind zeros, so that keys sort as their numbers do.
    pub fn key_number(&self, mut number: u64) -> Bytes {
        let mut key = BytesMut::zeroed(self.key_bytes);
        for digit in key.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        key.freeze()
    }

    /// Some value.
    pub fn value(&mut self) -> Bytes {
        let start = self.random.random_range(0..=self.pool.len() - self.value_bytes);
        self.pool.slice(start..start + self.value_bytes)
    }

    /// True for so many of 100 calls.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// The number of different keys.
    pub fn key_space(&self) -> u64 {
        self.key_space
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn dataset(line: &str) -> Dataset {
        let words = ["kvorum-bench", "put"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Put(load) => Dataset::new(&load),
            other => panic!("{other:?}"),
        }
    }

    /// Goal: keys are of the asked size, in the key space, and in order when asked. Method: look at many.
    #[test]
    fn keys_stay_in_their_space() {
        let mut random = dataset("--key-size 5 --key-space 20");
        let keys: HashSet<Bytes> = (0..1_000).map(|request| random.key(request)).collect();
        assert_eq!(keys, (0..20).map(|number| Bytes::from(format!("{number:05}"))).collect());
        let mut ordered = dataset("--key-size 3 --key-space 7 --sequential");
        assert_eq!((ordered.key(6), ordered.key(7)), (Bytes::from("006"), Bytes::from("000")));
    }

    /// Goal: clients do not walk in step, and a seed repeats a run. Method: compare their first keys.
    #[test]
    fn clients_differ_and_seeds_repeat() {
        let first = |data: &Dataset, client| {
            let mut data = data.for_client(client);
            (0..8).map(|request| data.key(request)).collect::<Vec<_>>()
        };
        let data = dataset("");
        assert_ne!(first(&data, 0), first(&data, 1));
        assert_eq!(first(&data, 1), first(&dataset(""), 1));
        assert_ne!(first(&data, 1), first(&dataset("--seed 2"), 1));
    }

    /// Goal: values are of the asked size, an empty one too. Method: try the ends.
    #[test]
    fn values_have_their_size() {
        for size in [0, 1, 256, 5 << 20] {
            assert_eq!(dataset(&format!("--val-size {size}")).value().len(), size);
        }
    }
}
