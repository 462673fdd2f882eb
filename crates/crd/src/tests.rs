//! Goal: the API server refuses what cannot work, with a sentence. Method: the definition's own rules,
//! over a table of resources and changes.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_cel::Validator;
use serde_json::{Value, json};

use super::*;

fn problems(object: &Value, old: Option<&Value>) -> Vec<String> {
    let definition = serde_json::to_value(definition()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    match Validator::new().validate(schema, object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

fn cluster(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name}, "spec": spec})
}

fn storage(size: Value) -> Value {
    json!({"members": 3, "storage": {"size": size}})
}

#[test]
fn names_are_short_and_fit_a_host_name() {
    let spec = json!({"members": 3});
    for name in ["demo", "a", "a-1", &"a".repeat(40)] {
        assert_eq!(problems(&cluster(name, spec.clone()), None), Vec::<String>::new(), "{name}");
    }
    for name in ["1a", "a.b", "a-", &"a".repeat(41)] {
        let problems = problems(&cluster(name, spec.clone()), None);
        assert!(problems.iter().any(|problem| problem.contains("at most 40")), "{name}: {problems:?}");
    }
}

#[test]
fn storage_grows_and_keeps_its_class() {
    let change = |old: Value, new: Value| problems(&cluster("demo", new), Some(&cluster("demo", old)));
    assert!(change(storage(json!("1Gi")), storage(json!("2Gi"))).is_empty());
    assert!(change(storage(json!("1Gi")), storage(json!("1024Mi"))).is_empty());
    assert!(change(storage(json!(1_000_000)), storage(json!("1M"))).is_empty());
    assert!(change(storage(json!("2Gi")), storage(json!("1Gi")))[0].contains("cannot shrink"));
    let with = |size: &str| {
        let mut cluster = cluster("demo", storage(json!(size)));
        cluster["status"] = json!({"volumeSize": "1Gi"});
        cluster
    };
    assert!(problems(&with("1Gi"), Some(&with("2Gi"))).is_empty(), "a larger one could not be had");
    assert!(problems(&with("1Mi"), Some(&with("2Gi")))[0].contains("cannot shrink"));
    let classed = json!({"storage": {"size": "1Gi", "storageClassName": "fast"}});
    assert!(change(storage(json!("1Gi")), classed)[0].contains("cannot change"));
    assert!(problems(&cluster("demo", storage(json!("nothing"))), None)[0].contains("such as 10Gi"));
    assert!(problems(&cluster("demo", storage(json!("0"))), None)[0].contains("above zero"));
}

/// Goal: nobody moves a node's disk or has it found a cluster of its own by an environment variable.
#[test]
fn reserved_variables_are_refused() {
    let with =
        |name: &str| cluster("demo", json!({"members": 3, "pod": {"env": [{"name": name, "value": "x"}]}}));
    for name in RESERVED_ENV {
        assert!(problems(&with(name), None)[0].contains("what the operator decides"), "{name}");
    }
    for name in ["KVORUM_LOG_LEVEL", "RUST_BACKTRACE"] {
        assert_eq!(problems(&with(name), None), Vec::<String>::new(), "{name}");
    }
}

/// Goal: what Kubernetes would refuse of a Service is refused where it is said. Method: a table of specs, and of changes.
#[test]
fn a_service_that_cannot_be_is_refused() {
    let with = |service: Value| cluster("demo", json!({"members": 3, "service": service}));
    for (service, refused) in [
        (json!({}), None),
        (json!({"type": "NodePort", "nodePort": 30123, "externalTrafficPolicy": "Local"}), None),
        (json!({"type": "LoadBalancer", "loadBalancerClass": "a/b", "annotations": {"a": "b"}}), None),
        (json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}), None),
        (json!({"nodePort": 30123}), Some("nodePort is for")),
        (
            json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"}),
            Some("externalTrafficPolicy is for"),
        ),
        (json!({"type": "NodePort", "loadBalancerClass": "a/b"}), Some("loadBalancerClass is for")),
        (json!({"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}), Some("Ranges are for")),
        (json!({"type": "NodePort", "allocateLoadBalancerNodePorts": true}), Some("NodePorts is for")),
        (
            json!({"type": "LoadBalancer", "nodePort": 30123, "allocateLoadBalancerNodePorts": false}),
            Some("exclude each other"),
        ),
    ] {
        let problems = problems(&with(service.clone()), None);
        match refused {
            None => assert_eq!(problems, Vec::<String>::new(), "{service}"),
            Some(words) => {
                assert!(problems.iter().any(|said| said.contains(words)), "{service}: {problems:?}")
            }
        }
    }
    let balanced = |class: Option<&str>| with(json!({"type": "LoadBalancer", "loadBalancerClass": class}));
    let plain = with(json!({"type": "LoadBalancer"}));
    assert!(
        problems(&balanced(Some("b")), Some(&balanced(Some("a"))))[0].contains("make it ClusterIP first")
    );
    assert!(problems(&balanced(Some("b")), Some(&plain))[0].contains("make it ClusterIP first"));
    assert_eq!(problems(&balanced(Some("b")), Some(&with(json!({})))), Vec::<String>::new());
    assert_eq!(problems(&balanced(Some("a")), Some(&balanced(Some("a")))), Vec::<String>::new());
}

/// Goal: a spec without a word on TLS stays without one, since the API server applies a default to what is stored, too.
#[test]
fn tls_has_no_default() {
    let spec: KvClusterSpec = serde_json::from_value(json!({})).unwrap();
    assert_eq!((spec.tls.mode, spec.network_policy.enabled), (None, None));
    let definition = serde_json::to_value(definition()).unwrap();
    let spec =
        &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    for field in [&spec["tls"], &spec["networkPolicy"]] {
        assert!(!field.to_string().contains(":\"default\"") && field["properties"].is_object(), "{field}");
        for (_, inner) in field["properties"].as_object().unwrap() {
            assert!(inner["default"].is_null(), "{inner}");
        }
    }
}

#[test]
fn the_cluster_id_is_for_ever() {
    let with = |status: Value| {
        let mut cluster = cluster("demo", json!({"members": 3}));
        cluster["status"] = status;
        cluster
    };
    let old = with(json!({"clusterID": "00c0ffee00c0ffee"}));
    assert!(problems(&old, Some(&with(json!({})))).is_empty());
    assert!(problems(&old, Some(&old)).is_empty());
    for status in [json!({"clusterID": "0000000000000001"}), json!({})] {
        assert!(problems(&with(status), Some(&old))[0].contains("never changes"));
    }
}

/// Goal: whatever the schema lets through can be read, so that one resource never stops the watch of
/// the others.
#[test]
fn what_is_left_out_has_a_default_and_numbers_are_quantities() {
    let cluster: KvCluster = serde_json::from_value(cluster("demo", json!({}))).unwrap();
    assert_eq!(cluster.spec.members, 3);
    assert_eq!(cluster.spec.storage, Storage::default());
    let pod = json!({"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    assert_eq!(pod.resources.unwrap().limits.unwrap()["cpu"], Quantity("1".into()));
}

/// Goal: `kubectl apply` takes the definition, which it keeps in an annotation of at most 256 KiB.
#[test]
fn the_definition_is_small_and_complete() {
    let text = serde_json::to_string(&definition()).unwrap();
    assert!(text.len() < 128 * 1024, "{} bytes", text.len());
    let definition = definition();
    let version = &definition.spec.versions[0];
    let scale = version.subresources.as_ref().unwrap().scale.as_ref().unwrap();
    assert_eq!(scale.spec_replicas_path, ".spec.members");
    let columns = version.additional_printer_columns.as_ref().unwrap();
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["Members", "Ready", "Leader", "Version", "Status", "Age"]);
}

/// Goal: what would name nobody, give nothing, or count where nobody can prove who he is, is refused with a sentence.
/// Method: a table of entries, and one of modes.
#[test]
fn access_that_does_nothing_is_refused() {
    let with = |entry: Value| {
        let spec = json!({"tls": {"mode": "Required"}, "auth": {"mode": "Required"}, "access": [entry]});
        problems(&cluster("demo", spec), None)
    };
    let keys = json!([{"prefix": "a/", "permission": "ReadWrite"}]);
    let one = |keys: Value| json!({"name": "app", "certificate": true, "keys": [keys]});
    for (entry, refused) in [
        (json!({"name": "app", "serviceAccounts": ["shop/app"], "keys": keys}), None),
        (json!({"name": "app", "certificate": true, "root": true}), None),
        (one(json!({"prefix": "", "permission": "Read"})), None),
        (one(json!({"key": "a", "permission": "Read"})), None),
        (one(json!({"key": "a", "rangeEnd": "b", "permission": "Write"})), None),
        (json!({"name": "root", "certificate": true, "root": true}), Some("the cluster's own")),
        (json!({"name": "member", "certificate": true, "keys": keys}), Some("the cluster's own")),
        (json!({"name": "app", "keys": keys}), Some("who it is for")),
        (
            json!({"name": "app", "serviceAccounts": [], "certificate": false, "keys": keys}),
            Some("who it is for"),
        ),
        (json!({"name": "app", "certificate": true}), Some("what may be done")),
        (json!({"name": "app", "certificate": true, "root": true, "keys": keys}), Some("what may be done")),
        (one(json!({"permission": "Read"})), Some("named by a prefix")),
        (one(json!({"prefix": "a", "key": "a", "permission": "Read"})), Some("named by a prefix")),
        (one(json!({"prefix": "a", "rangeEnd": "b", "permission": "Read"})), Some("comes after key")),
        (one(json!({"key": "b", "rangeEnd": "b", "permission": "Read"})), Some("comes after key")),
    ] {
        let problems = with(entry.clone());
        match refused {
            None => assert_eq!(problems, Vec::<String>::new(), "{entry}"),
            Some(words) => assert!(problems.iter().any(|said| said.contains(words)), "{entry}: {problems:?}"),
        }
    }
    let entry = json!({"name": "app", "certificate": true, "root": true});
    for (spec, refused) in [
        (json!({}), None),
        (json!({"auth": {"mode": "Disabled"}}), None),
        (json!({"auth": {"mode": "Disabled"}, "access": [entry]}), None),
        (json!({"auth": {"mode": "Required"}}), Some("needs spec.tls.mode")),
        (json!({"auth": {"mode": "Required"}, "tls": {"mode": "Optional"}}), Some("needs spec.tls.mode")),
        (json!({"auth": {"mode": "Observe"}, "tls": {"mode": "Required"}}), None),
        (json!({"auth": {"mode": "Observe"}, "tls": {"mode": "Optional"}}), Some("needs spec.tls.mode")),
        (json!({"access": [entry]}), None),
        (json!({"tls": {"mode": "Required"}, "access": [entry]}), None),
        (json!({"tls": {"mode": "Disabled"}}), None),
        (json!({"tls": {"mode": "Disabled"}, "access": [entry]}), Some("spec.access needs")),
        (json!({"tls": {"mode": "Optional"}, "access": [entry]}), Some("spec.access needs")),
        (json!({"tls": {"mode": "Disabled"}, "auth": {"mode": "Disabled"}, "access": [entry]}), None),
    ] {
        let problems = problems(&cluster("demo", spec.clone()), None);
        match refused {
            None => assert_eq!(problems, Vec::<String>::new(), "{spec}"),
            Some(words) => assert!(problems.iter().any(|said| said.contains(words)), "{spec}: {problems:?}"),
        }
    }
}

/// Goal: a certificate for names of outside says both, who makes it and for which names.
#[test]
fn an_issuer_comes_with_names() {
    let (issuer, names) = (json!({"name": "public"}), json!(["kv.example.com", "*.kv.example.com"]));
    for (tls, refused) in [
        (json!({"issuerRef": issuer, "extraNames": names, "clientCA": {"name": "company"}}), None),
        (json!({"issuerRef": issuer}), Some("go together")),
        (json!({"issuerRef": issuer, "extraNames": []}), Some("go together")),
        (json!({"extraNames": names}), Some("go together")),
    ] {
        let problems = problems(&cluster("demo", json!({"tls": tls})), None);
        match refused {
            None => assert_eq!(problems, Vec::<String>::new(), "{tls}"),
            Some(words) => assert!(problems.iter().any(|said| said.contains(words)), "{tls}: {problems:?}"),
        }
    }
}

/// Goal: nobody locks all clients out by taking TLS away while rights count by what is on record alone.
#[test]
fn tls_goes_after_the_rights() {
    let counts = |spec: Value| {
        let mut cluster = cluster("demo", spec);
        cluster["status"] = json!({"auth": {"mode": "Required"}});
        cluster
    };
    let (tls, plain) = (json!({"tls": {"mode": "Required"}}), json!({"tls": {"mode": "Disabled"}}));
    assert!(problems(&counts(plain.clone()), Some(&counts(tls.clone())))[0].contains("Disabled first"));
    assert!(problems(&counts(json!({})), Some(&counts(tls.clone()))).is_empty());
    assert!(problems(&counts(plain.clone()), Some(&counts(plain.clone()))).is_empty(), "its status changes");
    let both = json!({"tls": {"mode": "Disabled"}, "auth": {"mode": "Disabled"}});
    assert!(problems(&counts(both), Some(&counts(tls))).is_empty());
}
