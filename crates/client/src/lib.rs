//! The client of a Kvorum cluster.
//!
//! ```no_run
//! # async fn example() -> Result<(), kvorum_client::Error> {
//! use kvorum_client::Client;
//!
//! let client = Client::connect(["127.0.0.1:2379"]).await?;
//! client.set("greeting", "hello").await?;
//! let answer = client.get("greeting").await?;
//! assert_eq!(answer.kv.map(|kv| kv.value), Some("hello".into()));
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] has the calls on keys; [`ConnectOptions`] says how connections are made, and [`Tls`] what encrypts them
//! and proves who this client is; [`admin`] speaks to peer ports, and [`snapshot`] saves and restores.
//! Longer examples are in `examples/`: a lock, an election, a watch that survives its own process, a scan.
//!
//! What the crate does by itself:
//!
//! - It finds the leader, remembers it, and notices when there is another one. Every node takes every
//!   request, so this saves a hop and is never needed for an answer to be right.
//! - It repeats what is safe to repeat until the call's deadline: reads always, a write only when the
//!   answer guarantees that nothing was proposed. A write with a revision condition is also repeated
//!   after a look at its key. Everything else is [`Error::OutcomeUnknown`].
//! - It resumes scans and watches after a disconnect, so that each key and each event comes once.
//! - It refuses an endpoint that turns out to belong to another cluster than before.
//!
//! Architecture invariants: there is one channel for each endpoint, and one module makes channels; no
//! lock is held across an await; the wire types stop at this crate's own types, but for [`admin::v1`]; the only
//! clock is tokio's, so that a paused one drives everything here.
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod address;
pub mod admin;
pub mod auth;
mod batch;
mod call;
mod channel;
mod client;
mod cluster;
mod compact;
mod connect;
mod credentials;
mod error;
mod expire;
mod judge;
mod look;
mod node;
mod options;
mod pool;
mod reads;
mod rounds;
mod rpc;
mod scan;
pub mod snapshot;
mod tls;
mod types;
mod watch;
mod writes;

pub use auth::Auth;
pub use batch::{Batch, BatchResponse};
pub use client::{Client, ClientBuilder};
pub use cluster::{Member, Members, MembersCall, OtherDisk, Role};
pub use compact::{Compact, CompactResponse};
pub use connect::{ByteStream, ConnectOptions, Connecting, Connector, Tcp};
pub use error::{Error, Tried};
pub use expire::{Expire, ExpireResponse, Persist, PersistResponse};
pub use reads::{Get, GetResponse, KeyTtl, Ttl, TtlResponse};
pub use scan::{Scan, ScanStream};
pub use tls::Tls;
pub use types::{Event, EventKind, Header, KeyRange, KeyValue};
pub use watch::{Changes, Watch, WatchStream};
pub use writes::{Delete, DeleteResponse, Set, SetResponse};
