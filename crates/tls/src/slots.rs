//! How many handshakes are under way at a time: each costs a fraction of a millisecond that nothing else gets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes of a port at a time.
const PORT_MAX: usize = 256;
/// Handshakes of one address at a time.
const ADDRESS_MAX: usize = 32;

/// The places for handshakes of one port. Clones are the same.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    port: Arc<Semaphore>,
    /// The addresses that have handshakes under way, or waiting; a port takes no more connections than it has room
    /// for, and so no more addresses.
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

#[derive(Debug)]
struct Address {
    places: Arc<Semaphore>,
    users: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _port: OwnedSemaphorePermit,
    _address: OwnedSemaphorePermit,
    _user: User,
}

/// Somebody who has a handshake under way, or waits to have one.
#[derive(Debug)]
struct User {
    slots: Slots,
    from: IpAddr,
}

impl Slots {
    /// All free.
    pub fn new() -> Slots {
        Slots(Arc::new(Inner { port: Arc::new(Semaphore::new(PORT_MAX)), addresses: Mutex::default() }))
    }

    /// Waits for a place: first among those of the address, so that many of one keep nobody else waiting.
    pub(crate) async fn take(&self, from: IpAddr) -> Slot {
        let (user, places) = self.enter(from);
        let never_closed = "the semaphore is never closed";
        let address = places.acquire_owned().await.expect(never_closed);
        let port = self.0.port.clone().acquire_owned().await.expect(never_closed);
        Slot { _port: port, _address: address, _user: user }
    }

    fn enter(&self, from: IpAddr) -> (User, Arc<Semaphore>) {
        let mut addresses = self.lock();
        let fresh = || Address { places: Arc::new(Semaphore::new(ADDRESS_MAX)), users: 0 };
        let address = addresses.entry(from).or_insert_with(fresh);
        address.users += 1;
        (User { slots: self.clone(), from }, address.places.clone())
    }

    /// A panic while the lock was held has left the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Slots {
    fn default() -> Slots {
        Slots::new()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut addresses = self.slots.lock();
        if let Some(address) = addresses.get_mut(&self.from) {
            address.users -= 1;
            if address.users == 0 {
                addresses.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: many handshakes of one address leave room for others, and nothing is remembered of those that are
    //! over. Method: places are taken without any handshake.
    use futures_util::FutureExt as _;
    use tokio::task::unconstrained;

    use super::*;

    /// A place that is free at once.
    fn take(slots: &Slots, from: IpAddr) -> Option<Slot> {
        // Without it the runtime has so many steps at once wait for their turn.
        unconstrained(slots.take(from)).now_or_never()
    }

    #[tokio::test]
    async fn one_address_cannot_have_all_places() {
        let slots = Slots::new();
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut held = Vec::new();
        for _ in 0..ADDRESS_MAX {
            held.push(take(&slots, greedy).expect("there is room"));
        }
        assert!(take(&slots, greedy).is_none(), "one address has more than its part");
        let others = take(&slots, other).expect("another address waits for the greedy one");
        held.pop();
        held.push(take(&slots, greedy).expect("a place was given back"));
        drop((held, others));
        assert!(slots.lock().is_empty(), "addresses are remembered after their handshakes");
    }

    #[tokio::test]
    async fn a_port_has_so_many_places_and_no_more() {
        let slots = Slots::new();
        let mut held = Vec::new();
        for number in 0..PORT_MAX {
            let from = IpAddr::from([10, 0, 0, u8::try_from(number / ADDRESS_MAX).unwrap()]);
            held.push(take(&slots, from).expect("there is room"));
        }
        let last = IpAddr::from([10, 0, 1, 0]);
        assert!(take(&slots, last).is_none(), "a port has more handshakes than its bound");
        held.pop();
        take(&slots, last).expect("a place was given back");
    }
}
