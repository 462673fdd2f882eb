//! How links are at the moment: how long packets take, how many are lost, and how much fits.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::clock::{Micros, SECOND};
use super::network::HostId;
use super::random::chance;

/// How long packets take where nothing keeps them.
pub const LATENCY: (Micros, Micros) = (300, 1000);
/// What takes up a narrow link is told in pieces of this: RocksDB's files are not the same to the byte in each run.
const STEP_BYTES: u64 = 1 << 10;

/// How all links are at the moment.
#[derive(Clone, Debug)]
pub struct Weather {
    /// The latency of every packet, at least and at most.
    pub latency: (Micros, Micros),
    /// Packets that are lost, in a million.
    pub lost: u32,
    /// Bytes that each link carries a second, each way, if that is little enough to matter.
    pub bytes_a_second: Option<u64>,
    /// Until when what was sent before takes up each link.
    taken_until: BTreeMap<(HostId, HostId), Micros>,
}

impl Weather {
    /// Of links that carry whatever is sent.
    pub fn new(latency: (Micros, Micros), lost: u32, bytes_a_second: Option<u64>) -> Weather {
        Weather { latency, lost, bytes_a_second, taken_until: BTreeMap::new() }
    }

    /// How long a packet of so many bytes takes that is sent now, if it is not lost.
    pub(super) fn takes(
        &mut self,
        random: &mut StdRng,
        now: Micros,
        link: (HostId, HostId),
        bytes: usize,
    ) -> Micros {
        random.random_range(self.latency.0..=self.latency.1) + self.waits(now, link, bytes)
    }

    pub(super) fn loses(&self, random: &mut StdRng) -> bool {
        chance(random, self.lost)
    }

    /// How long a packet waits for its link, and takes to be on it.
    fn waits(&mut self, now: Micros, link: (HostId, HostId), bytes: usize) -> Micros {
        let Some(bytes_a_second) = self.bytes_a_second else { return 0 };
        let taken_until = self.taken_until.entry(link).or_default();
        let bytes = (bytes as u64).next_multiple_of(STEP_BYTES);
        *taken_until = now.max(*taken_until) + bytes * SECOND / bytes_a_second;
        *taken_until - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a narrow link carries so much a second, one packet after the other, and each direction by itself. Method:
    /// packets that are sent at once, and after a pause.
    #[test]
    fn a_narrow_link_carries_one_packet_after_the_other() {
        let mut narrow = Weather::new((0, 0), 0, Some(64 << 10));
        assert_eq!(narrow.waits(0, (0, 1), 32 << 10), SECOND / 2);
        assert_eq!(narrow.waits(0, (0, 1), 32 << 10), SECOND, "it waits for the one before");
        assert_eq!(narrow.waits(0, (1, 0), 32 << 10), SECOND / 2, "the way back is free");
        assert_eq!(narrow.waits(9 * SECOND, (0, 1), 1), SECOND / 64, "the link has been free for long");
        let mut wide = Weather::new((0, 0), 0, None);
        assert_eq!(wide.waits(0, (0, 1), 32 << 20), 0);
    }
}
