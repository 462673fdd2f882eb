//! What a simulated Kubernetes does to the hosts of its pods, and the processes of operators.

use std::io;

use kvorum_operator::names;
use kvorum_store::auth::ROOT;

use super::{Cluster, Violation, told};
use crate::kubernetes::{CLUSTER, Kubernetes, NAMESPACE, Server, operate};
use crate::plan::{Fault, What};
use crate::world::clock::{Micros, SECOND};
use crate::world::network::HostId;
use crate::world::random::stream;
use crate::world::{Death, World};

/// What makes a cluster one that operators look after.
#[derive(Debug)]
pub(super) struct Operated {
    pub(super) seed: u64,
    pub(super) server: Server,
    /// The hosts of operators.
    pub(super) operators: Vec<HostId>,
    /// How often one was started.
    pub(super) starts: u64,
    /// The flags of the pod that each member's host has, if it has one.
    pub(super) flags: Vec<Option<Vec<String>>>,
    /// Until when one of them does not see, or not at once, what there is.
    pub(super) kept_until: Micros,
}

/// `host:port` of an ordinal's port.
pub(super) fn address(ordinal: HostId, port: u16) -> String {
    names::address(CLUSTER, NAMESPACE, ordinal as u32, i32::from(port))
}

impl Cluster {
    /// Members that there are just now.
    pub(super) fn there(&self) -> usize {
        let pods = self.operated.as_ref().map(|operated| operated.flags.iter().flatten().count());
        pods.unwrap_or(self.members)
    }

    /// Whether the host is one of an operator's.
    pub(super) fn is_operator(&self, host: HostId) -> bool {
        self.operated.as_ref().is_some_and(|operated| operated.operators.contains(&host))
    }

    /// The host of an operator, where there are so many.
    pub(super) fn operator(&self, number: usize) -> Option<HostId> {
        self.operated.as_ref()?.operators.get(number).copied()
    }

    /// Starts the process of an operator, unless it runs.
    pub(super) fn start_operator(&mut self, world: &mut World, host: HostId) -> io::Result<()> {
        let Some(operated) = &mut self.operated else { return Ok(()) };
        if world.hosts[host].is_up() {
            return Ok(());
        }
        operated.starts += 1;
        let random = stream(operated.seed, &format!("operator {}", operated.starts));
        let (server, network) = (operated.server.clone(), world.network_of(host).of_user(Some(ROOT)));
        world.start(host, None, |_, runtime| drop(runtime.spawn(operate(server, network, random))))
    }

    /// The process of an operator ends, and is started again after a while.
    pub(super) fn end_operator(
        &mut self,
        world: &mut World,
        number: usize,
        lasts: u64,
    ) -> Result<(), Violation> {
        let Some(host) = self.operator(number) else { return Ok(()) };
        world.kill(host, Death::Killed).map_err(told)?;
        self.schedule(world.clock.now() + lasts, super::Later::Start(host));
        Ok(())
    }

    /// Until when an operator was kept from looking.
    pub fn operators_kept_until(&self) -> Micros {
        self.operated.as_ref().map(|operated| operated.kept_until).unwrap_or_default()
    }

    /// An operator is kept from looking until then, if that is what happens.
    pub(super) fn note_kept(&mut self, what: What, until: Micros) {
        let keeps = matches!(
            what,
            What::OperatorStands(_) | What::OperatorAlone(_) | What::OperatorDies(_) | What::ServerAway
        );
        if let Some(operated) = self.operated.as_mut().filter(|_| keeps) {
            operated.kept_until = operated.kept_until.max(until);
        }
    }

    /// Something happens to the world of operators.
    pub(super) fn of_kubernetes(&mut self, world: &mut World, what: What) -> Result<&'static str, Violation> {
        let Some(mut kubernetes) = self.kubernetes.take() else { return Ok("none") };
        let begun = kubernetes.begin(self, world, what);
        self.kubernetes = Some(kubernetes);
        begun
    }

    /// What is not yet as the KvCluster wants it, if anything.
    pub fn unwanted(&self) -> Option<String> {
        self.kubernetes.as_ref()?.unwanted()
    }

    /// Whether the seed has a loss of most disks in the end.
    pub fn loses_most(&self) -> bool {
        self.kubernetes.as_ref().is_some_and(Kubernetes::loses_most)
    }

    /// What a person wants in the end, while all is well.
    pub fn wish(&mut self, world: &mut World) -> Result<(), Violation> {
        let wish = self.kubernetes.as_ref().and_then(Kubernetes::wish);
        let at = world.clock.now();
        wish.map_or(Ok(()), |what| self.begin(world, Fault { at, lasts: 0, what }))
    }

    /// All disks but one are lost.
    pub fn lose_most(&mut self, world: &mut World) -> Result<(), Violation> {
        let Some(mut kubernetes) = self.kubernetes.take() else { return Ok(()) };
        let lost = kubernetes.lose_most(self, world);
        self.kubernetes = Some(kubernetes);
        lost
    }

    /// Whether a person has asked for a recovery.
    pub fn is_asked_to_recover(&self) -> bool {
        self.kubernetes.as_ref().is_some_and(Kubernetes::is_asked_to_recover)
    }

    /// A recovery goes on with the log up to here.
    pub fn recovers(&self, last: u64) {
        self.checks.recovered(last);
    }

    /// The host runs a pod with these flags from now on.
    pub fn start_pod(
        &mut self,
        world: &mut World,
        host: HostId,
        flags: Vec<String>,
    ) -> Result<(), Violation> {
        let Some(operated) = &mut self.operated else { return Ok(()) };
        operated.flags[host] = Some(flags);
        self.orders.hold_down(host, false);
        self.start_member(world, host).map_err(told)
    }

    /// The process of a pod is asked to stop, and does not start again.
    pub fn stop_pod(&mut self, host: HostId) {
        self.take_flags(host);
        self.lives[host].stop.notify_one();
    }

    /// The host runs no pod from now on.
    pub fn end_pod(&mut self, world: &mut World, host: HostId) -> Result<(), Violation> {
        self.take_flags(host);
        if world.hosts[host].is_up() {
            self.end_process(world, host, Death::Killed, 0)?;
        }
        Ok(())
    }

    /// The machine of a pod is without power for good.
    pub fn lose_power(&mut self, world: &mut World, host: HostId) -> Result<(), Violation> {
        self.take_flags(host);
        if world.hosts[host].is_up() {
            self.end_process(world, host, Death::PowerLost, 0)?;
        }
        Ok(())
    }

    /// The disk of a host is another one, an empty one. A pod that runs there starts anew.
    pub fn lose_disk(&mut self, world: &mut World, host: HostId) -> Result<(), Violation> {
        if world.hosts[host].is_up() {
            self.end_process(world, host, Death::Killed, SECOND)?;
        }
        world.wipe(host).map_err(told)?;
        self.checks.wiped(host);
        Ok(())
    }

    /// Whether the process of a pod runs.
    pub fn runs(&self, world: &World, host: HostId) -> bool {
        world.hosts[host].is_up()
    }

    /// Whether it says that it is ready; who stands still says nothing.
    pub fn is_ready(&self, world: &World, host: HostId) -> bool {
        let stands = world.hosts[host].stands(world.clock.now());
        !stands && self.checks.glance(host).is_some_and(|seen| seen.ready.is_ok())
    }

    /// The address of a host.
    pub fn address(&self, world: &World, host: HostId) -> String {
        world.network.with(|network| network.address(host).to_string())
    }

    fn take_flags(&mut self, host: HostId) {
        if let Some(operated) = &mut self.operated {
            operated.flags[host] = None;
        }
        self.orders.hold_down(host, true);
    }
}
