//! Versions of releases, in their order.

use std::cmp::Ordering;

/// The lowest of some versions, as it is written.
pub fn lowest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<String> {
    versions.min_by(|a, b| compare(a, b)).map(str::to_owned)
}

/// Semantic versioning's order: by numbers, and what is before a release comes before it. What is no number
/// counts as text, so that any two have an order.
fn compare(a: &str, b: &str) -> Ordering {
    let ((core_a, pre_a), (core_b, pre_b)) = (parts(a), parts(b));
    let pre = match (pre_a, pre_b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => identifiers(a, b),
    };
    identifiers(core_a, core_b).then(pre)
}

/// The version proper, and what comes after the hyphen. Build metadata has no order.
fn parts(version: &str) -> (&str, Option<&str>) {
    let version = version.split('+').next().unwrap_or_default();
    version.split_once('-').map_or((version, None), |(core, pre)| (core, Some(pre)))
}

fn identifiers(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.parse::<u64>().ok();
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (number(a), number(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_releases() {
        let order = ["0.1.0-dev", "0.1.0-rc.2", "0.1.0-rc.10", "0.1.0", "0.2.0", "0.10.0", "1.0.0", "10.0.0"];
        for (at, lower) in order.iter().enumerate() {
            for higher in &order[at + 1..] {
                assert_eq!(compare(lower, higher), Ordering::Less, "{lower} and {higher}");
                assert_eq!(compare(higher, lower), Ordering::Greater, "{higher} and {lower}");
            }
        }
        assert_eq!(lowest(["0.10.0", "0.9.1"].into_iter()), Some("0.9.1".into()));
        assert_eq!(compare("1.0.0+a", "1.0.0+b"), Ordering::Equal);
        assert_eq!(lowest(std::iter::empty()), None);
    }
}
