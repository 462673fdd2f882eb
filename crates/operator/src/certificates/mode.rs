//! What the members' ports speak: from plain to TLS and back, one rolling restart at a time.

use kvorum_crd::TlsMode;

/// The members, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// There is neither a pod nor what makes some.
    pub none: bool,
    /// What their pods were made to speak.
    pub pods: Vec<TlsMode>,
    /// Why members and operator do not speak TLS alone among each other yet, as part of a sentence.
    pub plain: Option<String>,
}

/// What pods are to be made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speak {
    /// What they speak.
    pub mode: TlsMode,
    /// What the mode that is wanted waits for, as part of a sentence.
    pub waiting: Option<String>,
}

/// The next mode. `record` is what the StatefulSet or, without one, pods and claims say, nothing where there are none: a
/// new cluster speaks TLS alone unless its spec says otherwise. `ready`: there are certificates.
///
/// Whoever speaks TLS alone and whoever speaks none do not understand each other, so that no two such are there at a time.
pub fn speak(wanted: Option<TlsMode>, record: Option<TlsMode>, ready: bool, members: &Members) -> Speak {
    let record = record.unwrap_or(TlsMode::Required);
    let goal = wanted.unwrap_or(record);
    let stay = |waiting: &str| Speak { mode: record, waiting: Some(waiting.to_owned()) };
    // Without pods all start the same, once they can.
    if goal == record || members.none {
        let waiting = (goal != TlsMode::Disabled && !ready).then(|| "the certificates".to_owned());
        return Speak { mode: goal, waiting };
    }
    if goal != TlsMode::Disabled && !ready {
        return stay("the certificates");
    }
    let runs = |mode| members.pods.contains(&mode);
    match (record, goal) {
        (TlsMode::Optional, TlsMode::Required) if runs(TlsMode::Disabled) => {
            stay("all members to be restarted so that they take TLS")
        }
        (TlsMode::Optional, TlsMode::Required) => match &members.plain {
            Some(plain) => stay(plain),
            None => Speak { mode: goal, waiting: None },
        },
        (TlsMode::Optional, TlsMode::Disabled) if runs(TlsMode::Required) => {
            stay("all members to be restarted so that they take connections without TLS")
        }
        (TlsMode::Optional, _) | (_, TlsMode::Optional) => Speak { mode: goal, waiting: None },
        (_, _) => Speak { mode: TlsMode::Optional, waiting: Some("all members to be restarted".to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TlsMode::{Disabled, Optional, Required};
    use proptest::prelude::*;

    fn members(pods: &[TlsMode]) -> Members {
        Members { pods: pods.to_vec(), ..Members::default() }
    }

    #[test]
    fn a_cluster_without_pods_starts_as_it_is_wanted() {
        let none = Members { none: true, ..Members::default() };
        for (wanted, record, mode) in [
            (None, Some(Disabled), Disabled),
            (None, Some(Required), Required),
            (None, None, Required),
            (Some(Required), Some(Disabled), Required),
            (Some(Disabled), Some(Required), Disabled),
            (Some(Disabled), None, Disabled),
            (Some(Optional), None, Optional),
        ] {
            assert_eq!(speak(wanted, record, true, &none).mode, mode);
        }
        for (wanted, record) in [(Some(Required), Some(Disabled)), (None, None)] {
            assert!(speak(wanted, record, false, &none).waiting.is_some(), "there are no certificates yet");
        }
        let away = speak(Some(Required), Some(Disabled), true, &members(&[]));
        assert_eq!(away.mode, Optional, "pods may be made at this moment, as they were");
    }

    #[test]
    fn nobody_is_cut_off_who_speaks_plainly_yet() {
        let plain = Members { plain: Some("a connection".into()), ..members(&[Optional; 3]) };
        assert_eq!(speak(Some(Required), Some(Optional), true, &plain).mode, Optional);
        assert_eq!(speak(Some(Required), Some(Optional), true, &members(&[Optional; 3])).mode, Required);
        assert_eq!(speak(Some(Required), Some(Disabled), false, &members(&[Disabled; 3])).mode, Disabled);
    }

    fn mode() -> impl Strategy<Value = TlsMode> {
        prop_oneof![Just(Disabled), Just(Optional), Just(Required)]
    }

    proptest! {
        /// Goal: whatever is wanted and however often that changes, no two pods are there that do not understand each
        /// other, and in the end all are as wanted. Method: pods that are replaced one at a time, in any order.
        #[test]
        fn all_members_understand_each_other(
            start in mode(),
            wishes in prop::collection::vec((prop::option::of(mode()), 0..5_usize), 1..12),
            last in mode(),
            order in prop::collection::vec(0..3_usize, 200),
        ) {
            let (mut template, mut pods, mut order) = (start, vec![start; 3], order.into_iter());
            let wishes = wishes.into_iter().chain([(Some(last), 60)]);
            for (wanted, steps) in wishes {
                for _ in 0..steps {
                    template = speak(wanted, Some(template), true, &members(&pods)).mode;
                    if let Some(pod) = order.next() {
                        pods[pod] = template;
                    } else {
                        pods.fill(template);
                    }
                    let both = |mode| pods.contains(&mode);
                    prop_assert!(!(both(Disabled) && both(Required)), "{pods:?}");
                }
            }
            for _ in 0..3 {
                template = speak(Some(last), Some(template), true, &members(&pods)).mode;
                pods.fill(template);
            }
            prop_assert_eq!(pods, vec![last; 3]);
        }
    }
}
