//! What the scheduler would say of a machine: whether a volume can be used there, and whether a pod would be let
//! on to it. Whether there is room is not guessed.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PodSpec, Taint,
    Toleration,
};
use kube::ResourceExt as _;

/// The label with a machine's own name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The taint that a cordoned machine has.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The machine is Ready, as its kubelet says.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A person, or a tool for him, keeps new pods away from it.
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// A machine that exists can use the volume.
pub fn fits_any(volume: &PersistentVolume, nodes: &[Node]) -> bool {
    // A machine whose labels somebody has taken away is there all the same.
    let at_home = home(volume).is_some_and(|home| nodes.iter().any(|node| node.name_any() == home));
    let terms = |required: &NodeSelector| {
        required.node_selector_terms.iter().any(|term| nodes.iter().any(|node| fits(term, node)))
    };
    at_home || affinity(volume).is_none_or(terms)
}

/// The volume can be used on one machine and no other, ever: another that comes does not bring it back.
pub fn is_bound_to_one(volume: &PersistentVolume) -> bool {
    let on_a_disk = volume.spec.as_ref().is_some_and(|spec| spec.local.is_some() || spec.host_path.is_some());
    on_a_disk || home(volume).is_some()
}

/// The name of the one machine that the volume's affinity names.
pub fn home(volume: &PersistentVolume) -> Option<String> {
    let mut homes = affinity(volume)?.node_selector_terms.iter().map(|term| {
        let labels = term.match_expressions.iter().flatten().filter(|wanted| wanted.key == HOSTNAME);
        let fields = term.match_fields.iter().flatten().filter(|wanted| wanted.key == "metadata.name");
        let mut names = labels.chain(fields).filter(|wanted| wanted.operator == "In");
        match names.next()?.values.as_deref() {
            Some([only]) => Some(only.clone()),
            _ => None,
        }
    });
    let first = homes.next()??;
    homes.all(|home| home.as_ref() == Some(&first)).then_some(first)
}

fn affinity(volume: &PersistentVolume) -> Option<&NodeSelector> {
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()
}

/// A pod like this may be scheduled to the machine: its selector, its required affinity to machines, and the
/// machine's taints.
pub fn lets_on(pod: &PodSpec, node: &Node) -> bool {
    let selected =
        pod.node_selector.iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let attracted = required.is_none_or(|required| {
        // A term that asks for nothing selects nothing.
        let asks = |term: &&NodeSelectorTerm| term.match_expressions.is_some() || term.match_fields.is_some();
        required.node_selector_terms.iter().filter(asks).any(|term| fits(term, node))
    });
    let cordon = is_cordoned(node).then(|| Taint {
        key: UNSCHEDULABLE.into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    });
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    let mut hard = taints.chain(&cordon).filter(|taint| taint.effect != "PreferNoSchedule");
    selected && attracted && hard.all(|taint| pod.tolerations.iter().flatten().any(|t| tolerates(t, taint)))
}

/// Who tolerates a taint for some seconds only is evicted then.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    };
    let lasts = taint.effect != "NoExecute" || toleration.toleration_seconds.is_none();
    value && lasts && (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key)
}

fn fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |key: &str| node.labels().get(key).cloned();
    let field = |key: &str| (key == "metadata.name").then(|| node.name_any());
    let labels = term.match_expressions.iter().flatten().all(|wanted| holds(wanted, label(&wanted.key)));
    let fields = term.match_fields.iter().flatten().all(|wanted| holds(wanted, field(&wanted.key)));
    labels && fields
}

fn holds(wanted: &NodeSelectorRequirement, found: Option<String>) -> bool {
    let listed =
        || found.as_ref().is_some_and(|found| wanted.values.iter().flatten().any(|value| value == found));
    let compared = |order| {
        let number = |text: &String| text.parse::<i64>().ok();
        let (found, limit) =
            (found.as_ref().and_then(number), wanted.values.iter().flatten().find_map(number));
        found.zip(limit).is_some_and(|(found, limit)| found.cmp(&limit) == order)
    };
    match wanted.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        // Nobody knows what it asks for: no machine is called gone for it.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a disk is called lost only where no machine could ever bring it back, and another machine stands by
    //! only where the scheduler would let the member on to it. Method: tables.
    use super::*;
    use serde_json::{Value, from_value, json};

    fn node(name: &str) -> Node {
        let labels = json!({HOSTNAME: name, "zone": name, "pool": "kv", "cpus": "8"});
        from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    fn volume(key: &str, operator: &str, values: &[&str]) -> PersistentVolume {
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let required = json!({"nodeSelectorTerms": [term]});
        from_value(json!({"spec": {"nodeAffinity": {"required": required}}})).unwrap()
    }

    #[test]
    fn volumes_fit_the_machines_they_name() {
        assert!(fits_any(&volume(HOSTNAME, "In", &["a"]), &[node("b"), node("a")]));
        assert!(!fits_any(&volume(HOSTNAME, "In", &["a"]), &[node("b")]));
        assert!(fits_any(&volume(HOSTNAME, "NotIn", &["a"]), &[node("b")]));
        assert!(!fits_any(&volume("rack", "Exists", &[]), &[node("a")]));
        assert!(fits_any(&from_value(json!({"spec": {}})).unwrap(), &[]), "a network volume");
        let mut bare = node("a");
        bare.metadata.labels = None;
        assert!(fits_any(&volume(HOSTNAME, "In", &["a"]), &[bare]), "it is there by its name");
    }

    #[test]
    fn only_a_volume_of_one_machine_goes_with_it() {
        assert_eq!(home(&volume(HOSTNAME, "In", &["a"])), Some("a".into()));
        for (other, why) in [
            (volume("zone", "In", &["a"]), "a network disk of a zone"),
            (volume(HOSTNAME, "In", &["a", "b"]), "two machines share it"),
            (volume(HOSTNAME, "NotIn", &["a"]), "any other may have it"),
            (from_value(json!({"spec": {}})).unwrap(), "a network volume"),
        ] {
            assert!(home(&other).is_none() && !is_bound_to_one(&other), "{why}");
        }
        for on_a_disk in [json!({"local": {"path": "/x"}}), json!({"hostPath": {"path": "/x"}})] {
            assert!(is_bound_to_one(&from_value(json!({"spec": on_a_disk})).unwrap()));
        }
        let mut zonal = volume("zone", "In", &["a"]);
        zonal.spec.as_mut().unwrap().local = from_value(json!({"path": "/x"})).unwrap();
        assert!(is_bound_to_one(&zonal));
    }

    #[test]
    fn a_machine_stands_by_for_whom_the_scheduler_lets_on_to_it() {
        let affinity = |operator: &str, values: Value| {
            let term = json!({"matchExpressions": [{"key": "cpus", "operator": operator, "values": values}]});
            let required = json!({"nodeSelectorTerms": [term]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
        };
        let taint = |effect: &str| json!({"taints": [{"key": "dedicated", "value": "kv", "effect": effect}]});
        let tolerates = |t: Value| json!({"tolerations": [t]});
        let dedicated = tolerates(json!({"key": "dedicated", "value": "kv", "effect": "NoSchedule"}));
        let short = tolerates(json!({"key": "dedicated", "operator": "Exists", "tolerationSeconds": 300}));
        let everything = tolerates(json!({"operator": "Exists"}));
        let cordoned = json!({"unschedulable": true});
        for (pod, machine, expected) in [
            (json!({}), json!({}), true),
            (json!({"nodeSelector": {"pool": "kv"}}), json!({}), true),
            (json!({"nodeSelector": {"pool": "other"}}), json!({}), false),
            (affinity("In", json!(["8", "16"])), json!({}), true),
            (affinity("Gt", json!(["7"])), json!({}), true),
            (affinity("Gt", json!(["8"])), json!({}), false),
            (affinity("Lt", json!(["8"])), json!({}), false),
            (affinity("DoesNotExist", json!([])), json!({}), false),
            (json!({}), taint("NoSchedule"), false),
            (json!({}), taint("NoExecute"), false),
            (json!({}), taint("PreferNoSchedule"), true),
            (dedicated.clone(), taint("NoSchedule"), true),
            (dedicated, taint("NoExecute"), false),
            (short.clone(), taint("NoSchedule"), true),
            (short, taint("NoExecute"), false),
            (everything.clone(), taint("NoExecute"), true),
            (json!({}), cordoned.clone(), false),
            (everything, cordoned, true),
        ] {
            let said = format!("{pod} on {machine}");
            let mut spec = json!({"containers": []});
            spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
            let mut there = node("a");
            there.spec = Some(from_value(machine).unwrap());
            assert_eq!(lets_on(&from_value(spec).unwrap(), &there), expected, "{said}");
        }
    }
}
