//! The record of a risky step in the status: whoever finds it finishes exactly that.

use kvorum_crd::StepRecord;

use super::Risky;
use crate::fence::{LogId, Token, Version};
use crate::names::{hex, unhex};

impl Risky {
    fn target(&self) -> String {
        match self {
            Risky::AddLearner { node_id, ordinal, .. } => format!("{}@{ordinal}", hex(*node_id)),
            Risky::RemoveLearner { node_id, .. } => hex(*node_id),
            Risky::ChangeVoters { voters, .. } => {
                voters.iter().map(|id| hex(*id)).collect::<Vec<_>>().join(",")
            }
            Risky::DeletePod { ordinal, .. } | Risky::DeleteClaim { ordinal, .. } => ordinal.to_string(),
            Risky::Shrink { replicas, .. } => replicas.to_string(),
            Risky::Recover { ordinal, token, to } => {
                format!("{ordinal}:{}/{}:{to}", token.incarnation, hex(token.node_id))
            }
            Risky::RecreateStatefulSet { .. } => String::new(),
        }
    }

    fn version(&self) -> Option<&Version> {
        match self {
            Risky::DeletePod { version, .. }
            | Risky::DeleteClaim { version, .. }
            | Risky::Shrink { version, .. }
            | Risky::RecreateStatefulSet { version } => Some(version),
            Risky::AddLearner { .. }
            | Risky::RemoveLearner { .. }
            | Risky::ChangeVoters { .. }
            | Risky::Recover { .. } => None,
        }
    }

    fn membership(&self) -> Option<LogId> {
        match self {
            Risky::AddLearner { membership, .. }
            | Risky::RemoveLearner { membership, .. }
            | Risky::ChangeVoters { membership, .. } => Some(*membership),
            Risky::Recover { token, .. } => Some(token.last_log),
            _ => None,
        }
    }

    /// As the status keeps it.
    pub fn record(&self) -> StepRecord {
        StepRecord {
            kind: self.kind().to_owned(),
            target: self.target(),
            uid: self.version().map(|version| version.uid.clone()),
            resource_version: self.version().map(|version| version.resource_version.clone()),
            membership: self.membership().map(|at| format!("{}.{}", at.term, at.index)),
        }
    }

    /// From the status; `None` where no operator of ours wrote it.
    pub fn read(record: &StepRecord) -> Option<Risky> {
        let version =
            || Some(Version { uid: record.uid.clone()?, resource_version: record.resource_version.clone()? });
        let membership = || {
            let (term, index) = record.membership.as_ref()?.split_once('.')?;
            Some(LogId { term: term.parse().ok()?, index: index.parse().ok()? })
        };
        let number = || record.target.parse().ok();
        Some(match record.kind.as_str() {
            "AddLearner" => {
                let (id, ordinal) = record.target.split_once('@')?;
                let (node_id, ordinal) = (unhex(id)?, ordinal.parse().ok()?);
                Risky::AddLearner { node_id, ordinal, membership: membership()? }
            }
            "RemoveLearner" => {
                Risky::RemoveLearner { node_id: unhex(&record.target)?, membership: membership()? }
            }
            "ChangeVoters" => {
                let voters = record.target.split(',').map(unhex).collect::<Option<_>>()?;
                Risky::ChangeVoters { voters, membership: membership()? }
            }
            "DeletePod" => Risky::DeletePod { ordinal: number()?, version: version()? },
            "DeleteClaim" => Risky::DeleteClaim { ordinal: number()?, version: version()? },
            "Shrink" => Risky::Shrink { replicas: number()?, version: version()? },
            "Recover" => {
                let (ordinal, survivor) = record.target.split_once(':')?;
                let (survivor, to) = survivor.split_once(':')?;
                let (incarnation, id) = survivor.split_once('/')?;
                let (incarnation, node_id) = (incarnation.parse().ok()?, unhex(id)?);
                let token = Token { incarnation, node_id, last_log: membership()? };
                Risky::Recover { ordinal: ordinal.parse().ok()?, token, to: to.parse().ok()? }
            }
            "RecreateStatefulSet" => Risky::RecreateStatefulSet { version: version()? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a step that one operator wrote down is exactly what the next one finds.
    #[test]
    fn records_are_read_back() {
        let version = Version { uid: "u".into(), resource_version: "7".into() };
        let membership = LogId { term: 3, index: 9 };
        let steps = [
            Risky::AddLearner { node_id: 5, ordinal: 2, membership },
            Risky::RemoveLearner { node_id: 5, membership },
            Risky::ChangeVoters { voters: [1, u64::MAX].into(), membership },
            Risky::DeletePod { ordinal: 2, version: version.clone() },
            Risky::DeleteClaim { ordinal: 2, version: version.clone() },
            Risky::Shrink { replicas: 2, version: version.clone() },
            Risky::Recover {
                ordinal: 2,
                token: Token { incarnation: 1, node_id: 5, last_log: membership },
                to: 2,
            },
            Risky::RecreateStatefulSet { version },
        ];
        for step in steps {
            assert_eq!(Risky::read(&step.record()), Some(step));
        }
        assert_eq!(Risky::read(&StepRecord::default()), None);
    }
}
