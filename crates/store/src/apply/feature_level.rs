//! `RaiseFeatureLevel`: the cluster's level rises, and never falls.
//!
//! It goes with its entry rather than with the other commands: the entry says which level it needs.

use super::applier::Applier;
use crate::command::RaiseFeatureLevel;
use crate::entry::LogId;
use crate::error::StoreError;
use crate::layout::{self, meta};

impl Applier<'_> {
    /// Raises the cluster's level; it never falls. Where the level is not known, the process must stop:
    /// what the cluster does from here on is not known either.
    pub(super) fn raise_feature_level(
        &mut self,
        log_id: LogId,
        raise: &RaiseFeatureLevel,
    ) -> Result<(), StoreError> {
        let RaiseFeatureLevel { level, release } = raise;
        if *level <= self.feature_level() {
            return Ok(());
        }
        let known = self.state.feature_level_max;
        if *level > known {
            return Err(StoreError::FeatureLevel { log_id, level: *level, known, release: release.clone() });
        }
        self.rows.head.feature_level = *level;
        self.rows.put_meta(meta::FEATURE_LEVEL, &layout::encode_feature_level(*level, release));
        Ok(())
    }
}
