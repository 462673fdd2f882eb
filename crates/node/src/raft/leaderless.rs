//! What a node without a leader says of it: which voters it does not reach, and why.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Raft;

/// How long nobody may lead before the log says so: several elections.
const SAID_AFTER: Duration = Duration::from_secs(5);
/// Between two lines of one time without a leader.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

impl Raft {
    /// The other voters that this node does not reach, each with the reason.
    pub fn silent_voters(&self) -> Vec<String> {
        let (overview, Ok(core)) = (self.overview(), self.core()) else { return Vec::new() };
        let voters = overview.members.iter().filter(|member| member.voter);
        let silent = voters.filter_map(|member| {
            let problem = core.connections.problem(member.node_id)?;
            Some(format!("{} ({problem})", member.peer))
        });
        silent.collect()
    }
}

/// Says in the log that nobody leads, and who does not answer, until the node stops.
pub async fn tell(raft: Raft) {
    let (mut looks, mut stopping) = (interval(LOOK_PERIOD), raft.watch_stopping());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let overview = raft.overview();
        match overview.leaderless_since.filter(|_| overview.in_config).map(|since| since.elapsed()) {
            Some(lasting)
                if lasting >= SAID_AFTER && said.is_none_or(|said| said.elapsed() >= SAID_AGAIN) =>
            {
                said = Some(Instant::now());
                let silent = raft.silent_voters().join(", ");
                tracing::warn!(silent, "no leader for {} s", lasting.as_secs());
            }
            Some(_) => {}
            None if said.take().is_some() => tracing::info!("there is a leader again"),
            None => {}
        }
    }
}
