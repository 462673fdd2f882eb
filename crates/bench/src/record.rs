//! What a run observed.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::api;

/// Latencies are kept in microseconds up to this; a longer one counts as this long.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Digits that a latency keeps: 0.1%, in about 200 KiB.
const LATENCY_DIGITS: u8 = 3;

/// Different reasons of failure that are kept; further ones are only counted.
const REASONS_MAX: usize = 8;

/// Whether a request read or wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It read, or an event was received.
    Read,
    /// It wrote.
    Write,
}

/// What one request did.
pub struct Done {
    /// Whether it read or wrote.
    pub class: Class,
    /// Keys read or written.
    pub keys: u64,
    /// Keys asked for that do not exist.
    pub missing: u64,
}

/// Everything observed so far.
pub struct Record {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    /// Keys read or written.
    pub keys: u64,
    /// Keys asked for that do not exist.
    pub missing: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The same by reason.
    pub reasons: BTreeMap<String, u64>,
}

impl Record {
    /// Nothing observed yet.
    pub fn new() -> Record {
        let empty = || {
            Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
                .expect("the bounds are constants that a histogram accepts")
        };
        Record { reads: empty(), writes: empty(), keys: 0, missing: 0, errors: 0, reasons: BTreeMap::new() }
    }

    /// A request was answered.
    pub fn done(&mut self, done: &Done, latency: Duration) {
        self.latency(done.class, latency);
        self.keys += done.keys;
        self.missing += done.missing;
    }

    /// Something took this long.
    pub fn latency(&mut self, class: Class, latency: Duration) {
        let histogram = match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
        };
        histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// A request failed.
    pub fn failed(&mut self, status: &Status) {
        self.failures(api::describe(status), 1);
    }

    /// So many failed for the same reason.
    pub fn failures(&mut self, reason: String, count: u64) {
        self.errors += count;
        if self.reasons.contains_key(&reason) || self.reasons.len() < REASONS_MAX {
            *self.reasons.entry(reason).or_default() += count;
        }
    }

    /// Requests answered.
    pub fn ops(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// The latencies of all requests.
    pub fn all(&self) -> Latency {
        let mut all = self.reads.clone();
        all.add(&self.writes).expect("both histograms have the same bounds");
        Latency::of(&all)
    }

    /// The latencies of the requests of one class.
    pub fn class(&self, class: Class) -> Latency {
        Latency::of(match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
        })
    }
}

/// A histogram in a few figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// The mean, in milliseconds, as are all others.
    pub mean_ms: f64,
    /// Half of the requests took longer.
    pub p50_ms: f64,
    /// One in 10 took longer.
    pub p90_ms: f64,
    /// One in 100 took longer.
    pub p99_ms: f64,
    /// One in 1,000 took longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let quantile_ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Latency {
            mean_ms: histogram.mean() / 1_000.0,
            p50_ms: quantile_ms(0.5),
            p90_ms: quantile_ms(0.9),
            p99_ms: quantile_ms(0.99),
            p999_ms: quantile_ms(0.999),
            max_ms: histogram.max() as f64 / 1_000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the figures of a known distribution. Method: 1 to 1,000 ms, half of them reads.
    #[test]
    fn quantiles_are_those_of_all_classes() {
        let mut record = Record::new();
        for ms in 1..=1_000 {
            let class = if ms % 2 == 0 { Class::Read } else { Class::Write };
            record.latency(class, Duration::from_millis(ms));
        }
        let all = record.all();
        for (figure, wanted) in [
            (all.mean_ms, 500.5),
            (all.p50_ms, 500.0),
            (all.p90_ms, 900.0),
            (all.p99_ms, 990.0),
            (all.p999_ms, 999.0),
            (all.max_ms, 1_000.0),
        ] {
            assert!((figure / wanted - 1.0).abs() < 0.002, "{figure} is not {wanted}");
        }
        assert_eq!(record.ops(), 1_000);
        assert!(record.class(Class::Write).max_ms < all.max_ms);
    }

    /// Goal: errors that all differ do not fill the memory. Method: 1,000 of them.
    #[test]
    fn reasons_are_bounded() {
        let mut record = Record::new();
        for number in 0..1_000 {
            record.failed(&Status::internal(format!("number {number}")));
        }
        assert_eq!((record.errors, record.reasons.len()), (1_000, REASONS_MAX));
    }
}
