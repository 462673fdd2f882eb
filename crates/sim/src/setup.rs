//! How the members of a seed are set up: their limits, from the usual ones down to tiny ones, a quota, and releases.

use std::path::Path;

use clap::Parser as _;
use kvorum_node::config::{Cli, Config};
use kvorum_node::limits::Limits;
use kvorum_store::feature::FEATURE_LEVEL_MAX;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::world::clock::{Micros, SECOND};
use crate::world::names::{name, own_address};
use crate::world::network::{CLIENT_PORT, HostId, PEER_PORT};
use crate::world::random::stream;

/// Where members serve HTTP.
const HTTP_PORT: u16 = 2381;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// How members are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Their limits, those that must be equal and the others.
    pub limits: Limits,
    /// Bytes of keys and values that they take; 0: all that come.
    pub quota_bytes: u64,
    /// Raft log that is kept, so that who was away for long gets a snapshot.
    pub log_retain_bytes: u64,
    /// Bytes that may wait to be sent to clients.
    pub send_budget_bytes: u64,
    /// Until when each member is one of an older release.
    pub upgraded_at: Vec<Micros>,
}

impl Setup {
    /// Draws a setup for so many members, of a run whose faults go on for so long.
    pub fn draw(seed: u64, members: usize, lasts: Micros) -> Setup {
        let mut random = stream(seed, "setup");
        let mut limits = draw_limits(&mut random);
        draw_held(&mut stream(seed, "held"), &mut limits.store);
        draw_answers(&mut stream(seed, "answers"), &mut limits);
        let has_quota = random.random_range(0..6) == 0;
        let quota_bytes = random.random_range(200 * KIB..=2 * MIB);
        let log_retain_bytes = pick(&mut random, [32 * KIB, 64 * KIB, 64 * KIB, 512 * KIB]);
        let is_mixed = random.random_range(0..5) == 0;
        let upgrade = |random: &mut StdRng| random.random_range(5 * SECOND..=(lasts * 3 / 4).max(6 * SECOND));
        let upgraded_at = (0..members).map(|_| upgrade(&mut random)).map(|at| if is_mixed { at } else { 0 });
        let upgraded_at = upgraded_at.collect();
        let quota_bytes = if has_quota { quota_bytes } else { 0 };
        let send_budget_bytes = pick(&mut random, [MIB, 64 * MIB]);
        Setup { limits, quota_bytes, log_retain_bytes, send_budget_bytes, upgraded_at }
    }

    /// The highest feature level that a member knows at a time.
    pub fn level(&self, member: HostId, now: Micros) -> u32 {
        let is_old = self.upgraded_at.get(member).is_some_and(|at| now < *at);
        if is_old { FEATURE_LEVEL_MAX - 1 } else { FEATURE_LEVEL_MAX }
    }

    /// The configuration with which a member is started; its pod may say where it is and what else counts.
    pub fn config(&self, host: HostId, dir: &Path, now: Micros, pod: &[String]) -> Result<Config, String> {
        let (ip, name) = (own_address(host), name(host));
        let ports = [("client", CLIENT_PORT), ("peer", PEER_PORT), ("http", HTTP_PORT)];
        let listen = ports.map(|(port_name, port)| format!("--listen-{port_name}={ip}:{port}"));
        let advertise = [("client", CLIENT_PORT), ("peer", PEER_PORT)];
        let advertise = advertise.map(|(port_name, port)| format!("--advertise-{port_name}={name}:{port}"));
        let flags = [
            "kvorum-node".to_owned(),
            "--cache-bytes=8MiB".to_owned(),
            format!("--log-retain-bytes={}", self.log_retain_bytes),
            format!("--quota-bytes={}", self.quota_bytes),
            format!("--send-budget-bytes={}", self.send_budget_bytes),
            format!("--feature-level-max={}", self.level(host, now)),
            format!("--data-dir={}", dir.to_string_lossy()),
        ];
        let of_pod = pod.iter().filter(|flag| !OWN.iter().any(|own| is_same(own, flag))).cloned();
        let of_pod: Vec<String> = of_pod.collect();
        let flags = flags.into_iter().chain(listen).chain(advertise);
        let flags =
            flags.filter(|flag| !of_pod.iter().any(|given| is_same(given, flag))).chain(of_pod.clone());
        let cli = Cli::try_parse_from(flags).map_err(|error| error.to_string())?;
        let config = cli.flags.validate().map_err(|error| error.to_string())?;
        Ok(Config { client_threads: 0, limits: self.limits, ..config })
    }
}

/// Flags that are a host's, whatever a pod says.
const OWN: [&str; 4] = ["--data-dir=", "--listen-client=", "--listen-peer=", "--listen-http="];

/// Whether two flags are of one name.
fn is_same(one: &str, other: &str) -> bool {
    one.split('=').next() == other.split('=').next()
}

fn pick<T: Copy, const N: usize>(random: &mut StdRng, values: [T; N]) -> T {
    *values.choose(random).expect("there is one at least")
}

/// What a run holds in memory, usual or next to nothing. By numbers of its own, so that seeds and plans of before keep theirs.
fn draw_held(random: &mut StdRng, limits: &mut kvorum_store::Limits) {
    limits.held_bytes_max = pick(random, [0, 1000, limits.held_bytes_max]);
    limits.previous_told_bytes_max = pick(random, [0, 1000, limits.previous_told_bytes_max]);
}

/// What is answered at a time, of scans and watches, usual or little; by numbers of its own, too.
fn draw_answers(random: &mut StdRng, limits: &mut Limits) {
    // Smaller pages would take most of a run's time: all keys are read again and again.
    limits.page_bytes_max = pick(random, [4000, 16 << 10, limits.page_bytes_max]);
    limits.response_bytes_max = pick(random, [300, 4000, limits.response_bytes_max]);
}

/// In a quarter of all seeds the usual ones; else each by itself, usual or small.
fn draw_limits(random: &mut StdRng) -> Limits {
    let usual = Limits::default();
    let store = usual.store;
    let drawn = kvorum_store::Limits {
        deleted_keys_max: pick(random, [12, 12, store.deleted_keys_max]),
        deleted_bytes_max: pick(random, [8 * KIB, store.deleted_bytes_max]),
        superseded_bytes_max: store.superseded_bytes_max,
        previous_bytes_max: pick(random, [4 * KIB, store.previous_bytes_max]),
        step_changes_max: pick(random, [7, store.step_changes_max]),
        shared_values_max: pick(random, [3, store.shared_values_max]),
        // There are few users and roles, whose number no seed varies.
        users_max: store.users_max,
        roles_max: store.roles_max,
        permissions_max: store.permissions_max,
        auth_bytes_max: store.auth_bytes_max,
        batch_bytes_max: pick(random, [200, 4096, store.batch_bytes_max]),
        held_bytes_max: store.held_bytes_max,
        previous_told_bytes_max: store.previous_told_bytes_max,
        recent_bytes_max: pick(random, [1000, store.recent_bytes_max]),
        recent_value_bytes_max: pick(random, [100, store.recent_value_bytes_max]),
        skipped_keys_max: pick(random, [10, store.skipped_keys_max]),
        looked_at_changes_max: pick(random, [50, store.looked_at_changes_max]),
        frame_bytes_max: pick(random, [4096, store.frame_bytes_max]),
        segment_bytes_max: pick(random, [64 * KIB, 256 * KIB, 4 * MIB]),
        chunk_bytes: pick(random, [4096, 64 << 10, store.chunk_bytes]),
        repeatable: true,
    };
    let limits = Limits {
        store: drawn,
        log_cache_bytes: pick(random, [16 << 10, 1 << 20, usual.log_cache_bytes]),
        log_queue_bytes: pick(random, [32 << 10, usual.log_queue_bytes]),
        append_bytes_max: pick(random, [4096, usual.append_bytes_max]),
        ring_bytes_max: pick(random, [16 << 10, 256 << 10, usual.ring_bytes_max]),
        expired_keys_max: pick(random, [2, usual.expired_keys_max]),
        step_changes: pick(random, [5, usual.step_changes]),
        page_bytes_max: usual.page_bytes_max,
        response_bytes_max: usual.response_bytes_max,
    };
    if random.random_range(0..4) == 0 {
        let segment_bytes_max = 4 * MIB;
        let store = kvorum_store::Limits { repeatable: true, segment_bytes_max, ..store };
        return Limits { store, ..usual };
    }
    limits
}
