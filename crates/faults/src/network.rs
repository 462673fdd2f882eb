//! A network of its own for a test: each host a network namespace, all on one bridge, so that what goes
//! between two of them can be cut or lost one way, while the test itself reaches all.
//!
//! What is cut is dropped where it comes in, without a word to the sender, as a broken link does it.

use std::process::Command;

use crate::{Context as _, Failure, Result};

/// Networks that can be there at a time, each of which has one of the subnets 198.18.1.0/24 to
/// 198.18.250.0/24, which are set aside for tests.
const NETWORKS_MAX: u8 = 250;
/// The first host's last number in its address.
const FIRST_HOST: usize = 10;

/// Where a process is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its network namespace.
    pub namespace: String,
    /// Its address.
    pub address: String,
}

/// A bridge and its hosts, until it is dropped.
#[derive(Debug)]
pub struct Network {
    number: u8,
    hosts: usize,
}

impl Network {
    /// Why there can be no network here, if there can't.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".into());
        }
        let tried = Network::make(1).and_then(|network| {
            network.lose(1)?;
            run(&["nsenter", &format!("--net=/run/netns/{}", network.namespace(0)), "true"])
        });
        tried.err().map(|failure| format!("a network namespace cannot be made and cut off: {failure}"))
    }

    /// Makes a network of so many hosts.
    pub fn make(hosts: usize) -> Result<Network> {
        let start = std::process::id() % u32::from(NETWORKS_MAX);
        let mut last = Failure::new("all networks are taken");
        for offset in 0..NETWORKS_MAX {
            let number = ((start + u32::from(offset)) % u32::from(NETWORKS_MAX)) as u8 + 1;
            let bridge = bridge(number);
            if let Err(failure) = run(&["ip", "link", "add", &bridge, "type", "bridge"]) {
                // Another test has it.
                last = failure;
                continue;
            }
            // From here on what was made is taken down again, also where the rest fails.
            let network = Network { number, hosts };
            run(&["ip", "addr", "add", &format!("198.18.{number}.1/24"), "dev", &bridge])?;
            run(&["ip", "link", "set", &bridge, "up"])?;
            (0..hosts).try_for_each(|host| network.add(host))?;
            return Ok(network);
        }
        Err(last)
    }

    fn add(&self, host: usize) -> Result<()> {
        let (namespace, bridge) = (self.namespace(host), bridge(self.number));
        let (end, address) = (format!("{bridge}v{host}"), format!("{}/24", self.address(host)));
        run(&["ip", "netns", "add", &namespace])?;
        run(&["ip", "link", "add", &end, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        run(&["ip", "link", "set", &end, "master", &bridge, "up"])?;
        run(&["ip", "-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        run(&["ip", "-n", &namespace, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &namespace, "link", "set", "lo", "up"])
    }

    /// The host with this number.
    pub fn host(&self, host: usize) -> Host {
        Host { namespace: self.namespace(host), address: self.address(host) }
    }

    /// From now on nothing that one host sends reaches the other. The other way is as it was.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        self.drop_packets(from, to, &[])
    }

    /// From now on so many per cent of the packets between hosts are lost.
    pub fn lose(&self, percent: u8) -> Result<()> {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        let which = ["-m", "statistic", "--mode", "random", "--probability", &probability];
        for to in 0..self.hosts {
            for from in (0..self.hosts).filter(|from| *from != to) {
                self.drop_packets(from, to, &which)?;
            }
        }
        Ok(())
    }

    /// Drops what comes in from a host: all of it, or what these options of iptables choose.
    fn drop_packets(&self, from: usize, to: usize, which: &[&str]) -> Result<()> {
        let (source, namespace) = (self.address(from), self.namespace(to));
        let rule = ["ip", "netns", "exec", &namespace, "iptables", "-w", "-A", "INPUT", "-s", &source];
        run(&[&rule[..], which, &["-j", "DROP"]].concat())
    }

    /// Everything reaches everybody again.
    pub fn heal(&self) -> Result<()> {
        (0..self.hosts).try_for_each(|host| {
            run(&["ip", "netns", "exec", &self.namespace(host), "iptables", "-w", "-F", "INPUT"])
        })
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", bridge(self.number))
    }

    fn address(&self, host: usize) -> String {
        format!("198.18.{}.{}", self.number, FIRST_HOST + host)
    }
}

impl Drop for Network {
    /// The ends in the bridge go with the namespaces, once the processes there have ended.
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = run(&["ip", "netns", "del", &self.namespace(host)]);
        }
        let _ = run(&["ip", "link", "del", &bridge(self.number)]);
    }
}

fn bridge(number: u8) -> String {
    format!("kvnet{number}")
}

fn run(command: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let output = Command::new(program).args(arguments).output().context(format!("run {program}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let (line, said) = (command.join(" "), String::from_utf8_lossy(&output.stderr));
            Err(Failure::new(format!("`{line}` failed ({}): {}", output.status, said.trim())))
        }
    }
}
