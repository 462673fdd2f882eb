//! Names outside of Kubernetes, for which cert-manager makes the certificate.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kvorum_crd::TlsMode;
use kvorum_e2e::cert_manager::CertManager;
use kvorum_e2e::doors::Doors;
use kvorum_e2e::shown::{refused, shown};
use kvorum_e2e::{Cluster, Context as _, Result, cluster, ensure, proofs, run, settings, tls, wait};
use kvorum_operator::memory::peer_address;
use kvorum_operator::names;
use kvorum_tls::pem_leaf_fingerprint;
use serde_json::{Value, json};

const CHANGE: Duration = Duration::from_secs(180);
/// A kubelet that was just touched brings a Secret to its pod, and a member reads it.
const REACHES: Duration = Duration::from_secs(60);
/// A name of the certificate, one that its wildcard covers, and one that it is not for.
const NAMES: [&str; 2] = ["kv.example.com", "blue.db.example.com"];
const ANOTHER: &str = "kv.example.org";
/// What cert-manager makes for a cluster `demo`, and where it puts it.
const CERTIFICATE: &str = "demo-server";
const SECRET: &str = "demo-server-tls";

/// Goal: clients outside reach a cluster by names of theirs, and need to believe cert-manager's issuer alone; who asks for
/// any other name sees the cluster's own certificate; new certificates reach members without a restart or a request that
/// fails; and what is not there, or not wanted any more, is said and goes. Method: a real cert-manager, which is there only
/// after the cluster, and an issuer with an intermediate CA; handshakes with every member that believe one CA alone, and
/// clients at work.
#[test]
#[ignore = "needs a Kubernetes: make e2e-full"]
fn names_outside_are_served_by_cert_manager() {
    run("outside", Duration::from_secs(900), async |test| {
        let Some(mut cert_manager) = CertManager::at_hand(test).await? else { return Ok(()) };
        let mut spec = cluster::spec(3);
        spec["tls"] = outside_names();
        spec["tls"]["mode"] = json!("Required");
        let cluster = Cluster::create(test, "demo", spec).await?;
        cluster.settled(CHANGE).await?;
        let problem = cluster.condition("CertificateProblem", "True", CHANGE).await?;
        ensure!(problem.reason == "NoCertManager", "{}: {}", problem.reason, problem.message);
        test.say(format!("without cert-manager: {}", problem.message));

        cert_manager.define().await?;
        cluster.condition("CertificateProblem", "False", CHANGE).await?;
        let doors = Doors::open(test, "demo", 3).await?;
        let view = View { cluster: &cluster, doors: doors.addresses(), own: proofs::ca(&cluster).await? };
        view.shows_its_own().await?;
        let lives = cluster.lives().await?;
        let writing = tls::Writing::start(&cluster).await?;
        cert_manager.start().await?;
        let root = cert_manager.root().await?;
        view.shows(&cert_manager, &root).await?;
        view.keeps_to_its_names(&root).await?;
        let outside = proofs::outside(&cluster, &view.doors[0], NAMES[0], &root).await?;
        outside.set("from", "outside").await?;
        test.say("issued, and shown to whoever asks for it");

        cert_manager.renew(CERTIFICATE).await?;
        view.shows(&cert_manager, &root).await?;
        test.say("renewed");
        test.api::<Secret>().delete(SECRET, &Default::default()).await?;
        view.shows(&cert_manager, &root).await?;
        outside.set("from", "outside").await?;
        ensure!(cluster.lives().await? == lives, "a member was restarted");
        test.say(format!(
            "issued anew after the Secret was deleted; all that beside {}",
            writing.finish().await?
        ));

        cluster.change(json!({"tls": {"issuerRef": null, "extraNames": null}})).await?;
        view.lets_go(&cert_manager).await?;
        cluster.settled(CHANGE).await?;
        view.shows_its_own().await?;
        test.say("the Certificate went with issuerRef");
        cluster.change(json!({"tls": outside_names()})).await?;
        cert_manager_has_it(&cert_manager).await?;
        cluster.settled(CHANGE).await?;
        view.shows(&cert_manager, &root).await?;
        cluster.change(json!({"tls": {"mode": "Disabled"}, "auth": {"mode": "Disabled"}})).await?;
        view.lets_go(&cert_manager).await?;
        tls::speaks(&cluster, TlsMode::Disabled, CHANGE).await?;
        test.say("the Certificate went with TLS");
        let told = cluster.event_texts().await?;
        for text in [
            "Made a CA in Secret demo-ca",
            "Applied Certificate demo-server",
            "Deleted Certificate demo-server",
        ] {
            ensure!(told.iter().any(|told| told.contains(text)), "no event says {text:?}: {told:?}");
        }
        cert_manager.end().await
    });
}

fn outside_names() -> Value {
    json!({"issuerRef": {"name": "public"}, "extraNames": ["kv.example.com", "*.db.example.com"]})
}

async fn cert_manager_has_it(cert_manager: &CertManager<'_>) -> Result<()> {
    wait::until("a Certificate", CHANGE, async || {
        cert_manager.certificates().get(CERTIFICATE).await?;
        Ok(())
    })
    .await
}

/// The cluster as clients see it.
struct View<'t> {
    cluster: &'t Cluster<'t>,
    /// The client port of each member.
    doors: Vec<String>,
    /// Its own CA.
    own: String,
}

impl View<'_> {
    /// Waits until each member shows what is in the Secret now to who asks for one of the names and believes the root; until
    /// then it shows what it had before.
    async fn shows(&self, cert_manager: &CertManager<'_>, root: &str) -> Result<()> {
        cert_manager.issued(CERTIFICATE).await?;
        let wanted = pem_leaf_fingerprint(&cert_manager.certificate_in(SECRET).await?)?;
        for (name, door) in NAMES.iter().flat_map(|name| self.doors.iter().map(move |door| (name, door))) {
            wait::until(&format!("{name} at {door}"), REACHES, async || {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let shown = shown(door, name, root).await?;
                ensure!(shown.fingerprint == wanted, "it shows an earlier one");
                ensure!(shown.facts.issuer.contains("e2e intermediate"), "it is by {}", shown.facts.issuer);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Whoever asks for another name, inside or outside, is shown the cluster's own, and so is everybody on the port for
    /// members.
    async fn keeps_to_its_names(&self, root: &str) -> Result<()> {
        let inside = format!("demo.{}.svc", self.cluster.test().namespace);
        for door in &self.doors {
            shown(door, &inside, &self.own).await?;
            refused(door, &inside, root).await?;
            self.is_own(door, ANOTHER).await?;
        }
        // That port has no door: it wants pods that are reached from here.
        if !settings::forwards() {
            let address = self.cluster.pod(0).await?.status.and_then(|status| status.pod_ip);
            self.is_own(&peer_address(&address.context("pod 0 has no address")?), NAMES[0]).await?;
        }
        Ok(())
    }

    /// Nobody is shown another certificate than the cluster's own.
    async fn shows_its_own(&self) -> Result<()> {
        for door in &self.doors {
            self.is_own(door, NAMES[0]).await?;
        }
        Ok(())
    }

    /// Whoever asks for this name is shown a certificate of the cluster's own CA, which is for other names.
    async fn is_own(&self, address: &str, name: &str) -> Result<()> {
        let said = refused(address, name, &self.own).await?;
        ensure!(said.contains(&names::peers_service("demo")), "the handshake said: {said}");
        Ok(())
    }

    /// Waits until cert-manager is asked for nothing, and nothing is wrong about that.
    async fn lets_go(&self, cert_manager: &CertManager<'_>) -> Result<()> {
        wait::until("the end of the Certificate", CHANGE, async || {
            let found = cert_manager.certificates().get_opt(CERTIFICATE).await?;
            ensure!(found.is_none(), "it is there");
            Ok(())
        })
        .await?;
        self.cluster.condition("CertificateProblem", "False", CHANGE).await.map(drop)
    }
}
