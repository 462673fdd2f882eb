//! The command line.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use kvorum_client::auth::Access;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 error, 2 usage, 3 key not found, 4 condition failed.";

const BATCH_FORMAT: &str = "\
The file holds one JSON object a line; empty lines are skipped. All lines together are one atomic
write: if a condition does not hold, nothing is written.

  {\"set\": \"k\", \"value\": \"v\"}                write a key
  {\"set\": \"k\", \"value\": \"v\", \"ttl\": \"30s\"}  write a key that goes by itself
  {\"delete\": \"k\"}                            delete a key
  {\"delete\": \"p/\", \"prefix\": true}           delete every key that begins with p/
  {\"if\": \"k\", \"absent\": true}                require that the key does not exist
  {\"if\": \"k\", \"revision\": 12}                require the revision of the key's last change

Bytes that are no UTF-8 go as base64: \"value_base64\" in place of \"value\", and \"key_base64\" for the
key, beside \"set\": true, \"delete\": true or \"if\": true:

  {\"set\": true, \"key_base64\": \"/wA=\", \"value_base64\": \"AAEC\"}";

/// Reads, writes and looks after a Kvorum cluster.
#[derive(Debug, Parser)]
#[command(name = "kvorum", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    /// Nodes of the cluster, host:port of their client ports, separated by commas.
    #[arg(
        long,
        global = true,
        env = "KVORUM_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        value_name = "HOST:PORT,…"
    )]
    pub(crate) endpoints: Vec<String>,

    /// How results are printed. With json, one object a line, bytes as UTF-8 beside base64.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    /// How long a call may take, retries included, such as 500ms, 5s or 1m.
    #[arg(long, global = true, value_parser = positive_duration, default_value = "5s", value_name = "TIME")]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) who: WhoArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What connections are encrypted with.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct TlsArgs {
    /// The CA of the cluster, PEM. With one, host:port means TLS. Without it /var/run/secrets/kvorum.io is looked
    /// into, for ca.crt, and for tls.crt with tls.key.
    #[arg(long = "cacert", global = true, id = "tls_cacert", env = "KVORUM_CACERT", value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// A certificate that proves who you are, PEM.
    #[arg(long = "cert", global = true, id = "tls_cert", env = "KVORUM_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_cacert"])]
    pub(crate) cert: Option<PathBuf>,

    /// The key of the certificate, PEM.
    #[arg(long = "key", global = true, id = "tls_key", env = "KVORUM_KEY", value_name = "FILE", requires_all = ["tls_cert", "tls_cacert"])]
    pub(crate) key: Option<PathBuf>,
}

/// Who you are, where rights count. Without these your certificate says it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct WhoArgs {
    /// A user, and his password, which goes over TLS only. Without one in the list of processes it is taken from the
    /// variable KVORUM_PASSWORD, or asked for on the terminal.
    #[arg(long = "user", global = true, id = "who_user", env = "KVORUM_USER", hide_env_values = true,
          value_name = "NAME[:PASSWORD]", value_parser = user, conflicts_with = "who_token_file")]
    pub(crate) user: Option<User>,

    /// A file with a token, such as that of a ServiceAccount. It goes over TLS only.
    #[arg(
        long = "token-file",
        global = true,
        id = "who_token_file",
        env = "KVORUM_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub(crate) token_file: Option<PathBuf>,
}

/// A user and his password, if it was given, which nothing prints.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: Option<String>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.name)
    }
}

/// The command line as it is to be read: whoever sets a variable to nothing means that there is none.
pub(crate) fn command() -> clap::Command {
    without_empty(Args::command(), |name| std::env::var_os(name).is_some_and(|value| value.is_empty()))
}

fn without_empty(command: clap::Command, is_empty: impl Fn(&OsStr) -> bool) -> clap::Command {
    command.mut_args(|arg| match arg.get_env().is_some_and(&is_empty) {
        true => arg.env(Resettable::Reset),
        false => arg,
    })
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people and pipes.
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value of a key, raw.
    Get(Get),
    /// Write a key.
    Set(Set),
    /// Delete a key, or every key with a prefix.
    Del(Del),
    /// Print how long a key has left to live.
    Ttl {
        /// The key.
        key: String,
    },
    /// Set the time to live of an existing key.
    Expire {
        /// The key.
        key: String,
        /// How long the key stays from now, such as 30s or 1h30m.
        #[arg(value_parser = positive_duration)]
        ttl: Duration,
    },
    /// Drop the time to live of an existing key.
    Persist {
        /// The key.
        key: String,
    },
    /// Print keys and values, a tab between them.
    Scan(Scan),
    /// Follow changes as they happen.
    Watch(Watch),
    /// Apply the conditions, sets and deletes of a file as one atomic write.
    #[command(after_long_help = BATCH_FORMAT, after_help = "See --help for the format of the file.")]
    Batch {
        /// The file, JSON lines; - reads from the standard input.
        file: PathBuf,
    },
    /// Forget what is older than a revision.
    ///
    /// Reads and watches below the revision are refused from then on, and disk space becomes free.
    Compact {
        /// The oldest revision that stays.
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        revision: u64,
    },
    /// Print what every member does.
    Status,
    /// Found a cluster.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// List, add, remove and promote members.
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Choose the leader.
    Leader {
        #[command(subcommand)]
        command: LeaderCommand,
    },
    /// Save the whole store to a file, and make a new cluster out of one.
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Add, change, show and delete users.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Add, change, show and delete roles: what they may do with which keys.
    Role {
        #[command(subcommand)]
        command: RoleCommand,
    },
    /// Say whether rights count.
    Auth {
        #[command(subcommand)]
        command: AuthCommand,
    },
    /// Make a CA, and certificates of members and users, where no operator does.
    Cert {
        #[command(subcommand)]
        command: CertCommand,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// A read of a key.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Get {
    /// The key.
    pub key: String,
    /// Read as of this revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Take any node's own state, which may be stale.
    #[arg(long)]
    pub serializable: bool,
}

/// A write of a key.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Set {
    /// The key.
    pub key: String,
    /// The value; - reads it from the standard input.
    #[arg(allow_negative_numbers = true)]
    pub value: String,
    /// The key goes by itself after this time, such as 30s. Without it the key stays, even if it had
    /// a time before.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub ttl: Option<Duration>,
    /// Only if the key does not exist.
    #[arg(long, conflicts_with = "if_revision")]
    pub if_absent: bool,
    /// Only if the key's last change has this revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub if_revision: Option<u64>,
}

/// A deletion.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Del {
    /// The key.
    pub key: String,
    /// Delete every key that begins with KEY. Very many go in several steps.
    #[arg(long)]
    pub prefix: bool,
}

/// A read of many keys.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Scan {
    /// Only keys that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Stop after so many keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print the keys alone.
    #[arg(long)]
    pub keys_only: bool,
    /// Read as of this revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Go from the last key to the first.
    #[arg(long)]
    pub reverse: bool,
    /// Take any node's own state, which may be stale.
    #[arg(long)]
    pub serializable: bool,
}

/// What is followed.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Watch {
    /// The key; without it, every key.
    pub key: Option<String>,
    /// Watch every key that begins with KEY.
    #[arg(long, requires = "key")]
    pub prefix: bool,
    /// Begin with the changes of this revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub from_revision: Option<u64>,
    /// Print what a key held before, in JSON.
    #[arg(long)]
    pub previous: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Found a cluster on the first node, and add the others. It can be repeated, and goes on where it
    /// was interrupted.
    Init {
        /// The nodes, host:port of their peer ports, separated by commas.
        #[arg(long, required = true, value_delimiter = ',', value_name = "HOST:PORT,…")]
        members: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Print the members.
    List,
    /// Add a node, wait until it has caught up, and make it a voter.
    Add {
        /// host:port of the node's peer port.
        peer: String,
        /// Leave it a learner, which follows and does not vote.
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member. A leader hands over first.
    Remove {
        /// The member's id, as `member list` prints it.
        #[arg(value_parser = node_id)]
        id: u64,
    },
    /// Make a learner a voter, once it has caught up.
    Promote {
        /// The member's id, as `member list` prints it.
        #[arg(value_parser = node_id)]
        id: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Hand leadership over.
    Transfer {
        /// The voter that takes it; without it, the one that is furthest.
        #[arg(value_parser = node_id)]
        id: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Write the whole store to a file.
    Save {
        /// The file.
        file: PathBuf,
        /// Take it from this member; without it, from a follower.
        #[arg(long, value_name = "ID", value_parser = node_id)]
        from: Option<u64>,
    },
    /// Make the data directory of a new cluster of one member out of a file. `kvorum-node --bootstrap
    /// single` starts on it.
    Restore {
        /// The file.
        file: PathBuf,
        /// The data directory, which must be empty or not there yet.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user. Without a password he shows a certificate.
    Add {
        /// His name.
        name: String,
        /// Read his password, a line, from the standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Delete a user.
    Delete {
        /// His name.
        name: String,
    },
    /// Print a user's roles.
    Get {
        /// His name.
        name: String,
    },
    /// Print the names of all users.
    List,
    /// Give a user another password, or none. His sessions end.
    Passwd {
        /// His name.
        name: String,
        /// Read his password, a line, from the standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a role to a user. The role root may do everything.
    GrantRole {
        /// The user's name.
        user: String,
        /// The role's name.
        role: String,
    },
    /// Take a role from a user.
    RevokeRole {
        /// The user's name.
        user: String,
        /// The role's name.
        role: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Add a role that may do nothing.
    Add {
        /// Its name.
        name: String,
    },
    /// Delete a role, from all who have it too.
    Delete {
        /// Its name.
        name: String,
    },
    /// Print what a role may do.
    Get {
        /// Its name.
        name: String,
    },
    /// Print the names of all roles.
    List,
    /// Let a role read or write keys, in place of what it might do with exactly these.
    GrantPermission {
        /// The role's name.
        role: String,
        /// read, write or readwrite.
        #[arg(value_parser = access)]
        access: Access,
        #[command(flatten)]
        keys: Keys,
    },
    /// Take exactly these keys from a role, as they were granted.
    RevokePermission {
        /// The role's name.
        role: String,
        #[command(flatten)]
        keys: Keys,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Have rights count. It needs a user root with the role root, and TLS.
    Enable,
    /// Have rights looked at and nobody refused, to see whom `enable` would refuse: the members' logs name them, and
    /// kvorum_auth_checks_total{result="would_deny"} counts their requests. It needs what `enable` needs.
    Observe,
    /// Let everybody do everything again. Users and roles stay.
    Disable,
    /// Print whether rights count.
    Status,
}

/// One key, or several.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Keys {
    /// The key.
    pub(crate) key: String,
    /// Every key from KEY on that is smaller than this.
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub(crate) end: Option<String>,
    /// Every key that begins with KEY; with an empty one, all keys.
    #[arg(long, conflicts_with = "from_key")]
    pub(crate) prefix: bool,
    /// Every key from KEY on.
    #[arg(long)]
    pub(crate) from_key: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a CA: ca.crt, which everybody gets, and ca.key, which nobody does.
    Ca {
        /// Where the files go.
        dir: PathBuf,
        /// What the CA is called in errors.
        #[arg(long, default_value = "kvorum")]
        name: String,
        /// How long it holds.
        #[arg(long, default_value_t = 1825, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Make a member's certificate: the directory for kvorum-node --tls-dir. Made anew there, it is taken within
    /// 10 s.
    Member {
        /// The DNS names and addresses by which others reach the member, separated by commas.
        #[arg(required = true, value_delimiter = ',', value_name = "NAME,…")]
        names: Vec<String>,
        #[command(flatten)]
        leaf: LeafArgs,
    },
    /// Make a user's certificate. That of root may administer the members.
    User {
        /// The user.
        name: String,
        #[command(flatten)]
        leaf: LeafArgs,
    },
}

/// Who signs a certificate, where it goes, and how long it holds.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct LeafArgs {
    /// The directory of the CA.
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// Where the files go: tls.crt, tls.key and ca.crt.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it holds.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) days: u32,
}

/// Reads a duration with its unit, of 1 ms at least.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s or 1h30m"))?;
    if duration < Duration::from_millis(1) {
        return Err("it must be at least 1ms".to_owned());
    }
    Ok(duration)
}

fn user(text: &str) -> Result<User, String> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok(User { name: name.to_owned(), password: Some(password.to_owned()) })
        }
        None if !text.is_empty() => Ok(User { name: text.to_owned(), password: None }),
        _ => Err("write NAME, or NAME:PASSWORD".to_owned()),
    }
}

fn access(text: &str) -> Result<Access, String> {
    match text {
        "read" => Ok(Access::Read),
        "write" => Ok(Access::Write),
        "readwrite" => Ok(Access::ReadWrite),
        _ => Err("write read, write or readwrite".to_owned()),
    }
}

fn node_id(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    match u64::from_str_radix(digits, 16) {
        Ok(id) if id != 0 => Ok(id),
        _ => Err("an id has up to 16 hexadecimal digits, as `kvorum member list` prints it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the command line is consistent, and ids and times are what people write. Method: clap's
    //! own check, and tables.
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert_eq!(node_id("00000000000000ff"), Ok(255));
        assert_eq!(node_id("0xff"), Ok(255));
        assert!(node_id("0").is_err() && node_id("xyz").is_err() && node_id("").is_err());
    }

    #[test]
    fn a_user_may_come_with_a_password_that_nothing_prints() {
        let (with, without) = (user("alice:a:b").unwrap(), user("alice").unwrap());
        assert_eq!((&*with.name, with.password.as_deref()), ("alice", Some("a:b")));
        assert_eq!((&*without.name, without.password), ("alice", None));
        assert_eq!(format!("{:?}", user("alice:a:b")), "Ok(alice:***)");
        assert!(["alice:", ":secret", ""].iter().all(|text| user(text).is_err()));
    }

    #[test]
    fn a_variable_that_is_empty_counts_for_nothing() {
        let names = |command: &clap::Command| {
            command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_owned())).count()
        };
        let all = names(&Args::command());
        assert!(all >= 6, "{all}");
        assert_eq!(names(&without_empty(Args::command(), |_| true)), 0);
        assert_eq!(names(&without_empty(Args::command(), |name| name == "KVORUM_CERT")), all - 1);
        assert_eq!(names(&without_empty(Args::command(), |_| false)), all);
    }

    #[test]
    fn times_have_units_and_are_positive() {
        assert_eq!(positive_duration("30s"), Ok(Duration::from_secs(30)));
        assert!(positive_duration("0s").is_err() && positive_duration("30").is_err());
    }
}
