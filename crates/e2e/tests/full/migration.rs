//! From a plain cluster of an earlier release to everything.

use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kvorum_client::Error;
use kvorum_crd::TlsMode;
use kvorum_e2e::command::shown;
use kvorum_e2e::doors::Doors;
use kvorum_e2e::{
    Cluster, Context as _, Needs, Result, cluster, ensure, operator, proofs, run_with, settings, tls, wait,
};
use kvorum_faults::writers;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::earlier::{self, Was};

/// What a wait of the documentation has promised is so within this: it need not be waited for.
const PROMISED: Duration = Duration::from_secs(5);
const CHANGE: Duration = Duration::from_secs(180);
/// Clients work so long in each state, so that what was let pass only for a moment is found out.
const LINGER: Duration = Duration::from_secs(10);
const WAIT: &str = "kubectl wait kvc/demo --timeout=5m --for";

/// Goal: a plain cluster of an earlier release is led to TLS alone, rights and a NetworkPolicy as docs/security.md says it,
/// without a request that fails, a write that is lost or another disk. Method: its very commands, one after the other; plain
/// clients at work, until there are others with CA and token, which stay for all that follows.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full, and an earlier release: scripts/before"]
fn a_plain_cluster_of_before_is_led_to_everything() {
    run_with(Needs::Everything, "migration", Duration::from_secs(900), async |test| {
        if !earlier::install().await? {
            return Ok(());
        }
        let cluster = Cluster::create(test, "demo", cluster::spec(3)).await?;
        cluster.settled(CHANGE).await?;
        proofs::make_account(test, "web").await?;
        let was = Was::of(&cluster).await?;
        let plain = tls::Writing::plain(&cluster).await?;
        shown(test, "kubectl get kvc demo").await?;

        let begun = Instant::now();
        operator::install(operator::NAMESPACE, &[]).await?;
        cluster.condition("UpdatePending", "True", CHANGE).await?;
        ensure!(Was::of(&cluster).await? == was, "another operator alone has changed something");
        test.say(format!("the operator was replaced in {:.1} s", begun.elapsed().as_secs_f64()));
        let image = json!({"image": settings::image()});
        step(&cluster, "this release", &image, &["condition=UpdatePending=False", PROGRESSED]).await?;
        let lives = cluster.lives().await?;
        ensure!(lives.iter().all(|(ordinal, life)| was.lives[ordinal] != *life), "not all were replaced");

        let optional = json!({"tls": {"mode": "Optional"}});
        step(&cluster, "Optional", &optional, &["jsonpath={.status.tls.phase}=Optional", PROGRESSED]).await?;
        tls::speaks(&cluster, TlsMode::Optional, PROMISED).await?;
        shown(test, "kubectl get kvc demo -o jsonpath={.status.tls}").await?;
        let begun = Instant::now();
        let web = tls::Writing::account(&cluster, "web").await?;
        let plain = plain.finish().await?;
        shown(test, &format!("{WAIT}=jsonpath={{.status.tls.plaintextConnections}}=0")).await?;
        test.say(format!("plain clients: {plain}; gone after {:.1} s", begun.elapsed().as_secs_f64()));

        let required = json!({"tls": {"mode": "Required"}});
        step(&cluster, "Required", &required, &["jsonpath={.status.tls.phase}=Required", PROGRESSED]).await?;
        tls::speaks(&cluster, TlsMode::Required, PROMISED).await?;
        ensure!(tls::plain(&cluster).await?.set("a", "b").await.is_err(), "a plain client was served");

        let observe = json!({"auth": {"mode": "Observe"}});
        let would = ["jsonpath={.status.auth.mode}=Observe", "condition=WouldRefuse"];
        step(&cluster, "Observe", &observe, &would).await?;
        let said = shown(test, WHOM).await?;
        let named = format!("system:serviceaccount:{}:web (proof service_account)", test.namespace);
        ensure!(said.contains(&named), "it names somebody else: {said}");
        let access = json!({"access": [{
            "name": "web", "serviceAccounts": [format!("{}/web", test.namespace)],
            "keys": [{"prefix": writers::PREFIX, "permission": "ReadWrite"}],
        }]});
        step(&cluster, "access", &access, &["condition=WouldRefuse=False"]).await?;
        sleep(LINGER).await;
        let observed = cluster.condition("WouldRefuse", "False", PROMISED).await?;
        ensure!(observed.reason == "Nobody", "it is {}: {}", observed.reason, observed.message);
        shown(test, WHOM).await?;

        let rights = json!({"auth": {"mode": "Required"}});
        step(&cluster, "rights", &rights, &["jsonpath={.status.auth.mode}=Required"]).await?;
        let policy = json!({"networkPolicy": {"enabled": true}});
        step(&cluster, "NetworkPolicy", &policy, &["condition=Progressing=False"]).await?;
        wait::until("a NetworkPolicy", CHANGE, async || {
            test.api::<NetworkPolicy>().get_opt("demo").await?.context("there is none")
        })
        .await?;
        shown(test, "kubectl get networkpolicy demo").await?;
        sleep(LINGER).await;
        let web = web.finish().await?;
        test.say(format!("clients with a token: {web}"));
        is_secure(&cluster).await?;
        shown(test, "kubectl get kvc demo").await?;
        shown(test, "kubectl get kvc demo -o jsonpath='{.status.tls} {.status.auth}'").await?;
        shown(test, CONDITIONS).await?;

        let count = tls::all_there(&cluster, &[plain, web]).await?;
        let now = Was::of(&cluster).await?;
        ensure!(now.disks == was.disks && now.id == was.id, "{now:?}, and {was:?} before");
        test.say(format!("{count} acknowledged writes, 0 failed, 0 lost; every disk is the one it was"));
        Ok(())
    });
}

const PROGRESSED: &str = "condition=Progressing=False";
const WHOM: &str =
    "kubectl get kvc demo -o jsonpath='{.status.conditions[?(@.type==\"WouldRefuse\")].message}'";
const CONDITIONS: &str = "kubectl get kvc demo -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}'";

/// Patches the spec as a user does, and waits as he does.
async fn step(cluster: &Cluster<'_>, what: &str, spec: &serde_json::Value, until: &[&str]) -> Result<()> {
    let (test, begun) = (cluster.test(), Instant::now());
    shown(test, &format!("kubectl patch kvc demo --type=merge -p '{}'", json!({"spec": spec}))).await?;
    for wanted in until {
        shown(test, &format!("{WAIT}={wanted}")).await?;
    }
    let took = begun.elapsed().as_secs_f64();
    shown(test, "kubectl get kvc demo").await?;
    cluster.settled(PROMISED).await?;
    test.say(format!("{what} after {took:.1} s"));
    Ok(())
}

/// Nobody is served who does not say who he is, or reaches for keys of others; root in a member's pod is.
async fn is_secure(cluster: &Cluster<'_>) -> Result<()> {
    let doors = Doors::open(cluster.test(), cluster.name(), 3).await?;
    let (web, nobody) =
        (proofs::service_account(cluster, &doors, "web").await?, proofs::nobody(cluster, &doors).await?);
    for (who, client, key) in
        [("a stranger", &nobody.client, "unique/1"), ("web beyond its keys", &web.client, "a")]
    {
        let answer = client.get(key).await;
        ensure!(matches!(answer, Err(Error::Denied { .. })), "{who} was answered {answer:?}");
    }
    ensure!(tls::plain(cluster).await?.get("a").await.is_err(), "a plain client was served");
    let said = cluster.tool(0, ["status"]).await?;
    ensure!(said.contains("3 members, 3 voting"), "kvorum in the pod says: {said}");
    Ok(())
}
