//! Ways to a cluster from outside of Kubernetes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kvorum_client::Client;
use kvorum_e2e::{Cluster, Context as _, Result, Test, cluster, ensure, run, settings, wait};
use kvorum_operator::memory::host_port;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Goal: clients outside reach a cluster as its spec says, nobody is restarted for that, and a spec that Kubernetes
/// refuses stops no repair. Method: a port of the machines, on which this program writes; a balancer, whose part is
/// played here; a port that cannot be, and a disk that is lost meanwhile; and back.
#[test]
#[ignore = "needs a Kubernetes: make e2e"]
fn a_service_is_as_wanted_and_one_that_kubernetes_refuses_stops_nothing() {
    run("access", Duration::from_secs(300), async |test| {
        // A certificate of members holds the names by which clients inside know them, and no machine's address.
        let cluster = Cluster::create(test, "demo", cluster::plain(cluster::spec(3))).await?;
        cluster.settled(LIMIT).await?;
        let lives = cluster.lives().await?;
        let services = test.api::<Service>();
        cluster.change(json!({"service": {"type": "NodePort", "annotations": {"ours": "1"}}})).await?;
        let port = wait::until("a port of the machines", LIMIT, async || {
            let service = services.get("demo").await?;
            ensure!(service.metadata.annotations.is_some_and(|a| a.contains_key("ours")), "no annotation");
            let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
            ports.first().and_then(|port| port.node_port).context("it has none")
        })
        .await?;
        reach(test, port).await?;
        let others = json!({"metadata": {"annotations": {"theirs": "1"}}});
        services.patch("demo", &PatchParams::default(), &Patch::Merge(others)).await?;

        let balanced = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/test"});
        cluster.change(json!({"service": balanced})).await?;
        wait::until("the balancer's Service", LIMIT, async || {
            let spec = services.get("demo").await?.spec.unwrap_or_default();
            ensure!(spec.load_balancer_class.as_deref() == Some("example.com/test"), "it has no class");
            Ok(())
        })
        .await?;
        let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
        services.patch_status("demo", &PatchParams::default(), &Patch::Merge(address)).await?;
        cluster
            .until("the balancer's address", LIMIT, |cluster| {
                let said = cluster.status.clone().and_then(|status| status.external_endpoint);
                ensure!(said.as_deref() == Some("192.0.2.7:2379"), "it says {said:?}");
                Ok(())
            })
            .await?;
        ensure!(cluster.lives().await? == lives, "a pod was restarted");

        // Ports of machines are 30000 to 32767 unless somebody has set them up otherwise.
        let refused = json!({"type": "NodePort", "nodePort": 7, "loadBalancerClass": null});
        cluster.change(json!({"service": refused})).await?;
        let degraded = cluster.condition("Degraded", "True", LIMIT).await?;
        ensure!(degraded.reason == "SpecRefused", "it says {}: {}", degraded.reason, degraded.message);
        test.say(&degraded.message);
        let ordinal = (cluster.leader().await? + 1) % 3;
        let node_id = cluster.node_id(ordinal).await?;
        cluster.lose_disk(ordinal).await?;
        cluster.has_another_disk(ordinal, &node_id, Duration::from_secs(90)).await?;

        cluster.change(json!({"service": null})).await?;
        cluster.settled(Duration::from_secs(90)).await?;
        let service = services.get("demo").await?;
        let annotations = service.metadata.annotations.unwrap_or_default();
        ensure!(annotations.contains_key("theirs") && !annotations.contains_key("ours"), "{annotations:?}");
        let spec = service.spec.unwrap_or_default();
        let port = spec.ports.into_iter().flatten().next().and_then(|port| port.node_port);
        ensure!(spec.type_.as_deref() == Some("ClusterIP") && port.is_none(), "{:?}, {port:?}", spec.type_);
        ensure!(
            cluster.get().await?.status.unwrap_or_default().external_endpoint.is_none(),
            "it has an address"
        );
        Ok(())
    });
}

/// Writes by a port of a machine, as a client does that has no other way.
async fn reach(test: &Test, port: i32) -> Result<()> {
    if settings::forwards() {
        return Ok(());
    }
    let nodes = Api::<Node>::all(test.client.clone()).list(&ListParams::default()).await?;
    let addresses =
        nodes.items.first().and_then(|node| node.status.clone()).and_then(|status| status.addresses);
    let internal = addresses.into_iter().flatten().find(|address| address.type_ == "InternalIP");
    let endpoint = host_port(&internal.context("a machine has no address")?.address, port);
    let client = Client::builder([endpoint]).without_leader_search().connect_lazy()?;
    wait::until("a write by a port of a machine", LIMIT, async || {
        client.set("from", "outside").await?;
        Ok(())
    })
    .await
}
