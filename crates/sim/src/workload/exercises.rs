//! What is done to the membership once all is well, under load: disks are replaced, quorums lost and recovered, and what
//! is wrong to ask for is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvorum_client::Error;
use kvorum_client::admin::{AdminClient, Operations, Voter, v1};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use tokio::time::{Instant, sleep};

use super::{HostNetwork, Session, options};
use crate::orders::Order;
use crate::world::clock::SECOND;
use crate::world::random::stream;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a change of the membership may take where all is well.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// Calls in flight end within this once nobody begins another one.
const SETTLES: Duration = Duration::from_secs(5);
/// Snapshots that a member streams to administrators at a time.
const SNAPSHOTS_MAX: usize = 4;
/// How long a majority of the disks that vote is away, and after how much of that nobody takes writes any more.
const AWAY: Duration = Duration::from_secs(6);
const AWAY_NOTICED: Duration = Duration::from_secs(2);
/// How often who leads is started anew, after how long, and for how long nobody has written by then. Before that, messages
/// that were lost arrive.
const STARTS_ANEW: u32 = 3;
const STARTS_AFTER: Duration = Duration::from_millis(50);
const UNWRITTEN: Duration = Duration::from_secs(3);
const OUTSTANDING: Duration = Duration::from_secs(12);
/// How long a disk is away until nobody takes it for one that is there.
const SILENT: Duration = Duration::from_secs(6);
/// Between two things that somebody does who administers under faults.
const ADMINISTERS: Duration = Duration::from_secs(3);

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Exercise {
    Nothing,
    /// A disk is lost, and replaced: the new one is added first, or the old one removed.
    Replace {
        adds_first: bool,
    },
    /// Members are asked to recover beside a majority.
    RecoverBesideMajority,
    /// All disks but one are lost.
    RecoverAlone,
    /// A disk that joined a cluster is asked to found one.
    FoundOnJoined,
    /// A member goes, and another one comes.
    RemoveAndAdd,
    /// More snapshots are asked for than a member streams at a time, and not read.
    Snapshots,
    /// Who leads is started anew while nobody writes, and may be elected again before it hears what time it is.
    StartAnew,
}

const EXERCISES: [Exercise; 9] = [
    Exercise::Nothing,
    Exercise::Replace { adds_first: true },
    Exercise::Replace { adds_first: false },
    Exercise::RecoverBesideMajority,
    Exercise::RecoverAlone,
    Exercise::FoundOnJoined,
    Exercise::RemoveAndAdd,
    Exercise::Snapshots,
    Exercise::StartAnew,
];

struct Admin {
    session: Arc<Session>,
    network: HostNetwork,
    peers: Vec<String>,
    random: StdRng,
}

/// Does the exercise of the seed once all is well.
pub async fn work(session: Arc<Session>, network: HostNetwork, peers: Vec<String>) {
    let random = stream(session.seed, "exercises");
    let mut admin = Admin { session: session.clone(), network, peers, random };
    if session.mix.administers {
        admin.administer().await;
    }
    while !session.is_healed() {
        sleep(PAUSE).await;
    }
    let exercise = match EXERCISES.choose(&mut admin.random).copied() {
        // The gravest comes more often.
        Some(Exercise::Nothing) if stream(session.seed, "more exercises").random_range(0..2) == 0 => {
            Exercise::RecoverAlone
        }
        exercise => exercise.unwrap_or(Exercise::Nothing),
    };
    session.trace.tell("exercise", format!("{exercise:?}"));
    if let Err(what) = admin.exercise(exercise).await {
        session.violated(format!("{exercise:?}: {what}"));
    }
    session.set_exercised();
}

impl Admin {
    /// Transfers leadership and asks for what is wrong, while faults go on.
    async fn administer(&mut self) {
        while !self.session.is_healed() {
            let pause = self.random.random_range(Duration::ZERO..=2 * ADMINISTERS);
            sleep(pause).await;
            if !self.session.is_founded() {
                continue;
            }
            if self.random.random_range(0..2) == 0 {
                let to = self.random_peer();
                let id = self.admin(&to).status().await.ok().map(|status| status.node_id);
                let transferred = self.operations().transfer_leader(id).await;
                self.session.answered("transfer", 0, &transferred);
            } else {
                self.ask_for_what_is_wrong().await;
            }
        }
    }

    async fn ask_for_what_is_wrong(&mut self) {
        let peer = self.random_peer();
        let admin = self.admin(&peer);
        let Ok(status) = admin.status().await else { return };
        let stranger = v1::Node {
            node_id: status.node_id ^ 1,
            peer_address: peer.clone(),
            client_address: status.client_address.clone(),
        };
        let (what, answer) = match self.random.random_range(0..6) {
            0 => ("no voters", admin.change_membership(Vec::new(), None).await.map(drop)),
            1 => ("a voter that is no member", admin.change_membership(vec![7], None).await.map(drop)),
            2 => ("a disk that is another one", admin.add_learner(stranger, None).await.map(drop)),
            3 if status.voter => (
                "the removal of a voter as a learner",
                admin.remove_learner(status.node_id, None).await.map(drop),
            ),
            4 => ("another cluster", admin.initialize(status.cluster_id ^ 1, None, false).await.map(drop)),
            _ => {
                let last = v1::LogId { term: status.term + 1, index: 1 << 40 };
                ("a recovery from another log", admin.recover(recover(&status, Some(last))).await)
            }
        };
        self.session.answered("wrong", 0, &answer);
        if answer.is_ok() {
            self.session.violated(format!("member {peer} has done what is wrong: {what}"));
        }
    }

    async fn exercise(&mut self, exercise: Exercise) -> Result<(), String> {
        match exercise {
            Exercise::Nothing => Ok(()),
            Exercise::Replace { adds_first } => self.replace(adds_first).await,
            Exercise::RecoverBesideMajority => self.recover_beside_majority().await,
            Exercise::RecoverAlone => self.recover_alone().await,
            Exercise::FoundOnJoined => self.found_on_joined().await,
            Exercise::RemoveAndAdd => self.remove_and_add().await,
            Exercise::Snapshots => self.snapshots().await,
            Exercise::StartAnew => self.start_anew().await,
        }
    }

    async fn replace(&mut self, adds_first: bool) -> Result<(), String> {
        let host = self.random_host();
        let old = self.status(host).await?.node_id;
        self.session.orders.give(Order::Wipe(host));
        self.another(host, old).await?;
        let kills_leader = self.random.random_range(0..2) == 0;
        if adds_first {
            self.add(host, Voter::No).await?;
            self.be_without_majority(host).await?;
            self.promote_who_is_away(host).await?;
        }
        if kills_leader {
            self.kill_leader(host).await?;
        }
        self.remove(old).await?;
        self.add(host, Voter::Yes).await?;
        self.whole().await
    }

    /// Cuts off one of two disks that are left of those that vote. The disk that stands in the place of the third one is
    /// no voter yet, and whoever takes calls to the old one for its own makes up a majority now that there is not.
    async fn be_without_majority(&mut self, replaced: usize) -> Result<(), String> {
        let other = (replaced + self.random.random_range(1..self.peers.len())) % self.peers.len();
        let is_majority = |left: usize| 2 * left > self.peers.len();
        if is_majority(self.peers.len() - 2) {
            return Ok(());
        }
        self.session.orders.set_over(true);
        self.session.orders.give(Order::Isolate(other, AWAY.as_micros() as u64));
        sleep(AWAY_NOTICED).await;
        let before = self.session.orders.written();
        sleep(AWAY - 2 * AWAY_NOTICED).await;
        let after = self.session.orders.written();
        sleep(2 * AWAY_NOTICED).await;
        self.session.orders.set_over(false);
        if after > before {
            return Err("writes were taken without a majority of the disks that vote".to_owned());
        }
        Ok(())
    }

    /// Asks for the vote of a disk that does not vote yet, while nobody has heard of it for a while.
    async fn promote_who_is_away(&mut self, host: usize) -> Result<(), String> {
        let id = self.status(host).await?.node_id;
        self.session.orders.hold_down(host, true);
        self.session.orders.give(Order::Kill(host, SECOND));
        sleep(SILENT).await;
        let leader = self.leader().await?;
        let status = self.status(leader).await?;
        let configs = status.membership.map(|membership| membership.configs).unwrap_or_default();
        let mut voters = configs.last().map(|voters| voters.node_ids.clone()).unwrap_or_default();
        voters.push(id);
        let answer = self.admin(&self.peers[leader]).change_membership(voters, None).await;
        self.session.answered("promote", host as u64, &answer);
        let status = self.status(leader).await?;
        let configs = status.membership.map(|membership| membership.configs).unwrap_or_default();
        // What cannot be committed without it would wait for it.
        if answer.is_ok() || configs.iter().any(|voters| voters.node_ids.contains(&id)) {
            return Err(format!("{} is made a voter, and has been away for {SILENT:?}", self.peers[host]));
        }
        self.session.orders.hold_down(host, false);
        self.session.orders.give(Order::Start(host));
        Ok(())
    }

    /// Kills the leader, unless it is this member, and answers which it was.
    async fn kill_leader(&mut self, but: usize) -> Result<Option<usize>, String> {
        let leader = Some(self.leader().await?).filter(|leader| *leader != but);
        if let Some(leader) = leader {
            self.session.orders.give(Order::Kill(leader, 8 * SECOND));
            sleep(Duration::from_millis(10)).await;
        }
        Ok(leader)
    }

    async fn recover_beside_majority(&mut self) -> Result<(), String> {
        for is_killed in [true, false] {
            let leader = if is_killed { self.kill_leader(usize::MAX).await? } else { None };
            let mut hosts: Vec<usize> = (0..self.peers.len()).filter(|host| Some(*host) != leader).collect();
            hosts.shuffle(&mut self.random);
            for host in hosts {
                let admin = self.admin(&self.peers[host]);
                let Ok(status) = admin.status().await else { continue };
                let answer = admin.recover(recover(&status, None)).await;
                self.session.answered("recover", host as u64, &answer);
                if answer.is_ok() {
                    return Err(format!("{} recovers its cluster beside a majority", self.peers[host]));
                }
            }
        }
        self.whole().await
    }

    async fn recover_alone(&mut self) -> Result<(), String> {
        // What the one disk lacks may be lost for good; so nobody writes before.
        self.session.rest(true);
        sleep(SETTLES).await;
        self.whole().await?;
        let survivor = match self.random.random_range(0..4) {
            0 => self.random_host(),
            _ => self.leader().await?,
        };
        self.session.set_new_history();
        self.session.orders.set_over(true);
        let lost: Vec<usize> = (0..self.peers.len()).filter(|host| *host != survivor).collect();
        for host in &lost {
            self.session.orders.hold_down(*host, true);
            self.session.orders.give(Order::Wipe(*host));
        }
        sleep(PAUSE).await;
        let admin = self.admin(&self.peers[survivor]);
        // A leader that is left alone is asked to be the only voter: that is not for it to decide, and what it has begun
        // with that does not keep it from being recovered.
        let id = admin.status().await.map_err(told)?.node_id;
        let answer = admin.change_membership(vec![id], None).await;
        self.session.answered("alone", survivor as u64, &answer);
        if answer.is_ok() {
            return Err(format!(
                "{} has made itself the only voter, without a majority",
                self.peers[survivor]
            ));
        }
        let until = Instant::now() + CHANGE_MAX;
        loop {
            let status = admin.status().await.map_err(told)?;
            let last = status.last_log.map_or(0, |last| last.index);
            match admin.recover(recover(&status, None)).await {
                Ok(()) => {
                    self.session.orders.give(Order::Recovered(last));
                    break;
                }
                Err(error) if Instant::now() > until => return Err(told(error)),
                Err(_) => sleep(PAUSE).await,
            }
        }
        for host in &lost {
            self.session.orders.hold_down(*host, false);
            self.session.orders.give(Order::Start(*host));
        }
        sleep(Duration::from_secs(2)).await;
        for host in &lost {
            self.add(*host, Voter::Yes).await?;
        }
        self.session.rest(false);
        self.session.orders.set_over(false);
        self.whole().await
    }

    async fn found_on_joined(&mut self) -> Result<(), String> {
        let host = self.random_host();
        let old = self.status(host).await?.node_id;
        self.session.orders.give(Order::Wipe(host));
        let new = self.another(host, old).await?;
        let (leader, _) = self.operations().leader().await.map_err(told)?;
        let node = v1::Node {
            node_id: new.node_id,
            peer_address: self.peers[host].clone(),
            client_address: new.client_address.clone(),
        };
        // It joins, and the membership is another one than was expected: so it is no member.
        let expected = Some(v1::LogId { term: 1 << 20, index: 1 << 40 });
        let added = self.admin(&leader).add_learner(node, expected).await;
        self.session.answered("add", host as u64, &added.map(drop));
        let joined = self.admin(&self.peers[host]).status().await.map_err(told)?;
        if joined.cluster_id != 0 {
            let founded = self.admin(&self.peers[host]).initialize(0, None, false).await;
            self.session.answered("found", host as u64, &founded);
            if founded.is_ok() {
                return Err(format!("{} founds the cluster that it has joined", self.peers[host]));
            }
        }
        self.remove(old).await?;
        self.add(host, Voter::Yes).await?;
        self.whole().await
    }

    async fn remove_and_add(&mut self) -> Result<(), String> {
        let host = self.random_host();
        let id = self.status(host).await?.node_id;
        self.remove(id).await?;
        sleep(Duration::from_secs(1)).await;
        self.session.orders.give(Order::Wipe(host));
        self.another(host, id).await?;
        self.add(host, Voter::No).await?;
        self.promote_who_is_away(host).await?;
        self.add(host, Voter::Yes).await?;
        self.whole().await
    }

    async fn snapshots(&mut self) -> Result<(), String> {
        let peer = self.random_peer();
        let admin = self.admin(&peer);
        let mut streams = Vec::new();
        for number in 0..2 * SNAPSHOTS_MAX {
            let stream = admin.snapshot().await;
            self.session.answered("snapshot", number as u64, &stream);
            streams.extend(stream.ok());
        }
        sleep(Duration::from_secs(2)).await;
        if streams.len() > SNAPSHOTS_MAX {
            return Err(format!("{peer} streams {} snapshots at a time", streams.len()));
        }
        // Those that nobody reads end by themselves, and the next one has a place.
        let until = Instant::now() + CHANGE_MAX;
        while let Err(error) = self.admin(&peer).snapshot().await {
            if Instant::now() > until {
                return Err(format!("snapshots that nobody reads hold all places of {peer}: {error}"));
            }
            sleep(PAUSE).await;
        }
        self.whole().await
    }

    /// Of three members one is cut off, so that who led and is started anew is elected by the one that is left, or elects it.
    /// Nothing in its log says how late it is by then.
    async fn start_anew(&mut self) -> Result<(), String> {
        if self.peers.len() != 3 {
            return Ok(());
        }
        self.session.rest(true);
        self.session.orders.set_over(true);
        sleep(OUTSTANDING).await;
        for _ in 0..STARTS_ANEW {
            let leader = self.leader().await?;
            let cut = (leader + self.random.random_range(1..3)) % 3;
            sleep(UNWRITTEN).await;
            self.session.orders.give(Order::Isolate(cut, AWAY.as_micros() as u64));
            self.session.orders.give(Order::Kill(leader, STARTS_AFTER.as_micros() as u64));
            sleep(AWAY + AWAY_NOTICED).await;
            self.whole().await?;
        }
        self.session.orders.set_over(false);
        self.session.rest(false);
        Ok(())
    }

    /// Adds the disk that a member has, again and again, as a person would where it is refused for the moment.
    async fn add(&self, host: usize, voter: Voter) -> Result<(), String> {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            match self.operations().add(&self.peers[host], voter, &mut |_| {}).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(told(error)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Removes a member, likewise.
    async fn remove(&self, id: u64) -> Result<(), String> {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            match self.operations().remove(id, &mut |_| {}).await {
                Ok(()) => return Ok(()),
                // It was done by the time that it is asked for again.
                Err(Error::Membership(what)) if what.starts_with("there is no member") => return Ok(()),
                Err(error) if Instant::now() > until => return Err(told(error)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until another disk is there. Often its machine loses its power when it has just got what the others hold.
    async fn another(&mut self, host: usize, old: u64) -> Result<v1::StatusResponse, String> {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            match self.admin(&self.peers[host]).status().await {
                Ok(status) if status.node_id != old => {
                    if self.random.random_range(0..2) == 0 {
                        self.session.orders.give(Order::LosePowerAfterInstall(host));
                    }
                    return Ok(status);
                }
                _ if Instant::now() > until => return Err(format!("{} has no new disk", self.peers[host])),
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until all vote and have applied the same.
    async fn whole(&self) -> Result<(), String> {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            let mut statuses = Vec::new();
            for peer in &self.peers {
                statuses.extend(self.admin(peer).status().await.ok());
            }
            let ids: BTreeSet<u64> = statuses.iter().map(|status| status.node_id).collect();
            let agrees = |status: &v1::StatusResponse| {
                let configs = status.membership.iter().flat_map(|membership| &membership.configs);
                configs
                    .into_iter()
                    .all(|config| config.node_ids.iter().copied().collect::<BTreeSet<_>>() == ids)
            };
            let is_whole = ids.len() == self.peers.len()
                && statuses.iter().all(|status| status.voter && agrees(status))
                && statuses.iter().any(|status| status.state() == v1::State::Leader);
            if is_whole {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("the members did not all become voters again".to_owned());
            }
            sleep(PAUSE).await;
        }
    }

    /// The member that leads.
    async fn leader(&self) -> Result<usize, String> {
        let (address, _) = self.operations().leader().await.map_err(told)?;
        let leader = self.peers.iter().position(|peer| *peer == address);
        leader.ok_or_else(|| format!("{address} leads, and is no member here"))
    }

    async fn status(&self, host: usize) -> Result<v1::StatusResponse, String> {
        let until = Instant::now() + CHANGE_MAX;
        loop {
            match self.admin(&self.peers[host]).status().await {
                Ok(status) => return Ok(status),
                Err(error) if Instant::now() > until => return Err(told(error)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn random_host(&mut self) -> usize {
        self.random.random_range(0..self.peers.len())
    }

    fn random_peer(&mut self) -> String {
        let host = self.random_host();
        self.peers[host].clone()
    }

    fn admin(&self, peer: &str) -> AdminClient {
        let admin =
            AdminClient::new(peer, Duration::from_secs(10)).expect("the simulation's addresses are right");
        admin.connect_options(options(&self.network))
    }

    fn operations(&self) -> Operations {
        let operations =
            Operations::at(self.peers.clone(), CHANGE_MAX).expect("the simulation's addresses are right");
        operations.connect_options(options(&self.network))
    }
}

/// A request to recover, as somebody makes it who has just looked.
fn recover(status: &v1::StatusResponse, last_log_id: Option<v1::LogId>) -> v1::RecoverRequest {
    v1::RecoverRequest {
        node_id: status.node_id,
        last_log_id: last_log_id.or(status.last_log),
        from_incarnation: status.incarnation,
        to_incarnation: status.incarnation + 1,
    }
}

fn told(error: Error) -> String {
    error.to_string()
}
