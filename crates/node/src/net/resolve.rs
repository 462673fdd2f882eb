//! Where members are, also while the DNS of their cluster does not answer.
//!
//! A machine that is gone takes the DNS server on it along, just when the other members have to reach
//! each other for the first time: to elect a leader. So the addresses of all members are looked up
//! beforehand, and the last ones that were found are used when a lookup takes long. A pod that was replaced
//! is known to DNS under its old address for seconds; where a member said itself that it is, it is looked for
//! at the same time. An old address may belong to somebody else by then; every call between members says whom
//! it is for, and is refused.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{FutureExt as _, select_ok};
use tokio::sync::watch;
use tokio::time::timeout;

use super::network::{Net, Stream};

/// How long a lookup may take before the last addresses are used; one that works takes a millisecond.
const PATIENCE: Duration = Duration::from_millis(100);
/// How many names are remembered: the members of a cluster, and those that were. Beyond that all are
/// looked up anew.
const NAMES_MAX: usize = 64;
/// The longest `host:port` that is remembered; DNS has no longer ones.
const NAME_BYTES_MAX: usize = 260;

/// What is known of one `host:port`.
#[derive(Default)]
struct Name {
    found: watch::Sender<Found>,
    /// Where the member itself said that it is.
    told: Mutex<Option<SocketAddr>>,
    /// A lookup is under way. There is one at a time, however many wait for it.
    looking: AtomicBool,
}

/// How the last lookup ended.
#[derive(Clone, Default)]
struct Found {
    /// What the last one that succeeded found.
    addresses: Vec<SocketAddr>,
    /// Why the last one failed, if it did.
    error: Option<String>,
}

/// The names that a node has to do with.
pub struct Names {
    net: Net,
    /// Held for a moment only.
    names: Mutex<HashMap<String, Arc<Name>>>,
}

impl Names {
    /// None yet.
    pub fn new(net: Net) -> Names {
        Names { net, names: Mutex::default() }
    }

    /// Looks a name up and remembers what is found.
    pub fn remember(&self, name: &str) {
        if name.parse::<SocketAddr>().is_err() {
            self.look_up(name);
        }
    }

    /// Remembers that the member with this name has just connected from there.
    pub fn learn(&self, name: &str, from: IpAddr) {
        let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        if let Some(port) = port
            && name.len() <= NAME_BYTES_MAX
            && name.parse::<SocketAddr>().is_err()
        {
            self.entry(name).set_told(Some(SocketAddr::new(from.to_canonical(), port)));
        }
    }

    /// Forgets where the member with this name said that it is: somebody else is there now.
    pub fn forget(&self, name: &str) {
        self.entry(name).set_told(None);
    }

    /// Connects to `host:port`. The caller bounds the time.
    pub async fn connect(&self, name: &str) -> io::Result<Stream> {
        if let Ok(address) = name.parse::<SocketAddr>() {
            return self.net.connect(address).await;
        }
        let looked_up = async { self.connect_to_one(&self.addresses(name).await?).await };
        match self.entry(name).told() {
            None => looked_up.await,
            Some(told) => Ok(select_ok([self.net.connect(told), looked_up.boxed()]).await?.0),
        }
    }

    /// Connects to the first address where somebody answers.
    async fn connect_to_one(&self, addresses: &[SocketAddr]) -> io::Result<Stream> {
        let mut refused = io::Error::other("there is no address");
        for address in addresses {
            match self.net.connect(*address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// At least one address.
    async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let mut found = self.look_up(name);
        let is_known = !found.borrow().addresses.is_empty();
        if is_known {
            // A lookup that is not done by then goes on, and helps the next attempt.
            let _ = timeout(PATIENCE, found.changed()).await;
        } else {
            // Its sender stays as long as the name is remembered.
            let _ = found.changed().await;
        }
        let Found { addresses, error } = found.borrow().clone();
        if addresses.is_empty() {
            return Err(io::Error::other(error.unwrap_or_else(|| format!("{name} has no address"))));
        }
        Ok(addresses)
    }

    fn entry(&self, name: &str) -> Arc<Name> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.clear();
        }
        names.entry(name.to_owned()).or_default().clone()
    }

    /// Begins a lookup unless one is under way; the receiver changes when it ends.
    fn look_up(&self, name: &str) -> watch::Receiver<Found> {
        let known = self.entry(name);
        let found = known.found.subscribe();
        if !known.looking.swap(true, Ordering::AcqRel) {
            let (net, name) = (self.net.clone(), name.to_owned());
            tokio::spawn(async move {
                let result = net.look_up(&name).await;
                // Whoever comes from here on begins another lookup; whoever came before hears of this one.
                known.looking.store(false, Ordering::Release);
                known.found.send_modify(|found| match result {
                    Ok(addresses) if !addresses.is_empty() => *found = Found { addresses, error: None },
                    Ok(_) => found.error = Some(format!("{name} has no address")),
                    Err(error) => found.error = Some(error.to_string()),
                });
            });
        }
        found
    }
}

impl Name {
    fn told(&self) -> Option<SocketAddr> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_told(&self, address: Option<SocketAddr>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a member whose name cannot be looked up any more is still reached, where it was last, and a
    //! name that was never known is an error. Method: what is remembered is set by hand, for names that
    //! no DNS has.
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tcp::Tcp;

    fn names() -> Names {
        Names::new(Arc::new(Tcp))
    }

    fn known(names: &Names, name: &str, address: SocketAddr) {
        let found = Found { addresses: vec![address], error: None };
        let entry = Arc::new(Name { found: watch::Sender::new(found), ..Name::default() });
        names.names.lock().unwrap().insert(name.to_owned(), entry);
    }

    #[tokio::test]
    async fn the_last_address_serves_when_the_name_has_none() {
        let names = names();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        known(&names, "gone.invalid:1", listener.local_addr().unwrap());
        names.connect("gone.invalid:1").await.unwrap();
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_holds_nobody_up() {
        let names = names();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        known(&names, "slow.invalid:1", listener.local_addr().unwrap());
        // Somebody's lookup is under way and does not end.
        names.names.lock().unwrap()["slow.invalid:1"].looking.store(true, Ordering::Release);
        timeout(10 * PATIENCE, names.connect("slow.invalid:1")).await.expect("it waits").unwrap();
    }

    /// It is tried beside what DNS says, since either may be out of date.
    #[tokio::test]
    async fn a_member_is_found_where_it_said_that_it_is() {
        let names = names();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("told.invalid:{port}");
        // Nobody listens at the old address, which is not routed here: an attempt there would hang.
        known(&names, &name, "192.0.2.1:1".parse().unwrap());
        names.learn(&name, "::ffff:127.0.0.1".parse().unwrap());
        timeout(Duration::from_secs(5), names.connect(&name)).await.expect("it waits").unwrap();
        known(&names, &name, listener.local_addr().unwrap());
        names.learn(&name, "192.0.2.1".parse().unwrap());
        timeout(Duration::from_secs(5), names.connect(&name)).await.expect("it waits").unwrap();
        names.forget(&name);
        assert!(names.entry(&name).told().is_none());
    }

    #[tokio::test]
    async fn a_name_that_was_never_known_is_an_error() {
        assert!(names().connect("never.invalid:1").await.is_err());
    }
}
