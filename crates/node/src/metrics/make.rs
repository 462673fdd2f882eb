//! Makes and registers metrics.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Where metrics are registered as they are made.
pub(super) struct Make(pub(super) Registry);

impl Make {
    pub(super) fn register<C: prometheus::core::Collector + 'static>(&self, collector: C) {
        self.0.register(Box::new(collector)).expect("metric names are distinct");
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the name is valid");
        self.register(counter.clone());
        counter
    }

    pub(super) fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the name is valid");
        self.register(counters.clone());
        counters
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the name is valid");
        self.register(gauge.clone());
        gauge
    }

    /// A gauge of seconds, which are no whole number.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::new(name, help).expect("the name is valid");
        self.register(gauge.clone());
        gauge
    }

    pub(super) fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("the name is valid");
        self.register(gauges.clone());
        gauges
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        let histogram = Histogram::with_opts(options).expect("the name is valid");
        self.register(histogram.clone());
        histogram
    }

    pub(super) fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        let histograms = HistogramVec::new(options, labels).expect("the name is valid");
        self.register(histograms.clone());
        histograms
    }
}

/// From 100 us, a call from memory, to 13 s, a call that waited for a leader.
pub(super) fn call_buckets() -> Vec<f64> {
    buckets(0.000_1, 2.0, 18)
}

/// From 50 us, an fsync of a fast disk, to 6.5 s, a disk that is about to fail.
pub(super) fn disk_buckets() -> Vec<f64> {
    buckets(0.000_05, 2.0, 18)
}

pub(super) fn size_buckets() -> Vec<f64> {
    buckets(1.0, 2.0, 11)
}

pub(super) fn buckets(start: f64, factor: f64, count: usize) -> Vec<f64> {
    prometheus::exponential_buckets(start, factor, count).expect("the arguments are positive constants")
}
