//! What others give to TLS: the CA of clients from outside, which somebody puts into a ConfigMap, and the certificate for
//! names of outside, which cert-manager makes. Nothing else waits for either; what is missing is said.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use kvorum_crd::TlsMode;
use kvorum_tls::pem_fingerprint;
use serde_json::Value;

use super::monitor::lacks_the_object;
use super::owner::Owner;
use super::read;
use crate::build::{Inputs, hash};
use crate::certificates::{BUNDLE, Problem};
use crate::fence::Version;
use crate::memory::Memory;
use crate::names;
use crate::refusal;

/// The key under which cert-manager's object is remembered once it was applied.
pub(crate) const CERTIFICATE: &str = "Certificate";
/// Issuers that ask others take minutes.
const ISSUED_WITHIN: Duration = Duration::from_secs(600);
/// A renewal is late when this part of the time is over that is left for it: of a public CA's 30 days 10.
const LATE_PART: i32 = 3;

/// What was seen of it.
#[derive(Debug, Default)]
pub struct Outside {
    /// What is to be done about cert-manager's object.
    pub step: OutsideStep,
    /// What somebody should see to.
    pub problem: Option<Problem>,
}

/// What is to be done about cert-manager's object.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum OutsideStep {
    /// It is as wanted, or cannot be had.
    #[default]
    None,
    /// It is to be made, or changed; with the uid of the one that is there.
    Apply(Value, Option<String>),
    /// It is ours, and not wanted any more.
    Delete(Version),
}

/// The kind that cert-manager brings.
pub fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"))
}

/// Looks at both.
pub async fn look(client: &Client, inputs: &Inputs<'_>, owner: &Owner<'_>, memory: &mut Memory) -> Outside {
    let wanted = inputs.outside_certificate();
    let certificates: Api<DynamicObject> = Api::namespaced_with(client.clone(), inputs.namespace, &kind());
    let found = certificates.get(&names::server(owner.name)).await;
    let (step, mut problem) = judge(wanted.as_ref(), &found, owner, memory);
    let unready = wanted.is_some().then(|| unready(found.as_ref().ok()?)).flatten();
    let since = memory.lasts("a certificate for names of outside that is not issued", unready.is_some());
    if let Some(said) = unready.filter(|_| since > ISSUED_WITHIN) {
        problem = problem.or(Some(not_issued(owner, inputs.namespace, &said)));
    }
    let late = wanted.is_some().then(|| late(found.as_ref().ok()?, Timestamp::now())).flatten();
    problem = problem.or(late.map(|said| not_renewed(owner, inputs.namespace, &said)));
    let client_ca = inputs.cluster.spec.tls.client_ca.as_ref();
    if let Some(client_ca) = client_ca.filter(|_| inputs.tls != TlsMode::Disabled) {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), inputs.namespace);
        let found = maps.get_opt(&client_ca.name).await;
        problem = client_ca_problem(&client_ca.name, &found).or(problem);
    }
    Outside { step, problem }
}

/// What is wrong with the ConfigMap of the CAs of clients.
fn client_ca_problem(name: &str, found: &Result<Option<ConfigMap>, kube::Error>) -> Option<Problem> {
    let which = format!("ConfigMap {name}, which spec.tls.clientCA names,");
    let problem = |reason, said: String| {
        let message = format!("{said} Members go on with the CAs that they have read before, if any.");
        Some(Problem { reason, message })
    };
    let map = match found {
        Ok(Some(map)) => map,
        Ok(None) => {
            return problem(
                "NoClientCa",
                format!("{which} does not exist: make it, with the CAs in {BUNDLE}."),
            );
        }
        Err(error) => {
            return problem("NoClientCa", format!("{which} cannot be read: {}.", refusal::said(error)));
        }
    };
    let text = map.data.as_ref().and_then(|data| data.get(BUNDLE));
    let Some(text) = text else {
        return problem("NoClientCa", format!("{which} has no {BUNDLE}: put the CAs there."));
    };
    let wrong = pem_fingerprint(text).err()?;
    problem("NoClientCa", format!("{which} cannot be used: {wrong}."))
}

/// What is to be done about cert-manager's object, and what stands in the way.
fn judge(
    wanted: Option<&Value>,
    found: &Result<DynamicObject, kube::Error>,
    owner: &Owner<'_>,
    memory: &Memory,
) -> (OutsideStep, Option<Problem>) {
    let problem = |why: String| {
        let message = format!("spec.tls.issuerRef asks for a certificate, but {why}");
        (OutsideStep::None, Some(Problem { reason: "NoCertManager", message }))
    };
    match (wanted, found) {
        (Some(_), Ok(found)) if owner.whose(found).is_some() => {
            let whose = owner.whose(found).unwrap_or_default();
            let name = names::server(owner.name);
            problem(format!(
                "Certificate {name} {whose}: it is left as it is. Delete it, or take issuerRef out."
            ))
        }
        (Some(wanted), Ok(found)) => {
            match memory.is_applied(CERTIFICATE, &hash(wanted), &read::generation(found)) {
                true => (OutsideStep::None, None),
                false => (OutsideStep::Apply(wanted.clone(), found.metadata.uid.clone()), None),
            }
        }
        (Some(wanted), Err(error)) if lacks_the_object(error) => {
            (OutsideStep::Apply(wanted.clone(), None), None)
        }
        (Some(_), Err(error)) => problem(match error {
            kube::Error::Api(status) if status.code == 404 => {
                "this Kubernetes does not know Certificates; install cert-manager, or take issuerRef out."
                    .into()
            }
            kube::Error::Api(status) if status.is_forbidden() => format!(
                "the operator's role lacks certificates of cert-manager.io, {}; upgrade the chart, or take issuerRef out.",
                status.message
            ),
            error => format!("its Certificate cannot be read: {}; it is tried again.", refusal::said(error)),
        }),
        // One that somebody else made is his.
        (None, Ok(found)) if owner.whose(found).is_none() => {
            (OutsideStep::Delete(read::version(found)), None)
        }
        (None, _) => (OutsideStep::None, None),
    }
}

fn not_issued(owner: &Owner<'_>, namespace: &str, said: &str) -> Problem {
    let (name, where_to_look) = (names::server(owner.name), where_to_look(namespace));
    let message = format!(
        "cert-manager has not issued Certificate {name}: {said}. {where_to_look} For spec.tls.extraNames members show what \
         they had before, or their own certificate."
    );
    Problem { reason: "NotIssued", message }
}

fn not_renewed(owner: &Owner<'_>, namespace: &str, said: &str) -> Problem {
    let (name, where_to_look) = (names::server(owner.name), where_to_look(namespace));
    let message = format!("cert-manager has not renewed Certificate {name}: {said}. {where_to_look}");
    Problem { reason: "NotRenewed", message }
}

/// A Certificate says what it waits for, and the request that was made for it why.
fn where_to_look(namespace: &str) -> String {
    format!("`kubectl describe certificaterequests -n {namespace}` says why.")
}

/// Why it is not issued, as cert-manager says it.
fn unready(found: &DynamicObject) -> Option<String> {
    let ready = condition(found, "Ready");
    let said = ready.map_or("it has said nothing", message);
    let said = failed(found).map_or(said.to_owned(), |failed| format!("{said}; {failed}"));
    ready.is_none_or(|ready| ready["status"] != "True").then_some(said)
}

/// Since when it should have been renewed: cert-manager calls it Ready until it has ended. It tries again and again, so that
/// somebody is needed only when a part of the time is over that is left for it.
fn late(found: &DynamicObject, now: Timestamp) -> Option<String> {
    let time = |field: &str| found.data["status"][field].as_str()?.parse::<Timestamp>().ok();
    let (due, end) = (time("renewalTime")?, time("notAfter")?);
    let overdue = now.duration_since(due);
    let left_for_it = end.duration_since(due);
    let late = overdue > (left_for_it / LATE_PART).max(SignedDuration::try_from(ISSUED_WITHIN).ok()?);
    let failed = failed(found).map_or(String::new(), |failed| format!("; {failed}"));
    late.then(|| format!("it ends at {end}, and was to be renewed at {due}{failed}"))
}

/// What became of the last attempt, if that is nothing.
fn failed(found: &DynamicObject) -> Option<&str> {
    let issuing = condition(found, "Issuing")?;
    (issuing["status"] == "False" && issuing["reason"] == "Failed").then(|| message(issuing))
}

fn condition<'a>(found: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    let conditions = found.data["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind)
}

/// Its message, without a full stop.
fn message(condition: &Value) -> &str {
    condition["message"].as_str().unwrap_or_default().trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::{from_value, json};

    use super::*;

    fn certificate(owner: &str, ready: Option<&str>) -> DynamicObject {
        let conditions = ready.map(|status| json!([{"type": "Ready", "status": status, "message": "No."}]));
        from_value(json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
            "metadata": {
                "name": "demo-server", "uid": "c", "resourceVersion": "7", "generation": 2,
                "ownerReferences": [{"apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": owner,
                    "controller": true}],
            },
            "spec": {}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn refused(status: Value) -> kube::Error {
        kube::Error::Api(from_value::<Status>(status).unwrap().boxed())
    }

    /// Goal: the Certificate comes and goes with the spec, and what stands in its way is said where it is wanted. Method: a
    /// table of what is wanted and what was found.
    #[test]
    fn the_certificate_comes_and_goes_with_the_spec() {
        let (wanted, owner) = (json!({"spec": 1}), Owner { name: "demo", uid: "u" });
        let mut memory = Memory::default();
        let missing =
            || refused(json!({"code": 404, "reason": "NotFound", "details": {"name": "demo-server"}}));
        let unknown = || {
            let status = Status::failure("404 page not found", "Failed to parse error data").with_code(404);
            kube::Error::Api(status.boxed())
        };
        let forbidden = || refused(json!({"code": 403, "reason": "Forbidden", "message": "no rights"}));
        let step = |wanted: Option<&Value>, found, memory: &Memory| judge(wanted, &found, &owner, memory).0;
        assert_eq!(step(Some(&wanted), Err(missing()), &memory), OutsideStep::Apply(wanted.clone(), None));
        let apply = OutsideStep::Apply(wanted.clone(), Some("c".into()));
        assert_eq!(step(Some(&wanted), Ok(certificate("u", None)), &memory), apply);
        memory.applied(CERTIFICATE, hash(&wanted), "2".into());
        assert_eq!(step(Some(&wanted), Ok(certificate("u", None)), &memory), OutsideStep::None);
        let gone = step(None, Ok(certificate("u", None)), &memory);
        assert!(matches!(gone, OutsideStep::Delete(version) if version.uid == "c"));
        for found in [Ok(certificate("another", None)), Err(missing()), Err(unknown()), Err(forbidden())] {
            assert_eq!(judge(None, &found, &owner, &memory), (OutsideStep::None, None));
        }
        for (found, said) in [
            (Ok(certificate("another", None)), "left as it is"),
            (Err(unknown()), "install cert-manager"),
            (Err(forbidden()), "no rights"),
        ] {
            let (step, problem) = judge(Some(&wanted), &found, &owner, &memory);
            let problem = problem.unwrap();
            assert!(step == OutsideStep::None && problem.reason == "NoCertManager");
            assert!(problem.message.contains(said), "{}", problem.message);
        }
        assert_eq!(unready(&certificate("u", Some("True"))), None);
        assert_eq!(unready(&certificate("u", Some("False"))).as_deref(), Some("No"));
        assert!(unready(&certificate("u", None)).is_some());
    }

    /// Goal: a certificate that is not renewed is said while it still holds, and why. Method: a table of times; a Certificate
    /// as cert-manager 1.19 leaves it.
    #[test]
    fn a_renewal_that_is_late_is_said() {
        let with = |due: &str, end: &str, issuing: Option<Value>| {
            let mut found = certificate("u", Some("True"));
            found.data["status"]["renewalTime"] = json!(due);
            found.data["status"]["notAfter"] = json!(end);
            found.data["status"]["conditions"].as_array_mut().unwrap().extend(issuing);
            found
        };
        let (due, end) = ("2027-01-01T00:00:00Z", "2027-01-31T00:00:00Z");
        let said = |found: &DynamicObject, now: &str| late(found, now.parse().unwrap());
        let found = with(due, end, None);
        for (now, is_late) in [
            ("2026-12-31T00:00:00Z", false),
            ("2027-01-10T23:59:00Z", false),
            ("2027-01-11T00:01:00Z", true),
            ("2027-03-01T00:00:00Z", true),
        ] {
            assert_eq!(said(&found, now).is_some(), is_late, "{now}");
        }
        let short = with(due, "2027-01-01T00:15:00Z", None);
        assert_eq!(said(&short, "2027-01-01T00:09:00Z"), None, "an issuer takes minutes");
        assert_eq!(said(&certificate("u", Some("True")), end), None, "it was never issued");
        let failed = json!({"type": "Issuing", "status": "False", "reason": "Failed", "message": "The issuer says no."});
        let found = with(due, end, Some(failed));
        let message =
            not_renewed(&Owner { name: "demo", uid: "u" }, "prod", &said(&found, end).unwrap()).message;
        let expected = "cert-manager has not renewed Certificate demo-server: it ends at 2027-01-31T00:00:00Z, and was to be \
                        renewed at 2027-01-01T00:00:00Z; The issuer says no. `kubectl describe certificaterequests -n prod` \
                        says why.";
        assert_eq!(message, expected);
        assert_eq!(unready(&found), None, "members have one that holds");
        let anew = json!({"type": "Issuing", "status": "True", "reason": "Renewing", "message": "Renewing."});
        assert!(!said(&with(due, end, Some(anew)), end).unwrap().contains("Renewing"));
    }

    /// Goal: a ConfigMap that holds no CAs is said. Method: a table.
    #[test]
    fn a_client_ca_that_is_none_is_said() {
        let map = |data: Value| Ok(Some(from_value::<ConfigMap>(json!({"data": data})).unwrap()));
        let forbidden = refused(json!({"code": 403, "reason": "Forbidden", "message": "no rights"}));
        for (found, said) in [
            (Ok(None), "does not exist"),
            (map(json!({})), "has no ca.crt"),
            (map(json!({"ca.crt": "nothing"})), "holds no certificate"),
            (Err(forbidden), "no rights"),
        ] {
            let problem = client_ca_problem("company", &found).unwrap();
            assert!(problem.message.contains(said), "{}", problem.message);
        }
        let ca = kvorum_tls::make::ca("company", kvorum_tls::make::CA_LIFE).unwrap();
        assert_eq!(client_ca_problem("company", &map(json!({"ca.crt": ca.certificate}))), None);
    }
}
