//! The table that sets systems side by side.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use thiserror::Error;

use crate::report::{Report, grouped};

/// Why there is no table.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no report.
    #[error("{}, line {line}: not a report as --json writes it", path.display())]
    Parse {
        /// In which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A table in Markdown of the reports in `files`, one row for each workload and system in the order of their first
/// appearance; runs of the same thing become their mean. Under it the figures of one system of each pair, divided by those
/// of the other.
pub fn table(files: &[PathBuf], pairs: &[(String, String)]) -> Result<String, CompareError> {
    let mut reports = Vec::new();
    for path in files {
        reports.extend(read(path)?);
    }
    Ok(render(&reports, pairs))
}

fn read(path: &Path) -> Result<Vec<Report>, CompareError> {
    let text =
        fs::read_to_string(path).map_err(|source| CompareError::Read { path: path.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|source| CompareError::Parse {
                path: path.to_owned(),
                line: number + 1,
                source,
            })
        })
        .collect()
}

/// What makes runs comparable.
#[derive(PartialEq)]
struct Shape<'a> {
    workload: &'a str,
    clients: usize,
    conns: usize,
    value_bytes: usize,
}

fn shape(report: &Report) -> Shape<'_> {
    let Report { workload, clients, conns, value_bytes, .. } = report;
    Shape { workload, clients: *clients, conns: *conns, value_bytes: *value_bytes }
}

fn render(reports: &[Report], pairs: &[(String, String)]) -> String {
    let mut text = String::from(
        "| workload | clients/conns | system | ops/s | server CPU us/op | p50 ms | p99 ms | p99.9 ms | peak RSS MiB | client CPU us/op | errors |\n\
         |---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut ratios = String::new();
    for shape in distinct(reports.iter().map(shape)) {
        let of = |label: &str| -> Vec<&Report> {
            reports.iter().filter(|report| self::shape(report) == shape && report.label == label).collect()
        };
        let labels =
            reports.iter().filter(|report| self::shape(report) == shape).map(|report| report.label.as_str());
        for label in distinct(labels) {
            row(&mut text, &shape, label, &of(label));
        }
        for (one, other) in pairs {
            ratio(&mut ratios, &shape, (one, other), [of(one), of(other)]);
        }
    }
    if !ratios.is_empty() {
        text.push_str(
            "\n| workload | clients/conns | system | ops/s, times | server CPU, of | p99, of |\n|---|---|---|---:|---:|---:|\n",
        );
        text.push_str(&ratios);
    }
    text
}

fn row(text: &mut String, shape: &Shape<'_>, label: &str, runs: &[&Report]) {
    let of = |figure: fn(&Report) -> Option<f64>| Mean::of(runs, figure);
    let rss = runs.iter().filter_map(|run| run.rss_max_bytes).max();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| {} | {}/{} | {label} | {} | {} | {} | {} | {} | {} | {} | {} |",
        shape.workload,
        shape.clients,
        shape.conns,
        cell(of(|run| Some(run.ops_per_sec)), |mean| grouped(mean.round() as u64)),
        cell(of(|run| run.cpu_us_per_op), |mean| format!("{mean:.1}")),
        cell(of(|run| Some(run.latency.p50_ms)), |mean| format!("{mean:.2}")),
        cell(of(|run| Some(run.latency.p99_ms)), |mean| format!("{mean:.2}")),
        cell(of(|run| Some(run.latency.p999_ms)), |mean| format!("{mean:.2}")),
        rss.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string()),
        cell(of(|run| run.client_cpu_us_per_op), |mean| format!("{mean:.1}")),
        runs.iter().map(|run| run.errors).sum::<u64>(),
    );
}

fn ratio(
    text: &mut String,
    shape: &Shape<'_>,
    (one, other): (&str, &str),
    [ours, theirs]: [Vec<&Report>; 2],
) {
    let of = |figure: fn(&Report) -> Option<f64>| {
        let (ours, theirs) = (Mean::of(&ours, figure)?, Mean::of(&theirs, figure)?);
        Some(ours.mean / theirs.mean)
    };
    let Some(throughput) = of(|run| Some(run.ops_per_sec)) else { return };
    let percent = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{:.0}%", ratio * 100.0));
    let _ = writeln!(
        text,
        "| {} | {}/{} | {one}, of {other}'s | {throughput:.2} | {} | {} |",
        shape.workload,
        shape.clients,
        shape.conns,
        percent(of(|run| run.cpu_us_per_op)),
        percent(of(|run| Some(run.latency.p99_ms))),
    );
}

/// The mean of some runs, and how far the furthest is from it.
struct Mean {
    mean: f64,
    spread: f64,
    runs: usize,
}

impl Mean {
    /// The mean over the runs that have this figure; `None` when none has.
    fn of(runs: &[&Report], figure: fn(&Report) -> Option<f64>) -> Option<Mean> {
        let values: Vec<f64> = runs.iter().filter_map(|run| figure(run)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let spread = values.iter().map(|value| (value - mean).abs()).fold(0.0, f64::max);
        (!values.is_empty()).then_some(Mean { mean, spread, runs: values.len() })
    }
}

fn cell(mean: Option<Mean>, format: impl Fn(f64) -> String) -> String {
    match mean {
        None => "-".to_owned(),
        Some(Mean { mean, runs: 1, .. }) => format(mean),
        Some(Mean { mean, spread, .. }) => {
            let percent = if mean > 0.0 { spread / mean * 100.0 } else { 0.0 };
            format!("{} ±{percent:.0}%", format(mean))
        }
    }
}

/// Each thing once, in the order of its first appearance.
fn distinct<T: PartialEq>(things: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for thing in things {
        if !distinct.contains(&thing) {
            distinct.push(thing);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(label: &str, ops_per_sec: f64, cpu_us_per_op: Option<f64>) -> Report {
        let json = serde_json::json!({
            "label": label, "workload": "put", "api": "kv", "endpoints": 3, "target_leader": false,
            "clients": 100, "conns": 10, "rate": null, "key_bytes": 16, "value_bytes": 256, "key_space": 10,
            "elapsed_s": 1.0, "ops": 10, "ops_per_sec": ops_per_sec, "keys": 10, "missing": 0, "errors": 0,
            "error_reasons": {}, "unsent": 0, "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 2.0,
            "p999_ms": 3.0, "max_ms": 4.0, "reads": null, "writes": null, "cpu_us_per_op": cpu_us_per_op,
            "client_cpu_us_per_op": 20.0, "rss_max_bytes": 1u64 << 30,
        });
        serde_json::from_value(json).unwrap()
    }

    /// Goal: runs of one system become their mean, and the ratio is that of the means. Method: A B B A.
    #[test]
    fn ratios_are_those_of_the_means() {
        let reports = [
            report("kvorum", 9_000.0, Some(90.0)),
            report("etcd", 5_000.0, Some(220.0)),
            report("etcd", 7_000.0, Some(180.0)),
            report("kvorum", 11_000.0, Some(70.0)),
        ];
        let text = render(&reports, &[("kvorum".into(), "etcd".into())]);
        assert!(text.contains("| put | 100/10 | kvorum | 10,000 ±10% | 80.0 ±12% | 1.00 ±0% |"), "{text}");
        assert!(text.contains("| etcd | 6,000 ±17% | 200.0 ±10% |"), "{text}");
        assert!(text.contains("| put | 100/10 | kvorum, of etcd's | 1.67 | 40% | 100% |"), "{text}");
    }

    /// Goal: one system alone has rows and no ratios. Method: a single run without server figures.
    #[test]
    fn one_system_has_no_ratio() {
        let text = render(&[report("echo", 40_000.0, None)], &[("kvorum".into(), "etcd".into())]);
        assert!(text.contains("| echo | 40,000 | - |"), "{text}");
        assert!(!text.contains("times"), "{text}");
    }
}
