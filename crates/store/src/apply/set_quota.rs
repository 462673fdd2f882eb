//! `SetQuota`: how many logical bytes the store may hold. A smaller quota than what is there removes
//! nothing; it refuses growth.

use super::applier::Applier;
use crate::command::{Answer, Done, SetQuota};

impl Applier<'_> {
    pub(super) fn set_quota(&mut self, quota: &SetQuota) -> Answer {
        self.rows.head.quota_bytes = quota.bytes;
        Answer::Done(Done {})
    }
}
