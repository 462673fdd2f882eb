//! Sizes and times as people read them.

use std::time::Duration;

/// A number of bytes with a binary unit: `17 B`, `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A time with its largest units, to the tenth of a second below a minute: `4.2s`, `1h 30m`.
pub fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    if duration < Duration::from_secs(60) {
        return format!("{}s", (duration.as_secs_f64() * 10.0).floor() / 10.0);
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// A noun with its count: `1 key`, `2 keys`.
pub fn count(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    //! Goal: sizes and times read well at every magnitude. Method: tables.
    use super::*;

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn times() {
        for (ms, text) in [(0, "0ms"), (999, "999ms"), (4_250, "4.2s"), (5_000, "5s"), (5_400_000, "1h 30m")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
