//! The operator's own settings.

/// How the operator was set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The image of clusters whose spec names none.
    pub image: String,
    /// Its pull policy.
    pub pull_policy: Option<String>,
    /// Only these namespaces; without any: all.
    pub namespaces: Vec<String>,
    /// Clusters get NetworkPolicies that let in operators of this namespace.
    pub policies_for: Option<String>,
    /// The domain of the cluster's DNS, for the names in certificates.
    pub cluster_domain: String,
    /// Existing clusters follow the operator's own image and template.
    pub upgrade_clusters: bool,
}
