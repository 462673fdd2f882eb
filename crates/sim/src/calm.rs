//! Who is left alone by faults, and since when: those are to work.

use crate::plan::What;
use crate::world::clock::{Micros, SECOND};
use crate::world::network::HostId;

/// How long what follows from a fault may take beyond it: a process that was asked to stop takes its time.
const AFTER: Micros = 10 * SECOND;

/// For each member, until when faults touch it.
#[derive(Clone, Debug)]
pub struct Calm {
    until: Vec<Micros>,
    /// The same of messages between any.
    network: Micros,
}

impl Calm {
    /// Of so many members, none of which was touched.
    pub fn new(members: usize) -> Calm {
        Calm { until: vec![0; members], network: 0 }
    }

    /// Something happens to a member until then.
    pub fn disturb(&mut self, host: HostId, until: Micros) {
        if let Some(known) = self.until.get_mut(host) {
            *known = until.max(*known);
        }
    }

    /// A fault goes on until then.
    pub fn note(&mut self, what: What, until: Micros) {
        match what {
            // A full disk keeps nobody from answering, if only that there is no room.
            What::Stands(host)
            | What::SlowDisk(host, _)
            | What::HungDisk(host)
            | What::FullDisk(host, _)
            | What::Alone(host) => {
                self.disturb(host, until);
            }
            // Whose disk fails or rots ends, or does not start, and is started anew.
            What::Dies(host, _)
            | What::DiesAtSync(host, _)
            | What::Stops(host)
            | What::PodDeleted(host)
            | What::DiskLost(host)
            | What::ClaimDeleted(host)
            | What::MachineLost(host)
            | What::MachineAway(host)
            | What::DiskErrors(host, _)
            | What::Rots(host, _) => {
                self.disturb(host, until + AFTER);
            }
            // Who is cut off from one other member is no fault of either.
            What::Unheard(..)
            | What::Reset(..)
            | What::Ring
            | What::Loss(_)
            | What::Late(_)
            | What::Narrow(_)
            | What::Names(_) => {
                (0..self.until.len()).for_each(|host| self.disturb(host, until));
                self.network = until.max(self.network);
            }
            What::Resized(_)
            | What::Restarted
            | What::ServerAway
            | What::WatchesEnd
            | What::OperatorDies(_)
            | What::OperatorStands(_)
            | What::OperatorAlone(_) => {}
        }
    }

    /// All faults end now.
    pub fn heal(&mut self, now: Micros) {
        self.until.iter_mut().for_each(|until| *until = now.min(*until));
        self.network = now.min(self.network);
    }

    /// Since when a member is left alone; in the future where it is not.
    pub fn since(&self, host: HostId) -> Micros {
        self.until.get(host).copied().unwrap_or_default()
    }

    /// Since when messages between members are neither lost nor late but for single members.
    pub fn network_since(&self) -> Micros {
        self.network
    }

    /// Since when all are.
    pub fn all_since(&self) -> Micros {
        self.until.iter().copied().max().unwrap_or_default()
    }

    /// Since when some majority is.
    pub fn majority_since(&self) -> Micros {
        let mut until = self.until.clone();
        until.sort_unstable();
        until.get(until.len() / 2).copied().unwrap_or_default()
    }
}
