//! The client, and how it is made.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::address::Address;
use crate::connect::ConnectOptions;
use crate::pool::{ENDPOINTS_MAX, Pool, Settings};
use crate::{
    Auth, Batch, Compact, Delete, Error, Expire, Get, KeyRange, MembersCall, Persist, Scan, Set, Tls, Ttl,
    Watch,
};

/// How long a call may take, retries included, unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one cluster. Clones share its connections, so that one client serves a whole program.
///
/// Each method makes a call, which has options of its own, and does nothing until it is awaited or started.
/// What can go wrong stands beside the call's type: see [`Get`], [`Set`] and so on.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// use kvorum_client::{Client, KeyRange};
///
/// let client = Client::connect([endpoint]).await?;
/// client.set("greeting", "hello").await?;
/// assert_eq!(client.get("greeting").await?.kv.map(|kv| kv.value), Some("hello".into()));
/// assert_eq!(client.delete_range(KeyRange::prefix("gree")).await?.deleted, 1);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

/// Makes a client with other than the usual settings: [`Client::builder`] begins one.
///
/// What concerns the cluster is set here, and what concerns each connection in [`ConnectOptions`].
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// use std::time::Duration;
/// use kvorum_client::{Client, ConnectOptions};
///
/// let client = Client::builder([endpoint])
///     .timeout(Duration::from_secs(2))
///     .connect_options(ConnectOptions::new().timeout(Duration::from_millis(300)))
///     .connect()
///     .await?;
/// # client.get("k").await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    settings: Settings,
}

impl Client {
    /// Connects to a cluster through any of its nodes, `host:port` of their client ports, and finds its
    /// leader.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Client, Error> {
        Client::builder(endpoints).connect().await
    }

    /// Begins with the endpoints, `host:port` each, of which at most 32 are kept.
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> ClientBuilder {
        ClientBuilder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            settings: Settings { timeout: TIMEOUT, connect: ConnectOptions::new(), find_leader: true },
        }
    }

    /// Reads a key.
    pub fn get(&self, key: impl Into<Bytes>) -> Get {
        Get::new(self.pool(), key.into())
    }

    /// Writes a key.
    pub fn set(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Set {
        Set::new(self.pool(), key.into(), value.into())
    }

    /// Deletes a key.
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete {
        self.delete_range(KeyRange::key(key))
    }

    /// Deletes every key of a range, in one revision.
    pub fn delete_range(&self, range: KeyRange) -> Delete {
        Delete::new(self.pool(), range)
    }

    /// Asks how long a key has left to live.
    pub fn ttl(&self, key: impl Into<Bytes>) -> Ttl {
        Ttl::new(self.pool(), key.into())
    }

    /// Sets the TTL of an existing key without touching its value; less than 1 ms counts as 1 ms.
    pub fn expire(&self, key: impl Into<Bytes>, ttl: Duration) -> Expire {
        Expire::new(self.pool(), key.into(), ttl)
    }

    /// Drops the TTL of an existing key without touching its value.
    pub fn persist(&self, key: impl Into<Bytes>) -> Persist {
        Persist::new(self.pool(), key.into())
    }

    /// Reads a range of keys at one revision.
    pub fn scan(&self, range: KeyRange) -> Scan {
        Scan::new(self.pool(), range)
    }

    /// Follows the changes of a range of keys.
    pub fn watch(&self, range: KeyRange) -> Watch {
        Watch::new(self.pool(), range)
    }

    /// Many conditions, sets and deletes as one atomic write.
    pub fn batch(&self) -> Batch {
        Batch::new(self.pool())
    }

    /// Makes `revision` the oldest one that can be read.
    pub fn compact(&self, revision: u64) -> Compact {
        Compact::new(self.pool(), revision)
    }

    /// Users, roles and rights.
    pub fn auth(&self) -> Auth {
        Auth::new(self.pool())
    }

    /// Asks what the cluster looks like.
    pub fn members(&self) -> MembersCall {
        MembersCall::new(self.pool())
    }

    /// The id of the cluster; 0 as long as no node has answered.
    pub fn cluster_id(&self) -> u64 {
        self.pool.cluster_id()
    }

    /// The endpoints: those that were given, and those of leaders found since.
    pub fn endpoints(&self) -> Vec<String> {
        self.pool.nodes().iter().map(|node| node.address().to_string()).collect()
    }

    /// How its connections are made, for an [`AdminClient`](crate::admin::AdminClient) beside it.
    pub fn connect_options(&self) -> ConnectOptions {
        self.pool.settings().connect.clone()
    }

    fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }
}

impl ClientBuilder {
    /// How long a call may take, retries included, unless it says otherwise; 5 s without this.
    pub fn timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.settings.timeout = timeout;
        self
    }

    /// How connections are made; [`ConnectOptions::new`] without this.
    pub fn connect_options(mut self, options: ConnectOptions) -> ClientBuilder {
        self.settings.connect = options;
        self
    }

    /// Speaks TLS with what is given here, as [`ConnectOptions::tls`] does.
    pub fn tls(mut self, tls: Tls) -> ClientBuilder {
        self.settings.connect = self.settings.connect.tls(tls);
        self
    }

    /// Sends the token in a file with every call, as [`ConnectOptions::token_file`] does.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> ClientBuilder {
        self.settings.connect = self.settings.connect.token_file(path);
        self
    }

    /// Is this user, by his password, as [`ConnectOptions::user`] does.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> ClientBuilder {
        self.settings.connect = self.settings.connect.user(name, password);
        self
    }

    /// Stays with the endpoints that were given, and does not look for the leader among the members:
    /// for a few calls, or behind a load balancer.
    pub fn without_leader_search(mut self) -> ClientBuilder {
        self.settings.find_leader = false;
        self
    }

    /// Connects, and finds the leader. A cluster without one is connected to all the same.
    ///
    /// # Errors
    /// - [`Error::InvalidEndpoint`]: an endpoint is no `host:port`, or there are none, or too many.
    /// - [`Error::Unanswered`]: no endpoint answered within the client's timeout.
    /// - [`Error::NoCluster`]: those that did belong to no cluster.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.pool.greet().await?;
        Ok(client)
    }

    /// Makes the client without talking to anybody before its first call.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`]: an endpoint is no `host:port`, or there are none, or too many.
    pub fn connect_lazy(mut self) -> Result<Client, Error> {
        let mut addresses = Vec::new();
        for endpoint in &self.endpoints {
            let address: Address = endpoint.parse()?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let refuse = |problem| Err(Error::InvalidEndpoint { endpoint: self.endpoints.join(","), problem });
        if addresses.is_empty() {
            return refuse("give at least one host:port");
        }
        if addresses.len() > ENDPOINTS_MAX {
            return refuse("these are too many; any three nodes of a cluster will do");
        }
        // Members that the cluster names later are what those that were given are.
        if addresses.iter().all(|address| address.is_secure() == Some(false)) {
            self.settings.connect = self.settings.connect.plain();
        }
        self.settings.connect = self.settings.connect.with_mounted_token();
        // A keyed hasher of the standard library is random enough to spread clients over endpoints.
        let home = RandomState::new().hash_one(&self.endpoints) as usize;
        Ok(Client { pool: Arc::new(Pool::new(addresses, home, self.settings)) })
    }
}
