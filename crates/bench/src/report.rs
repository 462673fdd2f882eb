//! What a run is reported as.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::{Api, LoadArgs};
use crate::record::{Class, Latency, Record};

/// What the machine spent between the start and the end of a run.
pub struct Window {
    /// Its length.
    pub elapsed: Duration,
    /// CPU time of all servers, when their process ids are known.
    pub servers_cpu_us: Option<u64>,
    /// CPU time of this process.
    pub own_cpu_us: u64,
    /// The most memory that any server ever had resident.
    pub rss_max_bytes: Option<u64>,
}

/// The result of a run; `--json` prints it as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The measured system, as `--label` names it.
    pub label: String,
    /// What each client did.
    pub workload: String,
    /// The API spoken.
    pub api: String,
    /// Servers that were called.
    pub endpoints: usize,
    /// Only the leader was called.
    pub target_leader: bool,
    /// Clients, each with one request under way.
    pub clients: usize,
    /// Connections that they shared.
    pub conns: usize,
    /// Requests started in a second, when that was fixed.
    pub rate: Option<u64>,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Number of different keys.
    pub key_space: u64,
    /// Length of the run.
    pub elapsed_s: f64,
    /// Requests answered (`watch`: events received).
    pub ops: u64,
    /// The same in a second.
    pub ops_per_sec: f64,
    /// Keys read or written.
    pub keys: u64,
    /// Keys that were asked for and do not exist.
    pub missing: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The same by reason.
    pub error_reasons: BTreeMap<String, u64>,
    /// Requests that a fixed rate wanted started and for which no client was free.
    pub unsent: u64,
    /// Latency of all requests.
    #[serde(flatten)]
    pub latency: Latency,
    /// Latency of reads, where a run has both.
    pub reads: Option<Latency>,
    /// Latency of writes, where a run has both.
    pub writes: Option<Latency>,
    /// CPU time of all servers together for each answered request.
    pub cpu_us_per_op: Option<f64>,
    /// CPU time of this load generator for each answered request.
    pub client_cpu_us_per_op: Option<f64>,
    /// The most memory that any server had resident since its start.
    pub rss_max_bytes: Option<u64>,
}

impl Report {
    /// Puts a run's figures together, and takes the reasons of failure out of its record.
    pub fn new(
        workload: String,
        args: &LoadArgs,
        record: &mut Record,
        unsent: u64,
        window: Window,
    ) -> Report {
        let ops = record.ops();
        let per_op = |total: u64| (ops > 0).then(|| total as f64 / ops as f64);
        let elapsed_s = window.elapsed.as_secs_f64();
        let class = |class| workload.starts_with("mixed").then(|| record.class(class));
        Report {
            label: args.label.clone(),
            api: match args.api {
                Api::Kv => "kv",
                Api::Etcd => "etcd",
            }
            .to_owned(),
            endpoints: args.endpoints.len(),
            target_leader: args.target_leader,
            clients: args.clients,
            conns: args.connections(),
            rate: args.rate.map(std::num::NonZero::get),
            key_bytes: args.key_size,
            value_bytes: args.val_size,
            key_space: args.key_space.get(),
            elapsed_s,
            ops,
            ops_per_sec: ops as f64 / elapsed_s,
            keys: record.keys,
            missing: record.missing,
            errors: record.errors,
            unsent,
            latency: record.all(),
            reads: class(Class::Read),
            writes: class(Class::Write),
            cpu_us_per_op: window.servers_cpu_us.and_then(per_op),
            client_cpu_us_per_op: per_op(window.own_cpu_us),
            rss_max_bytes: window.rss_max_bytes,
            error_reasons: std::mem::take(&mut record.reasons),
            workload,
        }
    }

    /// One JSON object on one line.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|line| line + "\n")
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("workload", self.workload.clone()),
            ("load", self.shape()),
            ("operations", format!("{} in {:.1} s", grouped(self.ops), self.elapsed_s)),
            ("throughput", format!("{} per second", grouped(self.ops_per_sec.round() as u64))),
        ];
        if self.ops > 0 {
            rows.push(("latency", latency_row(&self.latency)));
        }
        rows.extend(self.reads.as_ref().map(|latency| ("  reads", latency_row(latency))));
        rows.extend(self.writes.as_ref().map(|latency| ("  writes", latency_row(latency))));
        if self.keys + self.missing != self.ops {
            let rate = (self.keys as f64 / self.elapsed_s).round() as u64;
            rows.push(("keys", format!("{}, {} per second", grouped(self.keys), grouped(rate))));
        }
        if self.missing > 0 {
            rows.push(("missing keys", format!("{} (`fill` writes them)", grouped(self.missing))));
        }
        if self.unsent > 0 {
            rows.push(("not started", format!("{}: the servers fell behind --rate", grouped(self.unsent))));
        }
        rows.extend(self.cpu_us_per_op.map(|us| ("server CPU", format!("{us:.1} us per operation"))));
        rows.extend(self.client_cpu_us_per_op.map(|us| ("client CPU", format!("{us:.1} us per operation"))));
        rows.extend(
            self.rss_max_bytes.map(|bytes| ("server memory", format!("{} MiB at its peak", bytes >> 20))),
        );
        rows.push(("errors", grouped(self.errors)));
        rows.extend(
            self.error_reasons.iter().map(|(reason, count)| ("", format!("{} x {reason}", grouped(*count)))),
        );
        rows.iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<14} {value}");
            text
        })
    }

    fn shape(&self) -> String {
        let servers =
            if self.target_leader { "the leader".to_owned() } else { counted(self.endpoints, "server") };
        let conns = counted(self.conns, "connection");
        format!("{} on {conns} to {servers}", counted(self.clients, "client"))
    }
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn latency_row(latency: &Latency) -> String {
    let Latency { mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latency;
    format!(
        "mean {mean_ms:.2}  p50 {p50_ms:.2}  p90 {p90_ms:.2}  p99 {p99_ms:.2}  p99.9 {p999_ms:.2}  max {max_ms:.2} ms"
    )
}

/// A number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: thousands are told apart. Method: numbers around the places of commas.
    #[test]
    fn thousands_are_grouped() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
