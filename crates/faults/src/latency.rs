//! Durations, summed up.

use std::fmt;
use std::time::Duration;

/// Measured durations, in order.
#[derive(Clone, Debug)]
pub struct Distribution {
    sorted: Vec<Duration>,
}

impl Distribution {
    /// The distribution of these durations, of which there must be one at least.
    pub fn new(mut durations: Vec<Duration>) -> Distribution {
        assert!(!durations.is_empty(), "a distribution needs a measurement");
        durations.sort_unstable();
        Distribution { sorted: durations }
    }

    /// The smallest duration that at least `percent` of all do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted[rank - 1]
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_millis();
        let (p50, p90, p99) = (self.percentile(50), self.percentile(90), self.percentile(99));
        write!(f, "p50 {} ms, p90 {} ms, p99 {} ms; all in ms:", ms(p50), ms(p90), ms(p99))?;
        self.sorted.iter().try_for_each(|duration| write!(f, " {}", ms(*duration)))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the 99th percentile of few measurements is the largest, not something below it.
    use super::*;

    #[test]
    fn the_99th_percentile_of_twenty_is_the_largest() {
        let of_twenty = Distribution::new((1..=20).map(Duration::from_millis).collect());
        assert_eq!(of_twenty.percentile(99), Duration::from_millis(20));
        assert_eq!(of_twenty.percentile(50), Duration::from_millis(10));
        let of_200 = Distribution::new((1..=200).map(Duration::from_millis).collect());
        assert_eq!(of_200.percentile(99), Duration::from_millis(198));
    }
}
