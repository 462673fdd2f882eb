//! What the operator itself shows to members, and whom it believes. It lives in memory alone.

use std::fmt;
use std::time::Duration;

use kvorum_client::Tls;
use kvorum_tls::ROOT;
use kvorum_tls::make::{self, Made, Subject};

use super::content::Content;

/// The life of its certificate.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// After so long it is made anew, in seconds.
const RENEWED_AFTER: i64 = 12 * 3600;

/// See the module.
#[derive(Clone)]
pub struct Own {
    /// With it members are dialled.
    pub tls: Tls,
    /// With it they are asked as by a client, who must be somebody once rights count.
    pub as_root: Tls,
    /// What is shown.
    shown: Made,
    /// What is shown on the port for clients.
    root: Made,
    /// The CAs that are believed, the one that signs first.
    bundle: String,
    /// When it was made, in seconds since 1970.
    made: i64,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own(***)")
    }
}

impl Own {
    /// When it was made, in seconds since 1970, and with which CAs.
    pub fn made(&self) -> (i64, &str) {
        (self.made, &self.bundle)
    }
}

/// What is shown and believed from now on: what was before, as long as it does. All CAs are believed that any step
/// still has, or the operator would lock itself out of the members that it must repair.
pub fn own(before: Option<Own>, content: &Content, now: i64) -> Option<Own> {
    let Some(authority) = &content.authority else { return before };
    let of_members = content.members.as_ref().map_or("", |members| members.bundle.as_str());
    let signer = authority.signer()?;
    let bundle = format!("{}{}{of_members}", signer.certificate, authority.bundle());
    let before = before.filter(|before| now - before.made < RENEWED_AFTER);
    let leaf = |subject: Subject| make::leaf(signer, &subject, LIFE).ok();
    let (shown, root, made) = match before {
        Some(before) if before.bundle == bundle => return Some(before),
        // Members do not believe the next CA before they have its bundle.
        Some(before) if authority.lost_its_signer() => (before.shown, before.root, before.made),
        _ => (leaf(Subject::Operator)?, leaf(Subject::User(ROOT.into()))?, now),
    };
    let tls = |made: &Made| {
        Tls::pem(bundle.as_bytes(), Some((made.certificate.as_bytes(), made.key.as_bytes()))).ok()
    };
    Some(Own { tls: tls(&shown)?, as_root: tls(&root)?, shown, root, bundle, made })
}

#[cfg(test)]
mod tests {
    use super::super::content::{AuthorityData, LeafData, made};
    use super::super::leaf_names;
    use super::super::plan::Change;
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// What is in the objects once a change was made.
    fn after(change: &Change, mut content: Content) -> Content {
        let names = leaf_names("demo", "shop", "cluster.local");
        let (_, data) = made(change, &content, "demo", &names, 7, NOW).unwrap();
        match change {
            Change::Members { .. } => {
                content.members = Some(LeafData::read(&data, &Subject::Member(names)).unwrap().0);
            }
            _ => content.authority = Some(AuthorityData::read(&data).unwrap()),
        }
        content
    }

    /// Goal: with the CA's key lost, the operator goes on to show what members believe, who do not know the next CA
    /// yet, and believes both. Method: the changes that the plan makes then, and what is shown after each.
    #[test]
    fn a_lost_ca_does_not_lock_the_operator_out() {
        let founded = after(&Change::Found, Content::default());
        let first = founded.authority.as_ref().unwrap().bundle();
        let content = after(&Change::Members { renew: true }, founded);
        let before = own(None, &content, NOW).unwrap();

        let gone = Content { authority: None, ..content };
        let kept = own(Some(before.clone()), &gone, NOW).unwrap();
        assert_eq!((kept.made(), &kept.shown), (before.made(), &before.shown));

        let next = after(&Change::Trust { lost: true, token: None }, gone);
        let both = own(Some(kept), &next, NOW + 1).unwrap();
        assert_eq!(both.shown, before.shown);
        assert!(
            both.bundle.contains(&first) && both.bundle.contains(&next.authority.as_ref().unwrap().bundle())
        );

        // By then members have the bundle. Who was started meanwhile has nothing else to show.
        let renewed = own(Some(both), &next, NOW + RENEWED_AFTER).unwrap();
        assert_ne!(renewed.shown, before.shown);
        assert_ne!(own(None, &next, NOW).unwrap().shown, before.shown);
    }
}
