//! What faults cost: for how long no write was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A fault that was done to a cluster, on the clock of its clients.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it was.
    pub fault: String,
    /// When it began.
    pub begun: Duration,
    /// When the next one may have begun.
    pub over: Duration,
}

/// The cost of each kind of fault.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    kinds: BTreeMap<String, Vec<Duration>>,
}

impl Costs {
    /// Counts for each fault the longest time without an acknowledgement that touched it. `answered` is when
    /// writes were acknowledged, by whichever client.
    pub fn of(faults: &[Done], mut answered: Vec<Duration>) -> Costs {
        answered.sort_unstable();
        let mut costs = Costs::default();
        for Done { fault, begun, over } in faults {
            let first = answered.partition_point(|at| at < begun).saturating_sub(1);
            // The first one that is no longer within it ends the last gap.
            let end = (answered.partition_point(|at| at <= over) + 1).min(answered.len());
            let within = &answered[first.min(end)..end];
            let longest = within.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(*over - *begun);
            costs.kinds.entry(fault.clone()).or_default().push(longest);
        }
        costs.kinds.values_mut().for_each(|gaps| gaps.sort_unstable());
        costs
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>6} {:>12} {:>12}", "fault", "times", "median gap", "longest gap")?;
        for (kind, gaps) in &self.kinds {
            let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
            let seconds = |gap: Duration| format!("{:.2} s", gap.as_secs_f64());
            writeln!(f, "{kind:<40} {:>6} {:>12} {:>12}", gaps.len(), seconds(median), seconds(longest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a gap counts for the fault in which it began, went on, or ended, and for no other.
    use super::*;

    #[test]
    fn a_gap_counts_for_its_fault() {
        let ms = Duration::from_millis;
        let answered = [0, 10, 20, 520, 530, 540, 550, 1_000, 1_010].map(ms).to_vec();
        let done = |fault: &str, begun, over| Done { fault: fault.into(), begun: ms(begun), over: ms(over) };
        let faults = [done("a", 15, 525), done("b", 530, 545), done("b", 545, 900), done("c", 2_000, 3_000)];
        let costs = Costs::of(&faults, answered);
        assert_eq!(costs.kinds["a"], [ms(500)]);
        assert_eq!(costs.kinds["b"], [ms(10), ms(450)]);
        assert_eq!(costs.kinds["c"], [ms(1_000)], "nothing was acknowledged at all");
        assert_eq!(Costs::of(&faults, Vec::new()).kinds["a"], [ms(510)]);
        assert!(costs.to_string().contains("0.45 s"));
    }
}
