//! The command line.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvorum_tls::{ClientTls, MaterialError, Paths};
use thiserror::Error;

use crate::endpoint::Endpoint;
use crate::workload::{Consistency, Workload};

/// How long a run takes when neither its length nor its number of operations is given.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Clients that share a connection when the number of connections is not given.
const CLIENTS_PER_CONNECTION: usize = 10;

/// Load generator for Kvorum and for any etcd v3 endpoint.
#[derive(Debug, Parser)]
#[command(name = "kvorum-bench", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write keys
    Put(LoadArgs),
    /// Read keys (`fill` writes them first)
    Get(GetArgs),
    /// Read and write keys
    Mixed(MixedArgs),
    /// Read pages of a range
    Scan(ScanArgs),
    /// Write keys while many watchers follow; latency is from the write's start to the event's arrival
    Watch(WatchArgs),
    /// Write every key of the key space once
    Fill(FillArgs),
    /// Answer kv.v1 reads and writes from memory: what gRPC alone can do
    EchoServer(EchoArgs),
    /// Open connections (--conns), all at once, and have each make a call
    #[command(hide = true)]
    Connect(ConnectArgs),
    /// Log in (--user) again and again (--rate), over one connection
    #[command(hide = true)]
    LogIn(LogInArgs),
    /// Let a ServiceAccount do everything with all keys, and others no more: declares the issuer of its tokens
    #[command(hide = true)]
    Declare(DeclareArgs),
    /// Make a table in Markdown of reports that were written with --json --label
    Compare(CompareArgs),
}

/// Which API to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// Kvorum's own, kv.v1
    Kv,
    /// etcd v3
    Etcd,
}

/// What every load has.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Servers, HOST:PORT each; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", env = "KVORUM_ENDPOINTS")]
    pub endpoints: Vec<Endpoint>,
    /// Speak TLS, with servers whose certificates these CAs have signed
    #[arg(long, value_name = "FILE", env = "KVORUM_CACERT")]
    pub cacert: Option<PathBuf>,
    /// A certificate of our own
    #[arg(long, value_name = "FILE", env = "KVORUM_CERT", requires_all = ["key", "cacert"])]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", env = "KVORUM_KEY", requires_all = ["cert", "cacert"])]
    pub key: Option<PathBuf>,
    /// Log in as this user; the password is sent once, and its token with every request
    #[arg(long, value_name = "NAME:PASSWORD", env = "KVORUM_USER", hide_env_values = true,
          value_parser = parse_user, requires = "cacert", conflicts_with = "token_file")]
    pub user: Option<User>,
    /// Send the token in this file, of a ServiceAccount say, with every request
    #[arg(long, value_name = "FILE", env = "KVORUM_TOKEN_FILE", requires = "cacert")]
    pub token_file: Option<PathBuf>,
    /// API to speak
    #[arg(long, value_enum, default_value = "kv")]
    pub api: Api,
    /// Connect to the leader only, as its own API names it
    #[arg(long)]
    pub target_leader: bool,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    pub clients: usize,
    /// Connections that the clients share [default: one for 10 clients]
    #[arg(long, value_parser = parse_count)]
    pub conns: Option<usize>,
    /// End after so many requests
    #[arg(long, conflicts_with = "duration")]
    pub total: Option<NonZeroU64>,
    /// End after so many seconds [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub duration: Option<Duration>,
    /// Start so many requests a second whether or not the servers keep up, and count latency from the moment a
    /// request should have started [default: each client goes on as soon as it is answered]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<NonZeroU64>,
    /// Bytes of a key
    #[arg(long, default_value_t = 16, value_parser = parse_key_bytes)]
    pub key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = parse_value_bytes)]
    pub val_size: usize,
    /// Number of different keys
    #[arg(long, default_value = "100000")]
    pub key_space: NonZeroU64,
    /// Go through the keys in order instead of at random
    #[arg(long)]
    pub sequential: bool,
    /// Seed of the random choice of keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Process ids of the servers, on this machine: report their CPU and memory too
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Name of the measured system, for `compare`
    #[arg(long, default_value = "")]
    pub label: String,
}

/// A user and his password.
#[derive(Clone)]
pub struct User {
    /// His name.
    pub name: String,
    /// His password, which nothing prints.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.name)
    }
}

/// How reads are answered.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReadArgs {
    /// Reads see every write acknowledged before them (the default)
    #[arg(long, conflicts_with = "serializable")]
    pub linearizable: bool,
    /// The asked server answers from its own state, which may be stale
    #[arg(long)]
    pub serializable: bool,
}

/// `get`
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// How reads are answered.
    #[command(flatten)]
    pub reads: ReadArgs,
    /// What every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `mixed`
#[derive(Clone, Debug, Args)]
pub struct MixedArgs {
    /// How reads are answered.
    #[command(flatten)]
    pub reads: ReadArgs,
    /// Reads of 100 requests
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// What every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `scan`
#[derive(Clone, Debug, Args)]
pub struct ScanArgs {
    /// How reads are answered.
    #[command(flatten)]
    pub reads: ReadArgs,
    /// Keys of one scan, from a key of the key space on
    #[arg(long, default_value = "500")]
    pub limit: NonZeroU64,
    /// What every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `watch`
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Watchers, each a stream of its own, over connections of their own (as many as the writers have)
    #[arg(long, default_value_t = 100, value_parser = parse_count)]
    pub watchers: usize,
    /// The writers, and what every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `fill`
#[derive(Clone, Debug, Args)]
pub struct FillArgs {
    /// Keys of one atomic request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=128))]
    pub batch: u64,
    /// What every load has; the key space is what is filled.
    #[command(flatten)]
    load: LoadArgs,
}

/// `connect`
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Come from so many addresses of this machine, 127.0.1.1 and up [default: from whichever the system chooses]
    #[arg(long, value_parser = parse_count)]
    pub sources: Option<usize>,
    /// Keep them open for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub hold: Option<Duration>,
    /// What every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `log-in`
#[derive(Clone, Debug, Args)]
pub struct LogInArgs {
    /// Make as many stale reads instead: what the calls cost without the log-in
    #[arg(long)]
    pub others: bool,
    /// What every load has.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `echo-server`
#[derive(Clone, Copy, Debug, Args)]
pub struct EchoArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:2379")]
    pub listen: SocketAddr,
}

/// `declare`
#[derive(Clone, Debug, Args)]
pub struct DeclareArgs {
    /// The peer port of a member
    #[arg(long)]
    pub peer: Endpoint,
    /// The CA of the cluster
    #[arg(long, value_name = "FILE")]
    pub cacert: PathBuf,
    /// The certificate of root
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Who may do everything, beside root: users of certificates and ServiceAccounts
    #[arg(long, value_delimiter = ',')]
    pub users: Vec<String>,
    /// The `iss` of tokens
    #[arg(long)]
    pub issuer: String,
    /// Their `aud`
    #[arg(long)]
    pub audience: String,
    /// The keys that they are signed with, a JWKS
    #[arg(long, value_name = "FILE")]
    pub jwks: PathBuf,
}

/// `compare`
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Divide the figures of one system by those of another
    #[arg(long, value_name = "SYSTEM/SYSTEM", value_delimiter = ',', default_value = "kvorum/etcd",
          value_parser = parse_pair)]
    pub ratio: Vec<(String, String)>,
    /// Files of JSON objects, one a line
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// Options that do not go together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadArgs {
    /// A connection would have no client.
    #[error("--conns {conns} is more than --clients {clients}: the rest would be idle")]
    IdleConnections {
        /// Connections asked for.
        conns: usize,
        /// Clients asked for.
        clients: usize,
    },
    /// Two keys would be one.
    #[error("--key-size {key_bytes} cannot tell --key-space {key_space} keys apart: use at least {needed}")]
    ShortKeys {
        /// Bytes of a key.
        key_bytes: usize,
        /// Number of keys.
        key_space: u64,
        /// Bytes that would do.
        needed: usize,
    },
}

impl LoadArgs {
    /// What the servers are spoken to with, where it is TLS.
    pub fn tls(&self) -> Result<Option<ClientTls>, MaterialError> {
        let Some(ca) = self.cacert.clone() else { return Ok(None) };
        let own = self.cert.clone().zip(self.key.clone());
        ClientTls::load(Paths { ca, own, client_ca: None, outside: None }).map(Some)
    }

    /// Refuses what cannot work before anything is connected.
    pub fn check(&self) -> Result<(), BadArgs> {
        if let Some(conns) = self.conns.filter(|conns| *conns > self.clients) {
            return Err(BadArgs::IdleConnections { conns, clients: self.clients });
        }
        let needed = (self.key_space.get() - 1).to_string().len();
        if self.key_size < needed {
            let key_space = self.key_space.get();
            return Err(BadArgs::ShortKeys { key_bytes: self.key_size, key_space, needed });
        }
        Ok(())
    }

    /// Connections to open.
    pub fn connections(&self) -> usize {
        self.conns.unwrap_or_else(|| self.clients.div_ceil(CLIENTS_PER_CONNECTION))
    }

    /// How long the run takes, when no number of requests ends it.
    pub fn duration(&self) -> Duration {
        self.duration.unwrap_or(DURATION_DEFAULT)
    }
}

impl ReadArgs {
    /// How reads are answered.
    pub fn consistency(self) -> Consistency {
        if self.serializable { Consistency::Serializable } else { Consistency::Linearizable }
    }
}

impl MixedArgs {
    /// What each client does.
    pub fn workload(&self) -> Workload {
        Workload::Mixed { read_percent: self.read_percent, consistency: self.reads.consistency() }
    }
}

impl ScanArgs {
    /// What each client does.
    pub fn workload(&self) -> Workload {
        Workload::Scan { limit: self.limit.get(), consistency: self.reads.consistency() }
    }
}

impl FillArgs {
    /// What each client does.
    pub fn workload(&self) -> Workload {
        Workload::Fill { batch: self.batch }
    }

    /// A load which ends when each key was written once, or earlier when the command line says so.
    pub fn load(self) -> LoadArgs {
        let requests = self.load.key_space.get().div_ceil(self.batch);
        let total = match (self.load.total, self.load.duration) {
            (Some(total), _) => NonZeroU64::new(total.get().min(requests)),
            (None, Some(_)) => None,
            (None, None) => NonZeroU64::new(requests),
        };
        LoadArgs { total, ..self.load }
    }
}

/// Each client is a task with its random generator: a count beyond this is a slip of the finger.
const COUNT_MAX: usize = 100_000;

/// Keys and values stay far below what a request may hold anywhere.
const KEY_BYTES_MAX: usize = 64 << 10;
const VALUE_BYTES_MAX: usize = 64 << 20;

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (one, other) = text.split_once('/').ok_or("SYSTEM/SYSTEM is wanted")?;
    Ok((one.to_owned(), other.to_owned()))
}

fn parse_user(text: &str) -> Result<User, String> {
    let (name, password) = text.split_once(':').ok_or("NAME:PASSWORD is wanted")?;
    Ok(User { name: name.to_owned(), password: password.to_owned() })
}

fn parse_count(text: &str) -> Result<usize, String> {
    parse_within(text, 1, COUNT_MAX)
}

fn parse_key_bytes(text: &str) -> Result<usize, String> {
    parse_within(text, 1, KEY_BYTES_MAX)
}

fn parse_value_bytes(text: &str) -> Result<usize, String> {
    parse_within(text, 0, VALUE_BYTES_MAX)
}

fn parse_within(text: &str, min: usize, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("a number from {min} to {max} is wanted")),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|seconds: &f64| *seconds > 0.0 && *seconds <= 1e6)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds above 0 is wanted, such as 10 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(line: &str) -> LoadArgs {
        let words = ["kvorum-bench", "put"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Put(load) => load,
            other => panic!("{other:?}"),
        }
    }

    /// Goal: options that cannot work together are refused. Method: a table of command lines.
    #[test]
    fn options_that_cannot_work_are_refused() {
        assert_eq!(put("--clients 100 --conns 10 --duration 0.5s").check(), Ok(()));
        assert_eq!(
            put("--clients 1 --conns 2").check(),
            Err(BadArgs::IdleConnections { conns: 2, clients: 1 })
        );
        assert_eq!(put("--key-size 3 --key-space 1000").check(), Ok(()));
        assert!(matches!(
            put("--key-size 3 --key-space 1001").check(),
            Err(BadArgs::ShortKeys { needed: 4, .. })
        ));
        for bad in [
            "--clients 0",
            "--total 0",
            "--duration -1",
            "--total 1 --duration 1",
            "--endpoints x",
            "--rate 0",
            "--user alice --cacert ca.crt",
            "--user alice:secret",
            "--token-file token",
            "--user alice:secret --token-file token --cacert ca.crt",
        ] {
            let words = ["kvorum-bench", "put"].into_iter().chain(bad.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{bad}");
        }
    }

    /// Goal: `fill` ends with the last key. Method: a space that its batches do not divide.
    #[test]
    fn fill_covers_the_key_space() {
        let line = "kvorum-bench fill --key-space 1001 --batch 100";
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Fill(fill) => assert_eq!(fill.load().total.unwrap().get(), 11),
            other => panic!("{other:?}"),
        }
    }
}
