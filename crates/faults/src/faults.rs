//! Everything that can be done to a cluster while clients are at work, at random.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::network::Network;
use crate::process::Node;
use crate::slow_disk::SlowDisk;
use crate::{Cluster, Context as _, Failure, Result, ensure};

/// How long processes are down, in milliseconds.
const DOWN_MS: std::ops::Range<u64> = 0..600;
/// How long processes are stopped: shorter and longer than an election takes.
const PAUSE_MS: std::ops::Range<u64> = 200..3_000;
/// How long a disk hangs: shorter and longer than the 2 s after which a member says so, and less than the
/// 60 s after which its process ends.
const HANG_MS: std::ops::Range<u64> = 500..5_000;
/// How long a disk stutters, and how long each sync then takes.
const STUTTER_MS: std::ops::Range<u64> = 2_000..4_000;
const SYNC_MS: std::ops::Range<u64> = 50..300;
/// How long connections are cut or bad: some election timeouts.
const CUT_MS: std::ops::Range<u64> = 1_000..5_000;
/// How much is lost of what is sent, in per cent.
const LOST_PERCENT: std::ops::Range<u8> = 2..25;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for a while.
    Pause,
    /// A disk that hangs or stutters.
    Disk,
    /// Connections that are cut, one way or both, or lose packets.
    Net,
    /// A process that ends by itself.
    Core,
}

impl Kind {
    /// All kinds, in the order in which they are done.
    pub const ALL: [Kind; 5] = [Kind::Kill, Kind::Pause, Kind::Disk, Kind::Net, Kind::Core];

    /// The kinds with these names, separated by commas; empty: all.
    pub fn parse(names: &str) -> Result<Vec<Kind>> {
        let names: Vec<_> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Ok(Kind::ALL.to_vec());
        }
        let kind = |name: &&str| {
            let found = Kind::ALL.into_iter().find(|kind| kind.to_string() == **name);
            found.context(format!("{name:?} is no kind of fault; there are kill, pause, disk, net and core"))
        };
        names.iter().map(kind).collect()
    }

    /// Why it can't be done here, if it can't.
    pub fn missing(self) -> Option<String> {
        match self {
            Kind::Disk => SlowDisk::missing(),
            Kind::Net => Network::missing(),
            Kind::Kill | Kind::Pause | Kind::Core => None,
        }
    }

    /// Does it to the cluster, ends it, and says what it was.
    pub async fn inflict(self, cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
        match self {
            Kind::Kill => kill(cluster, rng).await,
            Kind::Pause => pause(cluster, rng).await,
            Kind::Disk => slow_disk(cluster, rng).await,
            Kind::Net => cut(cluster, rng).await,
            Kind::Core => abort(cluster, rng).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Disk => "disk",
            Kind::Net => "net",
            Kind::Core => "core",
        })
    }
}

/// Whom a fault concerns, and how he is called.
async fn victim(cluster: &Cluster, rng: &mut StdRng) -> Result<(Arc<Node>, &'static str)> {
    if rng.random_bool(0.5) {
        return Ok((cluster.leader().await?, "leader"));
    }
    Ok((cluster.follower().await?, "follower"))
}

fn some(rng: &mut StdRng, ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(ms))
}

async fn kill(cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
    let (victims, who) = match rng.random_range(0..3) {
        0 => (cluster.nodes().to_vec(), "all"),
        _ => {
            let (victim, who) = victim(cluster, rng).await?;
            (vec![victim], who)
        }
    };
    Node::kill_all(victims.iter().map(Arc::as_ref))?;
    sleep(some(rng, DOWN_MS)).await;
    for victim in &victims {
        victim.start().await?;
    }
    Ok(format!("kill: {who}"))
}

async fn abort(cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
    let (victim, who) = victim(cluster, rng).await?;
    victim.abort().await?;
    sleep(some(rng, DOWN_MS)).await;
    victim.start().await?;
    Ok(format!("core: the {who}'s process ends by itself"))
}

async fn pause(cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
    let (victim, who) = victim(cluster, rng).await?;
    victim.pause()?;
    sleep(some(rng, PAUSE_MS)).await;
    victim.resume()?;
    Ok(format!("pause: {who}"))
}

async fn slow_disk(cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
    match rng.random_range(0..3) {
        0 => {
            let delay = some(rng, SYNC_MS);
            let disks: Vec<_> =
                cluster.nodes().iter().map(|node| SlowDisk::delay(node, delay)).collect::<Result<_>>()?;
            sleep(some(rng, STUTTER_MS)).await;
            drop(disks);
            Ok("disk: all stutter".into())
        }
        1 => {
            let (victim, who) = victim(cluster, rng).await?;
            let disk = SlowDisk::delay(&victim, some(rng, SYNC_MS))?;
            sleep(some(rng, STUTTER_MS)).await;
            drop(disk);
            Ok(format!("disk: the {who}'s stutters"))
        }
        _ => {
            let (victim, who) = victim(cluster, rng).await?;
            let disk = SlowDisk::hang(&victim)?;
            sleep(some(rng, HANG_MS)).await;
            drop(disk);
            Ok(format!("disk: the {who}'s hangs"))
        }
    }
}

/// Cuts some of the connections, and heals them.
async fn cut(cluster: &Cluster, rng: &mut StdRng) -> Result<String> {
    let network = cluster.network().context("the nodes have no network of their own")?;
    let leader = cluster.leader().await?;
    let hosts = cluster.nodes().len();
    ensure!(hosts > 2, "a network of {hosts} has nothing to cut");
    let at = cluster.nodes().iter().position(|node| Arc::ptr_eq(node, &leader));
    let at = at.ok_or_else(|| Failure::new("the leader is none of the nodes"))?;
    let others: Vec<usize> = (0..hosts).filter(|host| *host != at).collect();
    let one = others[rng.random_range(0..others.len())];
    let what = match rng.random_range(0..6) {
        0 => {
            others.iter().try_for_each(|host| network.cut(*host, at))?;
            "net: the leader hears nobody"
        }
        1 => {
            others.iter().try_for_each(|host| network.cut(at, *host))?;
            "net: nobody hears the leader"
        }
        2 => {
            network.cut(at, one)?;
            network.cut(one, at)?;
            "net: leader and one follower cut"
        }
        3 => {
            (0..hosts).filter(|host| *host != one).try_for_each(|host| {
                network.cut(host, one)?;
                network.cut(one, host)
            })?;
            "net: one follower alone"
        }
        4 => {
            (0..hosts).try_for_each(|host| network.cut(host, (host + 1) % hosts))?;
            "net: ring, each cut one way"
        }
        _ => {
            network.lose(rng.random_range(LOST_PERCENT))?;
            "net: packets lost everywhere"
        }
    };
    sleep(some(rng, CUT_MS)).await;
    network.heal()?;
    Ok(what.into())
}

#[cfg(test)]
mod tests {
    //! Goal: kinds are chosen by their names, and a name that is none is not passed over.
    use super::*;

    #[test]
    fn kinds_have_names() {
        assert_eq!(Kind::parse("").unwrap(), Kind::ALL);
        assert_eq!(Kind::parse("net, kill").unwrap(), [Kind::Net, Kind::Kill]);
        assert!(Kind::parse("kill,fire").is_err());
    }
}
