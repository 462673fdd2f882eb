//! CPU time and memory of processes, from /proc.

use std::{fs, io};

use thiserror::Error;

/// Microseconds of the clock tick in which /proc counts CPU time: `USER_HZ` is 100 in the kernel's interface on every
/// architecture that this builds for, whatever the kernel's own tick is.
const TICK_US: u64 = 10_000;

/// Fields of /proc/PID/stat, counted from the one after the command's name: user and system time of all threads.
const STAT_UTIME: usize = 11;
const STAT_STIME: usize = 12;

/// Why a process could not be looked at.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It is not there, or not ours to see.
    #[error("read {path}: is the process of --pid running on this machine?")]
    Read {
        /// What we tried to read.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel writes it otherwise than we know.
    #[error("read {path}: {field} is missing")]
    Format {
        /// What we read.
        path: String,
        /// What we looked for.
        field: &'static str,
    },
}

/// The servers under load.
pub struct Servers {
    pids: Vec<u32>,
}

impl Servers {
    /// The processes with these ids.
    pub fn new(pids: &[u32]) -> Servers {
        Servers { pids: pids.to_vec() }
    }

    /// CPU time that all of them took since their start; `None` without any.
    pub fn cpu_us(&self) -> Result<Option<u64>, ProcessError> {
        self.pids
            .iter()
            .map(|pid| cpu_us(&pid.to_string()))
            .try_fold(None, |sum, cpu| Ok(Some(sum.unwrap_or(0) + cpu?)))
    }

    /// The most memory that any of them ever had resident; `None` without any.
    pub fn rss_max_bytes(&self) -> Result<Option<u64>, ProcessError> {
        self.pids.iter().map(|pid| rss_max_bytes(*pid)).try_fold(None, |max, rss| Ok(max.max(Some(rss?))))
    }
}

/// CPU time that this process took since its start.
pub fn own_cpu_us() -> Result<u64, ProcessError> {
    cpu_us("self")
}

fn cpu_us(process: &str) -> Result<u64, ProcessError> {
    let path = format!("/proc/{process}/stat");
    let text = read(&path)?;
    parse_cpu_us(&text).ok_or(ProcessError::Format { path, field: "CPU time" })
}

fn rss_max_bytes(pid: u32) -> Result<u64, ProcessError> {
    let path = format!("/proc/{pid}/status");
    let text = read(&path)?;
    parse_rss_max_bytes(&text).ok_or(ProcessError::Format { path, field: "VmHWM" })
}

fn read(path: &str) -> Result<String, ProcessError> {
    fs::read_to_string(path).map_err(|source| ProcessError::Read { path: path.to_owned(), source })
}

fn parse_cpu_us(stat: &str) -> Option<u64> {
    // The command's name may hold spaces and parentheses; the last closing one ends it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some((ticks(STAT_UTIME)? + ticks(STAT_STIME)?) * TICK_US)
}

fn parse_rss_max_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the right fields are read, whatever the command's name. Method: a line as the kernel writes it.
    #[test]
    fn stat_and_status_are_parsed() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 200 0 0 1234 66 7 8 20 0 5 0 99 1000 10 1\n";
        assert_eq!(parse_cpu_us(stat), Some(13_000_000));
        assert_eq!(parse_cpu_us("42 (a"), None);
        let status = "Name:\ta\nVmPeak:\t  99 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_rss_max_bytes(status), Some(2 << 20));
        assert_eq!(parse_rss_max_bytes("Name:\tkthread\n"), None);
    }

    /// Goal: a process that is not there is named. Method: ids above what the kernel gives out.
    #[test]
    fn a_missing_process_is_an_error() {
        let servers = Servers::new(&[u32::MAX]);
        assert!(servers.cpu_us().unwrap_err().to_string().contains("/proc/4294967295/stat"));
        assert!(servers.rss_max_bytes().is_err());
        assert_eq!(Servers::new(&[]).cpu_us().unwrap(), None);
        assert!(own_cpu_us().is_ok());
    }
}
