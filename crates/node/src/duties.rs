//! The leader's duties: to expire keys, to compact history, to move cluster time, to watch over
//! space and quota, and to finish what another leader began.
//!
//! Every node runs these tasks; each acts only while the node leads, but for its own space alarm.
//! What they do goes through the log like any client's write.

use std::collections::VecDeque;
use std::time::Duration;

use kvorum_store::command::{
    Answer, Command, Compact, CompactStep, CorruptAlarm, ExpireDue, Kind, Reason, SetQuota, SpaceAlarm, Tick,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::error::{AuthError, RequestError};
use crate::raft::Raft;
use crate::raft::gather::Applied;

/// How often due keys are looked for; a key goes within 500 ms of its deadline.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);

/// While deadlines exist, cluster time moves at least so often, so that a restart of all members
/// delays expiry by no more than this and the time they were down.
const TICK_PERIOD: Duration = Duration::from_secs(5);

/// The pause after a compaction step: some 50,000 changes a second are worked off.
const COMPACT_STEP_PAUSE: Duration = Duration::from_millis(10);
/// How often a compaction that has work left is looked for.
const COMPACTION_PERIOD: Duration = Duration::from_millis(500);

/// Samples of (time, revision) for the automatic compaction in one retention time.
const RETENTION_SAMPLES: u32 = 60;

/// How often the quota is looked at.
const QUOTA_PERIOD: Duration = Duration::from_secs(1);
/// How often the space on disk is: what a client can write meanwhile must fit into a small disk's
/// reserve.
const SPACE_PERIOD: Duration = Duration::from_millis(200);

/// How often it is looked whether all members know a higher feature level. A new cluster waits for it before rights
/// can count.
const FEATURE_LEVEL_PERIOD: Duration = Duration::from_millis(500);

/// How long a joint configuration may stand before the leader finishes it.
const JOINT_PATIENCE: Duration = Duration::from_secs(1);

/// How long one of these commands may take before it is tried anew.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the tasks.
pub fn start(raft: Raft) {
    every(&raft, EXPIRY_PERIOD, |raft| async move { expire(&raft).await });
    every(&raft, TICK_PERIOD, |raft| async move { tick(&raft).await });
    every(&raft, COMPACTION_PERIOD, |raft| async move { compact_steps(&raft).await });
    every(&raft, SPACE_PERIOD, |raft| async move { watch_space(&raft).await });
    every(&raft, QUOTA_PERIOD, |raft| async move { set_quota(&raft).await });
    every(&raft, FEATURE_LEVEL_PERIOD, |raft| async move { raise_feature_level(&raft).await });
    tokio::spawn(finish_joint_changes(raft.clone()));
    if !raft.options().auto_compaction_retention.is_zero() {
        tokio::spawn(compact_automatically(raft));
    }
}

/// Runs a duty periodically until the node stops. One that fails is tried again at the next turn.
fn every<D, F>(raft: &Raft, period: Duration, duty: D)
where
    D: Fn(Raft) -> F + Send + 'static,
    F: Future<Output = Result<(), RequestError>> + Send,
{
    let raft = raft.clone();
    tokio::spawn(async move {
        let mut stopping = raft.watch_stopping();
        let mut turns = interval(period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = turns.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if let Err(error) = duty(raft.clone()).await {
                tracing::debug!(%error, "a leader's duty has to be done again");
            }
        }
    });
}

async fn propose(raft: &Raft, kind: Kind) -> Result<Applied, RequestError> {
    // What only root may ask for, a compaction say, the leader does by itself; others are not asked whether they may.
    let command = Command { auth_revision: raft.store().auth_as_of(), ..Command::from(kind) };
    let applied = raft.propose_here(command.encoded(), Instant::now() + COMMAND_TIMEOUT).await?;
    match &applied.outcome.answer {
        Some(Answer::Refused(refused)) if refused.reason() == Reason::AuthMoved => {
            Err(AuthError::Moved.into())
        }
        _ => Ok(applied),
    }
}

fn leads(raft: &Raft) -> bool {
    raft.overview().is_leader()
}

async fn expire(raft: &Raft) -> Result<(), RequestError> {
    let keys_max = raft.options().limits.expired_keys_max;
    while leads(raft) && raft.store().has_deadlines() {
        let keys = raft.store().due(raft.cluster_now_ms(), keys_max)?;
        let found = keys.len();
        if found == 0 {
            break;
        }
        let applied = propose(raft, Kind::ExpireDue(ExpireDue { keys })).await?;
        let deleted = match &applied.outcome.answer {
            Some(Answer::Written(written)) => written.deleted.iter().sum(),
            _ => 0,
        };
        raft.metrics().expired(deleted);
        // What did not fit into one deletion is due still.
        if deleted == 0 || found < keys_max && deleted == found as u64 {
            break;
        }
    }
    Ok(())
}

async fn tick(raft: &Raft) -> Result<(), RequestError> {
    let behind_ms = raft.cluster_now_ms().saturating_sub(raft.store().cluster_time_ms());
    if leads(raft) && raft.store().has_deadlines() && behind_ms >= TICK_PERIOD.as_millis() as u64 / 2 {
        propose(raft, Kind::Tick(Tick {})).await?;
    }
    Ok(())
}

async fn compact_steps(raft: &Raft) -> Result<(), RequestError> {
    while leads(raft) && raft.store().compaction_backlog() {
        propose(raft, Kind::CompactStep(CompactStep { changes_max: raft.options().limits.step_changes }))
            .await?;
        sleep(COMPACT_STEP_PAUSE).await;
    }
    Ok(())
}

/// Compacts what is older than the retention time, as seen by this node while it leads.
async fn compact_automatically(raft: Raft) {
    let retention = raft.options().auto_compaction_retention;
    let mut stopping = raft.watch_stopping();
    let mut turns = interval(retention / RETENTION_SAMPLES);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        samples.push_back((Instant::now(), raft.store().revision()));
        let mut revision = 0;
        while samples.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            revision = samples.pop_front().map_or(revision, |(_, revision)| revision);
        }
        if leads(&raft) && revision > raft.store().compacted() {
            match propose(&raft, Kind::Compact(Compact { revision })).await {
                Ok(_) => tracing::info!(revision, "history compacted automatically"),
                Err(error) => tracing::warn!(%error, revision, "history not compacted; trying again"),
            }
        }
    }
}

/// Raises this node's space alarm when its disk runs short, and clears it when there is room again.
async fn watch_space(raft: &Raft) -> Result<(), RequestError> {
    let overview = raft.overview();
    let raised = match raft.look_at_disk().await {
        Ok(space) => space.low,
        Err(error) => {
            tracing::warn!(%error, "the space on disk could not be read");
            return Ok(());
        }
    };
    if overview.in_config && raised != raft.store().space_alarms().contains(&overview.node_id) {
        let alarm = SpaceAlarm { node_id: overview.node_id, raised };
        let command = Command::from(Kind::SpaceAlarm(alarm)).encoded();
        raft.propose(command, Instant::now() + COMMAND_TIMEOUT).await?;
        tracing::warn!(raised, "space alarm changed");
    }
    if overview.is_leader() {
        clear_alarms_of_strangers(raft).await?;
    }
    Ok(())
}

/// A member that was removed can't clear its alarm any more.
async fn clear_alarms_of_strangers(raft: &Raft) -> Result<(), RequestError> {
    let members = &raft.overview().members;
    let gone = |id: &u64| !members.iter().any(|member| member.node_id == *id);
    for node_id in raft.store().space_alarms().into_iter().filter(gone) {
        propose(raft, Kind::SpaceAlarm(SpaceAlarm { node_id, raised: false })).await?;
    }
    for node_id in raft.store().corrupt_alarms().into_iter().filter(gone) {
        propose(raft, Kind::CorruptAlarm(CorruptAlarm { node_id, raised: false })).await?;
    }
    Ok(())
}

async fn raise_feature_level(raft: &Raft) -> Result<(), RequestError> {
    if leads(raft) { raft.raise_feature_level().await } else { Ok(()) }
}

async fn set_quota(raft: &Raft) -> Result<(), RequestError> {
    let bytes = raft.options().quota_bytes;
    if leads(raft) && raft.store().quota_bytes() != bytes {
        propose(raft, Kind::SetQuota(SetQuota { bytes })).await?;
        tracing::info!(bytes, "quota set");
    }
    Ok(())
}

/// A leader that died in the middle of a change leaves a joint configuration behind.
async fn finish_joint_changes(raft: Raft) {
    let mut stopping = raft.watch_stopping();
    let mut turns = interval(JOINT_PATIENCE);
    let mut seen = None;
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let joint = raft.joint_membership();
        if leads(&raft) && joint.is_some() && joint == seen {
            match raft.finish_joint_change().await {
                Ok(()) => tracing::info!("finished a membership change that was left half-way"),
                Err(error) => tracing::debug!(%error, "a half-finished membership change stands"),
            }
        }
        seen = joint;
    }
}
