//! What stands where in the data directory, but for the log and the identity, which name their own.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::files::Files;

/// What the directories of states are called, before their number.
const STATE: &str = "state-";
/// The directory of checkpoints in the data directory.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// What directories are called, before a number, whose contents are not whole yet.
pub(crate) const INCOMING: &str = "incoming-";

/// The directory of a state.
pub(crate) fn state_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{STATE}{number}"))
}

/// The numbers of the states in a data directory, unordered.
pub(crate) fn state_numbers(files: &dyn Files, dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for name in files.list(dir).map_err(StoreError::io("read directory", dir))? {
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix(STATE)?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}
