//! The names of hosts, and the addresses that they have: a process may have another one each time it is started, as pods
//! have, which those who look the name up hear of later.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::clock::{Micros, SECOND};
use super::network::HostId;

/// How long it takes at most until a name leads to a host's new address.
const LAG_MAX: Micros = 3 * SECOND;
/// Where the numbers of addresses begin anew.
const ADDRESSES: u8 = 250;

/// What is wrong with looking names up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Every answer takes so long.
    Late(Micros),
    /// Names lead to where hosts were when it began.
    Stale,
    /// There is no answer.
    Gone,
}

/// A host's address now, and the one that is told.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    now: u8,
    told: u8,
    /// From then on the address of now is told.
    told_at: Micros,
}

/// The names of all hosts.
#[derive(Debug)]
pub(super) struct Names {
    random: StdRng,
    /// Whether a process that is started has another address than the one before.
    moves: bool,
    known: Vec<Known>,
    trouble: Vec<Trouble>,
}

impl Names {
    /// Of no hosts yet.
    pub(super) fn new(mut random: StdRng) -> Names {
        let moves = random.random_bool(0.5);
        Names { random, moves, known: Vec::new(), trouble: Vec::new() }
    }

    fn known(&mut self, host: HostId) -> &mut Known {
        if self.known.len() <= host {
            self.known.resize(host + 1, Known::default());
        }
        &mut self.known[host]
    }

    /// A process is started.
    pub(super) fn started(&mut self, host: HostId, now: Micros) {
        let told = self.told(host, now);
        let lag = self.random.random_range(0..=LAG_MAX);
        let moves = self.moves;
        let known = self.known(host);
        if moves {
            *known = Known { now: known.now % ADDRESSES + 1, told, told_at: now + lag };
        }
    }

    /// The number of the address that is told.
    fn told(&mut self, host: HostId, now: Micros) -> u8 {
        let is_stale = self.trouble.contains(&Trouble::Stale);
        let known = self.known(host);
        if now >= known.told_at && !is_stale {
            known.told = known.now;
        }
        known.told
    }

    /// What a name leads to, and how long the answer takes. None: nobody has that name, or there is no answer.
    pub(super) fn look_up(&mut self, name: &str, now: Micros) -> Option<(IpAddr, Micros)> {
        let late = self
            .trouble
            .iter()
            .map(|trouble| if let Trouble::Late(late) = trouble { *late } else { 0 })
            .max();
        if self.trouble.contains(&Trouble::Gone) {
            return None;
        }
        let host = host_named(name)?;
        let told = self.told(host, now);
        Some((numbered(host, told), late.unwrap_or_default()))
    }

    /// Where a host is.
    pub(super) fn address(&mut self, host: HostId) -> IpAddr {
        let now = self.known(host).now;
        numbered(host, now)
    }

    pub(super) fn begin(&mut self, trouble: Trouble) {
        self.trouble.push(trouble);
    }

    pub(super) fn end(&mut self, trouble: Trouble) {
        if let Some(at) = self.trouble.iter().position(|other| *other == trouble) {
            self.trouble.remove(at);
        }
    }
}

/// The host of this name: a host's own, or that of a pod, of which the first label ends with the number.
fn host_named(name: &str) -> Option<HostId> {
    let number = match name.strip_suffix(".svc") {
        Some(pod) => pod.split('.').next()?.rsplit_once('-')?.1,
        None => name.strip_prefix('n')?.strip_suffix(".sim")?,
    };
    number.parse().ok()
}

/// The name of a host.
pub fn name(host: HostId) -> String {
    format!("n{host}.sim")
}

/// An address that is a host's own, whichever it has: where processes listen.
pub fn own_address(host: HostId) -> IpAddr {
    numbered(host, 0)
}

fn numbered(host: HostId, number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, number, (host / 250) as u8, (host % 250) as u8 + 1))
}

/// Whose address it is, or was.
pub(super) fn host_at(address: SocketAddr) -> HostId {
    match address.ip() {
        IpAddr::V4(ip) => usize::from(ip.octets()[2]) * 250 + usize::from(ip.octets()[3]).saturating_sub(1),
        IpAddr::V6(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random::stream;

    /// Goal: a host that moved is found where it was, and then where it is, and not while names are stale or gone.
    /// Method: a host that starts again and again, in a world where hosts move.
    #[test]
    fn names_follow() {
        let mut names =
            (0..).map(|seed| Names::new(stream(seed, "names"))).find(|names| names.moves).unwrap();
        let is_found = |names: &mut Names, now| {
            let (found, _) = names.look_up(&name(3), now).unwrap();
            found == names.address(3)
        };
        for round in 1..600 {
            let now = round * 10 * SECOND;
            assert!(is_found(&mut names, now));
            names.begin(Trouble::Stale);
            names.started(3, now);
            assert!(!is_found(&mut names, now + LAG_MAX));
            names.end(Trouble::Stale);
            assert!(is_found(&mut names, now + LAG_MAX));
            assert_eq!(host_at(SocketAddr::new(names.address(3), 1)), 3);
            names.begin(Trouble::Gone);
            assert_eq!(names.look_up(&name(3), now + LAG_MAX), None);
            names.end(Trouble::Gone);
            names.begin(Trouble::Late(7));
            assert_eq!(names.look_up(&name(3), now + LAG_MAX).unwrap().1, 7);
            names.end(Trouble::Late(7));
        }
        assert_eq!(names.look_up("elsewhere", 0), None);
    }
}
