//! Goal: no command makes a member hold much more than its own bytes, however large the values are that it replaces,
//! deletes or asks for: what would take too much is refused, and expiries go piece by piece. A member that such a
//! command ended would end by it at each start again, as would all others.
//!
//! Method: 256 values of 1 MiB in a member with default flags; the kernel says what its process held at most.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kvorum_client::{Error, KeyRange};
use kvorum_faults::process::{MEMORY_LIMIT, memory};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc, wait};

const VALUES: usize = 256;
const VALUE_BYTES: usize = 1 << 20;
/// Writes of such values at a time.
const TOGETHER: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(60);
/// So late are the last ones gone at most.
const EXPIRED_LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn values_that_are_replaced_take_little_memory() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let (client, node) = (cluster.client().await?, &cluster.nodes()[0]);
    wait::until("the feature level of bounded writes", TIMEOUT, async || {
        let status = node.status().await?;
        ensure!(status.feature_level >= 3, "it is {}", status.feature_level);
        Ok(())
    })
    .await?;
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let all = 0..VALUES;
    let written =
        each(all.clone(), TOGETHER, |number| client.set(key(number), value.clone()).timeout(TIMEOUT)).await?;
    let process = node.process_id().context("the node does not run")?;
    let revision = client.get("none").await?.header.revision;

    // Whoever asks only, asks for no values.
    let asks = written.iter().fold(client.batch(), |batch, (number, answer)| {
        batch.if_revision(key(*number), answer.header.revision)
    });
    let asked = asks.if_revision("missing", 1).set("asked", "").timeout(TIMEOUT).await;
    ensure!(matches!(asked, Err(Error::ConditionFailed { .. })), "it answered {asked:?}");
    for all in [
        (0..VALUES).fold(client.batch(), |batch, number| batch.set(key(number), "small")),
        (0..VALUES).fold(client.batch(), |batch, number| batch.delete(KeyRange::key(key(number)))),
        client.batch().delete(KeyRange::prefix("key/")),
    ] {
        let refused = all.timeout(TIMEOUT).await;
        ensure!(matches!(refused, Err(Error::TooLarge { .. })), "it answered {refused:?}");
    }
    let seen = client.get("none").await?.header.revision;
    ensure!(seen == revision, "a refused write made revision {seen} of {revision}");
    let some = (0..40).fold(client.batch(), |batch, number| batch.set(key(number), "small"));
    some.timeout(TIMEOUT).await?;

    // All at once ask for what they replace, and then the others expire together.
    let replaced = 40..VALUES / 2;
    let ask = |number| client.set(key(number), "small").return_previous().timeout(TIMEOUT);
    let answers = each(replaced.clone(), VALUES, ask).await?;
    let previous = answers.iter().filter_map(|(_, answer)| answer.previous.as_ref());
    let told = previous.filter(|kv| kv.value == value).count();
    ensure!(told == replaced.len(), "{told} of {} were told what they replaced", replaced.len());
    each(all, TOGETHER, |number| client.expire(key(number), Duration::from_secs(1)).timeout(TIMEOUT)).await?;
    wait::until("the end of all keys", EXPIRED_LIMIT, async || {
        let keys = rpc::metric(node.http_address(), "kvorum_store_keys").await?;
        ensure!(keys == 0.0, "{keys} are left");
        Ok(())
    })
    .await?;
    ensure!(node.process_id() == Some(process), "it was started again");
    let held = memory(Some(process), "VmHWM")?;
    eprintln!("the member held {} MiB at most", held >> 20);
    ensure!(held < MEMORY_LIMIT, "it held {} MiB", held >> 20);
    cluster.close()
}

fn key(number: usize) -> String {
    format!("key/{number:03}")
}

/// Does it for each of these keys, so many at a time.
async fn each<C, A>(keys: Range<usize>, together: usize, call: impl Fn(usize) -> C) -> Result<Vec<(usize, A)>>
where
    C: IntoFuture<Output = std::result::Result<A, Error>>,
{
    let calls = keys.map(|number| {
        let answer = call(number).into_future();
        async move { answer.await.map(|answer| (number, answer)) }
    });
    stream::iter(calls).buffer_unordered(together).try_collect().await.context("write")
}
