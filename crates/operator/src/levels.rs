//! Which release knows which feature level of a cluster: an image that is older than its cluster's level refuses the disks,
//! and must not be rolled out.

/// The first release that knows a level, for each level. Whoever raises the level of the store adds a line.
const LEVELS: &[(u32, Release)] = &[(1, [0, 1, 0]), (2, [0, 1, 0]), (3, [0, 1, 0])];

/// From this level on members know users and rights.
pub const AUTH: u32 = 3;

/// Major, minor and patch.
type Release = [u64; 3];

/// Why this image cannot run what a cluster of this level has; nothing where its tag names no release, as a digest or
/// `latest` do, or where nobody here knows the level.
pub fn too_old(image: &str, level: u32) -> Option<String> {
    refusal(image, level, LEVELS)
}

fn refusal(image: &str, level: u32, levels: &[(u32, Release)]) -> Option<String> {
    let release = release(image)?;
    let (_, needed) = levels.iter().find(|(known, _)| *known == level)?;
    let text = |release: &Release| release.map(|part| part.to_string()).join(".");
    (release < *needed).then(|| {
        format!(
            "Image {image} is of release {}, and the cluster's disks are of feature level {level}, which {} is the first to \
             know. No pod is replaced by it; set spec.image to {} or a later one.",
            text(&release),
            text(needed),
            text(needed)
        )
    })
}

/// The release that a tag names: `0.2.0` or `v0.2.0`, and nothing else.
fn release(image: &str) -> Option<Release> {
    let (name, tag) = image.split('@').next()?.rsplit_once(':')?;
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let parts: Vec<u64> = tag.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    // The colon of a registry's port is followed by a path.
    (!name.is_empty()).then(|| parts.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever raises the level of the store says here which release is the first to know it. Method: the store's
    /// source, on which nothing here may depend.
    #[test]
    fn every_level_of_the_store_is_in_the_table() {
        let store = include_str!("../../store/src/feature.rs");
        let max = store.split("FEATURE_LEVEL_MAX: u32 = ").nth(1).and_then(|rest| rest.split(';').next());
        let max: u32 = max.and_then(|text| text.parse().ok()).expect("the store has a level");
        let known: Vec<u32> = LEVELS.iter().map(|(level, _)| *level).collect();
        assert_eq!(known, (1..=max).collect::<Vec<_>>());
        assert!(store.contains(&format!("AUTH: u32 = {AUTH};")));
        assert!(LEVELS.is_sorted_by_key(|(_, release)| *release), "a later level is of no earlier release");
    }

    /// Goal: only an image that certainly cannot read the disks is refused. Method: a table of images.
    #[test]
    fn an_image_older_than_the_level_is_refused() {
        let levels = [(1, [0, 1, 0]), (2, [0, 1, 0]), (3, [0, 10, 0])];
        for (image, level, refused) in [
            ("kvorum:0.9.9", 3, true),
            ("registry:5000/kvorum:v0.9.9", 3, true),
            ("kvorum:0.9.9@sha256:00", 3, true),
            ("kvorum:0.10.0", 3, false),
            ("kvorum:0.9.9", 2, false),
            ("kvorum:0.9.9", 4, false),
            ("kvorum:latest", 3, false),
            ("kvorum:0.9.9-own", 3, false),
            ("registry:5000/kvorum", 3, false),
            ("kvorum", 3, false),
        ] {
            assert_eq!(refusal(image, level, &levels).is_some(), refused, "{image}, level {level}");
        }
    }
}
