//! cert-manager: its definitions, and its controller, which runs here and looks after one namespace. Its webhook, which only
//! refuses what is written wrongly, is not there.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kvorum_operator::certificates::CERTIFICATE;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::command::{kubectl, kubectl_with};
use crate::{Context as _, Result, Test, ensure, settings, wait};

/// How long a CA of the test's own may take to sign.
const ISSUED_WITHIN: Duration = Duration::from_secs(60);
/// How long definitions may take to come and go.
const DEFINED_WITHIN: Duration = Duration::from_secs(30);
/// What marks definitions as made by a test. Those of somebody else are left alone: with them all his certificates would go.
const OURS: &str = "kvorum.io/e2e=made";
/// One of its definitions.
const DEFINITION: &str = "certificates.cert-manager.io";

/// A root, a CA that it has signed, and the issuer `public` by that CA: a chain as public CAs have it.
const ISSUERS: &str = r#"
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: root}
spec:
  {isCA: true, commonName: e2e root, secretName: root, privateKey: {algorithm: ECDSA}, issuerRef: {name: self}}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: root}
spec: {ca: {secretName: root}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: intermediate}
spec:
  {isCA: true, commonName: e2e intermediate, secretName: intermediate, privateKey: {algorithm: ECDSA}, issuerRef: {name: root}}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: public}
spec: {ca: {secretName: intermediate}}
"#;

/// cert-manager for a test's namespace. Dropped, its controller is killed; the definitions stay until [`CertManager::end`].
pub struct CertManager<'t> {
    test: &'t Test,
    home: PathBuf,
    controller: Option<Child>,
}

impl<'t> CertManager<'t> {
    /// `None`, and a line that says so, where there is none to run. What a test before has left behind goes.
    pub async fn at_hand(test: &'t Test) -> Result<Option<CertManager<'t>>> {
        let Some(home) = settings::cert_manager() else {
            eprintln!("skipped: E2E_CERT_MANAGER names no cert-manager; see scripts/cert-manager");
            return Ok(None);
        };
        let cert_manager = CertManager { test, home, controller: None };
        cert_manager.undefine().await?;
        let others = kubectl(["get", "crd", DEFINITION, "--ignore-not-found", "-o", "name"]).await?;
        ensure!(others.is_empty(), "this Kubernetes has a cert-manager already; unset E2E_CERT_MANAGER");
        Ok(Some(cert_manager))
    }

    /// Certificates and issuers can be made from now on.
    pub async fn define(&self) -> Result<()> {
        let definitions = self.home.join("crds");
        let definitions = definitions.to_str().context("E2E_CERT_MANAGER is no text")?;
        kubectl(["create", "-f", definitions]).await?;
        let all = kubectl(["get", "-f", definitions, "-o", "name"]).await?;
        for definition in all.lines() {
            kubectl(["label", definition, OURS]).await?;
            let limit = format!("--timeout={}s", DEFINED_WITHIN.as_secs());
            kubectl(["wait", "--for=condition=Established", &limit, definition]).await?;
        }
        Ok(())
    }

    /// The controller is at work, and the issuer `public` ready.
    pub async fn start(&mut self) -> Result<()> {
        let directory = settings::root().join("target/e2e");
        fs::create_dir_all(&directory)?;
        let log = File::create(directory.join("cert-manager.log"))?;
        let mut command = Command::new(self.home.join("controller"));
        if let Some(path) = env::var_os("KUBECONFIG") {
            command.arg("--kubeconfig").arg(path);
        }
        command.args(["--namespace", &self.test.namespace, "--leader-elect=false"]);
        command
            .args(["--metrics-listen-address=127.0.0.1:0", "--internal-healthz-listen-address=127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        self.controller = Some(command.spawn().context("start cert-manager's controller")?);
        kubectl_with(["apply", "-n", &self.test.namespace, "-f", "-"], ISSUERS).await?;
        self.issued("root").await?;
        self.issued("intermediate").await?;
        Ok(())
    }

    /// The root, which clients outside believe.
    pub async fn root(&self) -> Result<String> {
        self.certificate_in("root").await
    }

    /// The certificate in a Secret that cert-manager has written.
    pub async fn certificate_in(&self, secret: &str) -> Result<String> {
        let data = self.test.api::<Secret>().get(secret).await?.data.unwrap_or_default();
        let bytes = data.get(CERTIFICATE).context(format!("Secret {secret} lacks {CERTIFICATE}"))?;
        Ok(String::from_utf8(bytes.0.clone())?)
    }

    /// Certificates of the test's namespace.
    pub fn certificates(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
        Api::namespaced_with(self.test.client.clone(), &self.test.namespace, &ApiResource::from_gvk(&kind))
    }

    /// Waits until a Certificate is Ready as it is wanted now.
    pub async fn issued(&self, name: &str) -> Result<DynamicObject> {
        wait::until(&format!("Certificate {name}"), ISSUED_WITHIN, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let found = self.certificates().get(name).await?;
            let conditions = &found.data["status"]["conditions"];
            let holds = |kind: &str, of_now: bool| {
                conditions.as_array().into_iter().flatten().any(|condition| {
                    let generation = condition["observedGeneration"].as_i64();
                    condition["type"] == kind
                        && condition["status"] == "True"
                        && (!of_now || generation == found.metadata.generation)
                })
            };
            ensure!(holds("Ready", true) && !holds("Issuing", false), "its conditions are {conditions}");
            Ok(found)
        })
        .await
    }

    /// Has a Certificate issued anew before its time, as `cmctl renew` does.
    pub async fn renew(&self, name: &str) -> Result<()> {
        let mut certificate = self.issued(name).await?;
        let conditions = certificate.data["status"]["conditions"].as_array_mut();
        conditions.context("it has no conditions")?.push(json!({
            "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by a test",
            "lastTransitionTime": "2000-01-01T00:00:00Z",
        }));
        self.certificates().replace_status(name, &PostParams::default(), &certificate).await?;
        Ok(())
    }

    /// The controller ends, and the definitions go with all that is of them.
    pub async fn end(mut self) -> Result<()> {
        if let Some(mut controller) = self.controller.take() {
            controller.kill().await?;
        }
        self.undefine().await
    }

    async fn undefine(&self) -> Result<()> {
        let limit = format!("--timeout={}s", DEFINED_WITHIN.as_secs());
        kubectl(["delete", "crd", "-l", OURS, &limit]).await.map(drop)
    }
}
