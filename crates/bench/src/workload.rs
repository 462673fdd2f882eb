//! What each client does, over and over.

/// What each client does.
#[derive(Clone, Copy, Debug)]
pub enum Workload {
    /// Write one key.
    Put,
    /// Read one key.
    Get(Consistency),
    /// Read or write one key.
    Mixed {
        /// Reads of 100 requests.
        read_percent: u8,
        /// How reads are answered.
        consistency: Consistency,
    },
    /// Read many keys.
    Scan {
        /// How many.
        limit: u64,
        /// How they are read.
        consistency: Consistency,
    },
    /// Write every key once.
    Fill {
        /// Keys of one request.
        batch: u64,
    },
}

/// How reads are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// They see every write acknowledged before them.
    Linearizable,
    /// The asked server answers from its own state, which may be stale.
    Serializable,
}

impl Workload {
    /// As reports name it.
    pub fn name(self) -> String {
        let reads = |consistency| match consistency {
            Consistency::Linearizable => "linearizable",
            Consistency::Serializable => "serializable",
        };
        match self {
            Workload::Put => "put".to_owned(),
            Workload::Get(consistency) => format!("get {}", reads(consistency)),
            Workload::Mixed { read_percent, consistency } => {
                format!("mixed, {read_percent}% get {}", reads(consistency))
            }
            Workload::Scan { limit, consistency } => format!("scan of {limit}, {}", reads(consistency)),
            Workload::Fill { batch } => format!("fill, {batch} at once"),
        }
    }
}
