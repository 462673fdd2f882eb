//! How clients reach a cluster, as the spec wants it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The Service of clients. Without a word in the spec it has an address within Kubernetes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct Service {
    /// Who reaches it: ClusterIP, what is within Kubernetes; NodePort, whoever reaches a machine; LoadBalancer, whoever
    /// reaches the balancer that the platform makes.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// For whoever makes the balancer, or the name in DNS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// More labels; those of the operator stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Which of several kinds of balancers it is. It cannot change while the type is LoadBalancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub load_balancer_class: Option<String>,
    /// Addresses that the balancer lets in, such as 10.0.0.0/8; without any: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub load_balancer_source_ranges: Vec<String>,
    /// The port on every machine, for type NodePort or LoadBalancer; without it, a free one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Whether a balancer reaches members by ports of machines; false where it reaches pods by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Local: a machine passes clients on to its own members only, who see the clients' addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Whether it has addresses of one family or of both. Without it: as the Kubernetes is set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

/// Who reaches a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ServiceType {
    /// What is within Kubernetes.
    #[default]
    ClusterIP,
    /// Whoever reaches a machine, too.
    NodePort,
    /// Whoever reaches a balancer that the platform makes, too.
    LoadBalancer,
}

/// To which members a machine passes clients on.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum TrafficPolicy {
    /// To all.
    Cluster,
    /// To its own.
    Local,
}

/// Of which families a Service has addresses.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum IpFamilyPolicy {
    /// Of one.
    SingleStack,
    /// Of both, where there are both.
    PreferDualStack,
    /// Of both, or it is refused.
    RequireDualStack,
}

/// What Kubernetes would refuse later, where nobody looks, is refused where it is said.
fn rules() -> Value {
    let balanced = "has(self.type) && self.type == 'LoadBalancer'";
    let outside = "has(self.type) && self.type != 'ClusterIP'";
    let was = "has(oldSelf.type) && oldSelf.type == 'LoadBalancer'";
    json!([
        {
            "rule": format!(
                "!({balanced} && {was}) || (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && \
                 (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))"
            ),
            "message": "spec.service.loadBalancerClass cannot change while the type is LoadBalancer; make it ClusterIP first",
        },
        {
            "rule": format!("!has(self.loadBalancerClass) || ({balanced})"),
            "message": "spec.service.loadBalancerClass is for type LoadBalancer",
        },
        {
            "rule": format!("!has(self.loadBalancerSourceRanges) || ({balanced})"),
            "message": "spec.service.loadBalancerSourceRanges are for type LoadBalancer",
        },
        {
            "rule": format!("!has(self.allocateLoadBalancerNodePorts) || ({balanced})"),
            "message": "spec.service.allocateLoadBalancerNodePorts is for type LoadBalancer",
        },
        {
            "rule": format!("!has(self.nodePort) || ({outside})"),
            "message": "spec.service.nodePort is for type NodePort or LoadBalancer",
        },
        {
            "rule": "!has(self.nodePort) || !has(self.allocateLoadBalancerNodePorts) || self.allocateLoadBalancerNodePorts",
            "message": "spec.service.nodePort and allocateLoadBalancerNodePorts: false exclude each other",
        },
        {
            "rule": format!("!has(self.externalTrafficPolicy) || ({outside})"),
            "message": "spec.service.externalTrafficPolicy is for type NodePort or LoadBalancer",
        },
    ])
}
