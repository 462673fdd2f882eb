//! Goal: a write that a member forwards has the time that its caller gave it, no less and no more.
//!
//! Method: of two voters one is stopped for longer than a call takes that names no deadline, so that the
//! leader cannot commit. Two writes to the leader fill its pipeline. A third member forwards a write with a
//! long deadline, and some with a short one. Once the voter goes on, the first must have been applied, and
//! none of the others, whose callers were told long ago that their time was up.

use std::time::Duration;

use bytes::Bytes;
use kvorum_client::admin::Voter;
use kvorum_faults::rpc::{Consistency, RawClient};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, wait};
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

/// A voter that is stopped for so long stands for no election.
const ELECTION_TIMEOUT_MS: &str = "20000";
/// Longer than the 5 s of a call that names no deadline.
const STANDSTILL: Duration = Duration::from_secs(6);
const LONG: Duration = Duration::from_secs(40);
const SHORT: Duration = Duration::from_millis(300);
/// Time for a request to come to where it waits.
const ARRIVAL: Duration = Duration::from_millis(300);
const SHORT_WRITES: usize = 20;

#[tokio::test]
async fn a_forwarded_write_has_its_callers_time() -> Result<()> {
    let mut cluster =
        Cluster::found(2, Layout::with_flags(["--election-timeout-ms", ELECTION_TIMEOUT_MS])).await?;
    let (leader, voter) = (cluster.leader().await?, cluster.follower().await?);
    let learner = cluster.add_node().await?;
    cluster
        .operations()?
        .add(learner.peer_address(), Voter::No, &mut |_| {})
        .await
        .context("add a learner")?;
    // A member that has not yet heard that it is one says so at once.
    wait::until("a write through the learner", LONG, async || {
        Ok(set(learner.client_address(), "before".into(), LONG).await?)
    })
    .await?;

    voter.pause()?;
    let mut long = JoinSet::new();
    for (node, key) in [(&leader, "first"), (&leader, "second"), (&learner, "forwarded")] {
        let address = node.client_address().to_owned();
        long.spawn(async move { (key, set(&address, key.into(), LONG).await) });
        sleep(ARRIVAL).await;
    }
    let mut short = JoinSet::new();
    for number in 0..SHORT_WRITES {
        let address = learner.client_address().to_owned();
        short.spawn(async move { set(&address, format!("short/{number}").into(), SHORT).await });
    }
    for answer in short.join_all().await {
        // On a busy machine the client's own clock is first to say so.
        let code = answer.as_ref().err().map(Status::code);
        let in_time = matches!(code, Some(Code::DeadlineExceeded | Code::Cancelled));
        ensure!(in_time, "a write with a short deadline: {answer:?}");
    }
    sleep(STANDSTILL).await;
    voter.resume()?;

    for (key, answer) in long.join_all().await {
        answer.context(format!("the write of {key}, which had time"))?;
    }
    let reader = RawClient::new(learner.client_address())?;
    for key in ["first", "second", "forwarded"] {
        let found = reader.get(key.into(), Consistency::Linearizable).await?.found;
        ensure!(found, "{key} was acknowledged and is not there");
    }
    let late = reader.scan_range(rpc::range("short/", "short0"), 0).await?;
    ensure!(late.is_empty(), "{} writes were done long after their callers' time", late.len());
    cluster.close()
}

async fn set(address: &str, key: Bytes, timeout: Duration) -> Result<(), Status> {
    let channel = rpc::channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = tonic::Request::new(wire::SetRequest { key, ..Default::default() });
    request.set_timeout(timeout);
    KvClient::new(channel).set(request).await.map(drop)
}
