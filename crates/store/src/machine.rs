//! The machine that a store runs on.

use std::sync::Arc;

use crate::files::{Files, SystemFiles};
use crate::threads::{SystemThreads, Threads};

/// What log and store take of the machine beside memory and RocksDB: passed in, so that a simulation can be one.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its disk.
    pub files: Arc<dyn Files>,
    /// Its threads.
    pub threads: Arc<dyn Threads>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn system() -> Machine {
        Machine { files: Arc::new(SystemFiles), threads: Arc::new(SystemThreads) }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Machine::system()
    }
}
