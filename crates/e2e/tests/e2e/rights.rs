//! Users and rights, as `spec.access` declares them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kvorum_client::Error;
use kvorum_crd::AuthMode;
use kvorum_e2e::doors::Doors;
use kvorum_e2e::{Cluster, Context as _, cluster, ensure, proofs, run, wait};
use serde_json::json;
use tokio::time::Instant;

const CHANGE: Duration = Duration::from_secs(180);
/// What is declared acts within this: a look of the operator, and one entry of the log.
const ACTS_WITHIN: Duration = Duration::from_secs(15);

/// Goal: five lines of YAML give an application access to its keys and nothing else, whether it shows a ServiceAccount's
/// token or a certificate, and whoever is taken out is refused within seconds. Method: a cluster with rights from its
/// beginning, tokens of the API server's own, and the entries taken out one after the other.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn applications_do_what_their_entries_say() {
    run("rights", Duration::from_secs(300), async |test| {
        proofs::make_account(test, "shop").await?;
        let orders = json!({
            "name": "orders", "serviceAccounts": [format!("{}/shop", test.namespace)],
            "keys": [{"prefix": "orders/", "permission": "ReadWrite"}],
        });
        let audit = json!({
            "name": "audit", "certificate": true, "keys": [{"prefix": "orders/", "permission": "Read"}],
        });
        let mut spec = cluster::spec(3);
        spec["tls"] = json!({"mode": "Required"});
        spec["auth"] = json!({"mode": "Required"});
        spec["access"] = json!([orders, audit]);
        let cluster = Cluster::create(test, "demo", spec).await?;
        let took = cluster.settled(CHANGE).await?;
        test.say(format!("3 members with TLS and rights ready after {:.1} s", took.as_secs_f64()));
        cluster
            .until("rights to count", ACTS_WITHIN, |cluster| {
                let mode =
                    cluster.status.as_ref().and_then(|status| status.auth.as_ref()).map(|auth| auth.mode);
                ensure!(mode == Some(AuthMode::Required), "status.auth: {mode:?}");
                Ok(())
            })
            .await?;

        let doors = Doors::open(test, "demo", 3).await?;
        let shop = proofs::service_account(&cluster, &doors, "shop").await?;
        let nobody = proofs::nobody(&cluster, &doors).await?;
        wait::until("a write with a token", ACTS_WITHIN, async || {
            shop.client.set("orders/1", "x").await?;
            Ok(())
        })
        .await?;
        let auditor = proofs::certificate(&cluster, &doors, "audit").await?;
        let read = auditor.client.get("orders/1").await?.kv.context("the key is there")?;
        ensure!(&read.value[..] == b"x", "the auditor read {read:?}");
        let refused = |what: &str, denied: bool| {
            ensure!(denied, "{what} was not refused");
            Ok(())
        };
        refused("a write outside of the range", is_denied(&shop.client.set("others/1", "x").await))?;
        refused("a read outside of the range", is_denied(&shop.client.get("others/1").await))?;
        refused("a write with the right to read", is_denied(&auditor.client.set("orders/1", "y").await))?;
        refused("a read by nobody", is_denied(&nobody.client.get("orders/1").await))?;
        let said = cluster.tool(0, ["status"]).await?;
        ensure!(said.contains("3 members, 3 voting"), "kvorum in the pod says: {said}");

        cluster.change(json!({"access": [audit]})).await?;
        let begun = Instant::now();
        wait::until("the token to be refused", ACTS_WITHIN, async || {
            let denied = is_denied(&shop.client.get("orders/1").await);
            ensure!(denied, "it still reads");
            Ok(())
        })
        .await?;
        test.say(format!("refused {:.1} s after the entry was taken out", begun.elapsed().as_secs_f64()));
        refused("a write of who was taken out", is_denied(&shop.client.set("orders/1", "z").await))?;
        auditor.client.get("orders/1").await?;

        cluster.change(json!({"access": []})).await?;
        wait::until("the certificate to be refused", ACTS_WITHIN, async || {
            let denied = is_denied(&auditor.client.get("orders/1").await);
            ensure!(denied, "it still reads");
            Ok(())
        })
        .await?;
        wait::until("the user's Secret to be deleted", ACTS_WITHIN, async || {
            let there = test.api::<Secret>().get_opt("demo-audit-tls").await?.is_some();
            ensure!(!there, "it is there");
            Ok(())
        })
        .await?;
        cluster.change(json!({"auth": {"mode": "Disabled"}})).await?;
        wait::until("rights to count no more", ACTS_WITHIN, async || {
            nobody.client.get("orders/1").await?;
            Ok(())
        })
        .await?;
        cluster.settled(CHANGE).await.map(drop)
    });
}

fn is_denied<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Denied { .. }))
}
