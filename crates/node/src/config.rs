//! Command line and environment, parsed once into a [`Config`] that cannot be wrong.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvorum_store::feature::FEATURE_LEVEL_MAX;
use kvorum_tls::{Mode, Paths};

use crate::audit::Level;
use crate::limits::Limits;
use crate::net::budget::SEND_BUDGET_BYTES;
use crate::net::workers::workers;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The largest `--request-bytes-max`: a log entry and a peer's message hold whole requests.
const REQUEST_BYTES_CEILING: u64 = 8 * MIB;
/// The smallest `--cache-bytes` with which RocksDB works at all.
const CACHE_BYTES_FLOOR: u64 = 8 * MIB;
/// A shorter election timeout than this is lost in the noise of a busy machine.
const ELECTION_TIMEOUT_MS_FLOOR: u64 = 100;
/// A longer one leaves the cluster without a leader for minutes.
const ELECTION_TIMEOUT_MS_CEILING: u64 = 60_000;

/// Whoever sends clients here follows within this, or never does.
const SHUTDOWN_DELAY_CEILING: Duration = Duration::from_secs(600);

/// A member of a Kvorum cluster.
#[derive(Debug, Parser)]
#[command(name = "kvorum-node", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do other than to run a node.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// The node's flags.
    #[command(flatten)]
    pub flags: Flags,
}

/// What the binary does beside running a node.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Read a stopped node's whole data directory and name every damaged file
    Verify {
        /// The data directory
        #[arg(long, env = "KVORUM_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// The flags of a node as they were given.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Where the node keeps its log and its store; made if it does not exist
    #[arg(long, env = "KVORUM_DATA_DIR", value_name = "DIR", default_value = "kvorum-data")]
    pub data_dir: PathBuf,

    /// host:port to listen on for clients (gRPC)
    #[arg(long, env = "KVORUM_LISTEN_CLIENT", value_name = "ADDR", default_value = "127.0.0.1:2379")]
    pub listen_client: String,

    /// host:port to listen on for the other members and for administration (gRPC)
    #[arg(long, env = "KVORUM_LISTEN_PEER", value_name = "ADDR", default_value = "127.0.0.1:2380")]
    pub listen_peer: String,

    /// host:port to listen on for /metrics, /livez, /readyz and /version (HTTP)
    #[arg(long, env = "KVORUM_LISTEN_HTTP", value_name = "ADDR", default_value = "127.0.0.1:2381")]
    pub listen_http: String,

    /// host:port under which clients reach this node [default: that of --listen-client]
    #[arg(long, env = "KVORUM_ADVERTISE_CLIENT", value_name = "ADDR")]
    pub advertise_client: Option<String>,

    /// host:port under which the other members reach this node; a disk keeps the one under which it
    /// joined, and serves nothing but admin.v1 Status under another [default: that of --listen-peer]
    #[arg(long, env = "KVORUM_ADVERTISE_PEER", value_name = "ADDR")]
    pub advertise_peer: Option<String>,

    /// What a node with an empty disk does: wait to be told by `kvorum cluster init` or by the
    /// operator, or found a cluster of its own; a restored snapshot takes `single`
    #[arg(long, env = "KVORUM_BOOTSTRAP", value_enum, default_value_t = Bootstrap::Wait)]
    pub bootstrap: Bootstrap,

    /// The only cluster whose disk is started on, and which an empty disk founds or joins: its id as
    /// `kvorum status` prints it, 16 hexadecimal digits; 16 decimal digits are hexadecimal too. Hexadecimal
    /// digits after 0x are read as well, and decimal numbers of any other length
    #[arg(long, env = "KVORUM_CLUSTER_ID", value_name = "ID", value_parser = parse_id)]
    pub cluster_id: Option<u64>,

    /// Serve nothing but admin.v1 Status on a disk whose incarnation of its cluster is lower: the
    /// cluster was recovered without it; an empty disk joins no such cluster
    #[arg(long, env = "KVORUM_INCARNATION_MIN", value_name = "N", default_value_t = 0)]
    pub incarnation_min: u64,

    /// How long history is kept for reads and watches of older revisions, as the leader has it, e.g.
    /// 30m or 1h; 0: for ever
    #[arg(long, env = "KVORUM_AUTO_COMPACTION_RETENTION", value_name = "DURATION",
          default_value = "1h", value_parser = parse_duration)]
    pub auto_compaction_retention: Duration,

    /// Milliseconds from 100 to 60000; a member that heard nothing of its leader for between one and a
    /// half and two times as long stands for election
    #[arg(long, env = "KVORUM_ELECTION_TIMEOUT_MS", value_name = "MS", default_value_t = 750)]
    pub election_timeout_ms: u64,

    /// Milliseconds between the leader's heartbeats, at most a quarter of --election-timeout-ms
    /// [default: a fifth of it]
    #[arg(long, env = "KVORUM_HEARTBEAT_INTERVAL_MS", value_name = "MS")]
    pub heartbeat_interval_ms: Option<u64>,

    /// The largest request, in bytes (1536KiB and 2MiB are understood too), from 1KiB to 8MiB
    #[arg(long, env = "KVORUM_REQUEST_BYTES_MAX", value_name = "BYTES", default_value = "1536KiB",
          value_parser = parse_bytes)]
    pub request_bytes_max: u64,

    /// Memory for the store's caches and write buffers, in bytes, at least 8MiB
    #[arg(long, env = "KVORUM_CACHE_BYTES", value_name = "BYTES", default_value = "96MiB",
          value_parser = parse_bytes)]
    pub cache_bytes: u64,

    /// Refuse writes that grow the store beyond so many bytes of keys, values and history; the leader's
    /// flag holds for all members; 0: never
    #[arg(long, env = "KVORUM_QUOTA_BYTES", value_name = "BYTES", default_value = "0",
          value_parser = parse_bytes)]
    pub quota_bytes: u64,

    /// Raft log kept for members that were away, in bytes, and no more than a quarter of the disk; those
    /// that missed more get a snapshot
    #[arg(long, env = "KVORUM_LOG_RETAIN_BYTES", value_name = "BYTES", default_value = "256MiB",
          value_parser = parse_bytes)]
    pub log_retain_bytes: u64,

    /// The leader compares what members hold, all keys of all members, and begins anew so often; 0s: never
    #[arg(long, env = "KVORUM_COMPARE_INTERVAL", value_name = "DURATION", default_value = "2m", hide = true,
          value_parser = parse_duration)]
    pub compare_interval: Duration,

    /// How long a node that was told to stop goes on serving clients, old and new ones, while /readyz says
    /// that it is not ready: as long as load balancers may take to follow; at most 10m
    #[arg(long, env = "KVORUM_SHUTDOWN_DELAY", value_name = "DURATION", default_value = "0",
          value_parser = parse_duration)]
    pub shutdown_delay: Duration,

    /// The highest feature level that this node takes part in, as if it were of an older release: for tests
    #[arg(long, env = "KVORUM_FEATURE_LEVEL_MAX", value_name = "N", default_value_t = FEATURE_LEVEL_MAX,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(FEATURE_LEVEL_MAX)), hide = true)]
    pub feature_level_max: u32,

    /// Bytes that may wait to be sent to clients, on all connections
    #[arg(long, env = "KVORUM_SEND_BUDGET_BYTES", value_name = "BYTES", hide = true,
          default_value_t = SEND_BUDGET_BYTES, value_parser = parse_bytes)]
    pub send_budget_bytes: u64,

    /// How long a client may take nothing of a stream before the stream ends
    #[arg(long, env = "KVORUM_SEND_PATIENCE", value_name = "DURATION", hide = true,
          default_value = "60s", value_parser = parse_duration)]
    pub send_patience: Duration,

    /// Whether the client port and the peer port speak TLS: off, optional (with TLS or without, as whoever
    /// connects begins; to other members with TLS, or without where they do not speak it), required
    #[arg(long, env = "KVORUM_TLS", value_enum, default_value_t = TlsMode::Off)]
    pub tls: TlsMode,

    /// The directory with this member's certificate (tls.crt), its key (tls.key) and the CAs that the cluster
    /// believes (ca.crt); it is read again every 10 s, and what fits together is taken
    #[arg(long, env = "KVORUM_TLS_DIR", value_name = "DIR", default_value = "/etc/kvorum/tls")]
    pub tls_dir: PathBuf,

    /// A file with further CAs whose certificates clients may show, on the client port alone: each one's common
    /// name is a user, but never root. It need not be there yet, and is read again every 10 s
    #[arg(long, env = "KVORUM_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// A directory with another certificate (tls.crt) and its key (tls.key), for names outside of the cluster: the client
    /// port shows it to whoever asks for one of its names. They need not be there yet, and are read again every 10 s
    #[arg(long, env = "KVORUM_TLS_OUTSIDE_DIR", value_name = "DIR")]
    pub tls_outside_dir: Option<PathBuf>,

    /// Writes a line of JSON to standard output for each call: who did what to which keys, and what came of it; never
    /// values, passwords or tokens. off; writes (of keys, users, rights and the cluster, log-ins and snapshots); all
    /// (reads, too)
    #[arg(long, env = "KVORUM_AUDIT", value_enum, default_value_t = Level::Off)]
    pub audit: Level,

    /// How the log on standard error is written
    #[arg(long, env = "KVORUM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or directives such as info,kvorum_node=debug
    #[arg(long, env = "KVORUM_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Whether ports speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// Nobody is asked who he is, and everything can be read on the wire.
    Off,
    /// With TLS or without.
    Optional,
    /// With TLS only.
    Required,
}

/// What a node with an empty disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bootstrap {
    /// It stays Unjoined until it is told.
    Wait,
    /// It founds a cluster of one member.
    Single,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a node is to run. Made by [`Flags::validate`] only.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the store are.
    pub data_dir: PathBuf,
    /// host:port for clients.
    pub listen_client: String,
    /// host:port for members.
    pub listen_peer: String,
    /// host:port for HTTP.
    pub listen_http: String,
    /// What clients are told; without it, the address that was bound.
    pub advertise_client: Option<String>,
    /// What members are told; without it, the address that was bound.
    pub advertise_peer: Option<String>,
    /// What to do with an empty disk.
    pub bootstrap: Bootstrap,
    /// The only cluster whose disk is acceptable.
    pub cluster_id: Option<u64>,
    /// The lowest incarnation that is served.
    pub incarnation_min: u64,
    /// How long history is kept; `None`: for ever.
    pub auto_compaction_retention: Option<Duration>,
    /// The leader's lease; after it, half as long to as long again goes by before an election.
    pub election_timeout: Duration,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// The largest request in bytes.
    pub request_bytes_max: usize,
    /// Memory for the store.
    pub cache_bytes: usize,
    /// The store's quota in logical bytes; 0: none.
    pub quota_bytes: u64,
    /// Bytes of raft log kept for members that lag.
    pub log_retain_bytes: u64,
    /// How often the leader begins to compare what members hold; zero: never.
    pub compare_interval: Duration,
    /// How long it goes on serving after it was told to stop.
    pub shutdown_delay: Duration,
    /// The highest feature level that this node takes part in.
    pub feature_level_max: u32,
    /// Bytes that may wait to be sent to clients.
    pub send_budget_bytes: usize,
    /// How long a client may take nothing of a stream.
    pub send_patience: Duration,
    /// Threads that serve clients; 0: the node's own does, as it should where cores are few.
    pub client_threads: usize,
    /// How the ports speak TLS, if they do.
    pub tls: Option<TlsConfig>,
    /// What only much at once reaches.
    pub limits: Limits,
}

/// How the ports speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Whether they speak without it too.
    pub mode: Mode,
    /// Where certificate, key and CAs are.
    pub paths: Paths,
}

/// A flag that cannot work. Its message says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Flags {
    /// Checks what can be checked without touching disk or network.
    pub fn validate(self) -> Result<Config, ConfigError> {
        for (flag, address) in [
            ("--listen-client", &self.listen_client),
            ("--listen-peer", &self.listen_peer),
            ("--listen-http", &self.listen_http),
        ] {
            check_address(flag, address)?;
        }
        check_distinct(&[&self.listen_client, &self.listen_peer, &self.listen_http])?;
        check_advertised("client", &self.listen_client, self.advertise_client.as_deref())?;
        check_advertised("peer", &self.listen_peer, self.advertise_peer.as_deref())?;
        let heartbeat_ms = self.heartbeat_interval_ms.unwrap_or(self.election_timeout_ms / 5);
        check_times(self.election_timeout_ms, heartbeat_ms)?;
        check_sizes(self.request_bytes_max, self.cache_bytes)?;
        if self.cluster_id == Some(0) {
            return Err(ConfigError(
                "--cluster-id cannot be 0; leave it out to take any cluster's disk".into(),
            ));
        }
        if self.shutdown_delay > SHUTDOWN_DELAY_CEILING {
            return Err(ConfigError(format!(
                "--shutdown-delay {:?} must be at most {SHUTDOWN_DELAY_CEILING:?}",
                self.shutdown_delay
            )));
        }
        let retention = self.auto_compaction_retention;
        Ok(Config {
            data_dir: self.data_dir,
            listen_client: self.listen_client,
            listen_peer: self.listen_peer,
            listen_http: self.listen_http,
            advertise_client: self.advertise_client,
            advertise_peer: self.advertise_peer,
            bootstrap: self.bootstrap,
            cluster_id: self.cluster_id,
            incarnation_min: self.incarnation_min,
            auto_compaction_retention: (!retention.is_zero()).then_some(retention),
            election_timeout: Duration::from_millis(self.election_timeout_ms),
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            request_bytes_max: self.request_bytes_max as usize,
            cache_bytes: self.cache_bytes as usize,
            quota_bytes: self.quota_bytes,
            log_retain_bytes: self.log_retain_bytes,
            compare_interval: self.compare_interval,
            shutdown_delay: self.shutdown_delay,
            feature_level_max: self.feature_level_max,
            send_budget_bytes: self.send_budget_bytes as usize,
            send_patience: self.send_patience,
            client_threads: workers(available_parallelism().map_or(1, NonZero::get)),
            tls: tls_config(self.tls, &self.tls_dir, self.tls_client_ca, self.tls_outside_dir.as_deref())?,
            limits: Limits::default(),
        })
    }
}

fn tls_config(
    mode: TlsMode,
    dir: &Path,
    client_ca: Option<PathBuf>,
    outside: Option<&Path>,
) -> Result<Option<TlsConfig>, ConfigError> {
    let mode = match mode {
        TlsMode::Off if client_ca.is_some() => {
            return Err(ConfigError(
                "--tls-client-ca says whose certificates are taken, and --tls is off; set --tls required"
                    .into(),
            ));
        }
        TlsMode::Off if outside.is_some() => {
            return Err(ConfigError(
                "--tls-outside-dir holds a certificate to show, and --tls is off; set --tls required".into(),
            ));
        }
        TlsMode::Off => return Ok(None),
        TlsMode::Optional => Mode::Optional,
        TlsMode::Required => Mode::Required,
    };
    let paths = Paths { client_ca, ..Paths::in_directory(dir) };
    let paths = outside.map_or(paths.clone(), |outside| paths.with_outside(outside));
    Ok(Some(TlsConfig { mode, paths }))
}

fn check_address(flag: &str, address: &str) -> Result<(), ConfigError> {
    split_address(address).map(|_| ()).ok_or_else(|| {
        ConfigError(format!(
            "{flag} '{address}' is no host:port; write for example 127.0.0.1:2379 or [::]:2379"
        ))
    })
}

/// Host and port of an address; IPv6 hosts are in brackets.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    fits.then_some(())?;
    Some((host, port.parse().ok()?))
}

fn check_distinct(listen: &[&String]) -> Result<(), ConfigError> {
    for (at, address) in listen.iter().enumerate() {
        let any_port = split_address(address).is_some_and(|(_, port)| port == 0);
        if !any_port && listen[..at].contains(address) {
            return Err(ConfigError(format!(
                "two of --listen-client, --listen-peer and --listen-http are {address}; give each its own port"
            )));
        }
    }
    Ok(())
}

/// Others cannot dial 0.0.0.0, so a node that listens everywhere must say where it is.
fn check_advertised(what: &str, listen: &str, advertised: Option<&str>) -> Result<(), ConfigError> {
    let everywhere =
        |address: &str| split_address(address).is_some_and(|(host, _)| matches!(host, "0.0.0.0" | "[::]"));
    match advertised {
        None if everywhere(listen) => Err(ConfigError(format!(
            "--listen-{what} {listen} listens on every address, so --advertise-{what} must say which one to dial"
        ))),
        Some(address) if everywhere(address) => Err(ConfigError(format!(
            "--advertise-{what} {address} cannot be dialled; give the host name or address others use"
        ))),
        Some(address) => check_address(&format!("--advertise-{what}"), address),
        None => Ok(()),
    }
}

fn check_times(election_ms: u64, heartbeat_ms: u64) -> Result<(), ConfigError> {
    if !(ELECTION_TIMEOUT_MS_FLOOR..=ELECTION_TIMEOUT_MS_CEILING).contains(&election_ms) {
        return Err(ConfigError(format!(
            "--election-timeout-ms {election_ms} must be from {ELECTION_TIMEOUT_MS_FLOOR} to {ELECTION_TIMEOUT_MS_CEILING}"
        )));
    }
    // Members on a busy machine hear late: several heartbeats must fall into the leader's lease, which is
    // one timeout long.
    if heartbeat_ms == 0 || heartbeat_ms > election_ms / 4 {
        return Err(ConfigError(format!(
            "--heartbeat-interval-ms {heartbeat_ms} must be from 1 to {}, a quarter of --election-timeout-ms",
            election_ms / 4
        )));
    }
    Ok(())
}

fn check_sizes(request_bytes: u64, cache_bytes: u64) -> Result<(), ConfigError> {
    if !(KIB..=REQUEST_BYTES_CEILING).contains(&request_bytes) {
        return Err(ConfigError(format!(
            "--request-bytes-max {request_bytes} must be from {KIB} to {REQUEST_BYTES_CEILING}"
        )));
    }
    if cache_bytes < CACHE_BYTES_FLOOR {
        return Err(ConfigError(format!("--cache-bytes {cache_bytes} must be at least {CACHE_BYTES_FLOOR}")));
    }
    Ok(())
}

/// Digits of an id where it is printed: all of them, always.
const ID_DIGITS: usize = 16;

/// An id in any of the ways that it may have been written down. What is printed comes first, so that 16
/// decimal digits are no decimal number, as they were before ids could be given as they are printed: one in
/// two thousand ids has so few. Whoever gives such a one in decimal is refused at the start, with both ids.
fn parse_id(text: &str) -> Result<u64, String> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None if text.len() == ID_DIGITS => (text, 16),
        None => (text, 10),
    };
    let id = u64::from_str_radix(digits, radix).ok();
    // A sign is no digit.
    id.filter(|_| !digits.starts_with('+'))
        .ok_or_else(|| "an id is 16 hexadecimal digits, as `kvorum status` prints it".into())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => 1024 * MIB,
        _ => return Err("the units are KiB, MiB and GiB".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "bytes are a whole number, such as 1048576 or 1MiB")?;
    number.checked_mul(unit).ok_or_else(|| "that is too many bytes".into())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| "a duration is a number with a unit, such as 90s, 30m or 1h".into())
}

#[cfg(test)]
mod tests;
