//! Reading the state: one key, pages of a range, changes since a revision, what is due, a hash of all.

mod changes;
mod due;
mod get;
mod hash;
mod interests;
mod scan;
mod view;

pub use self::changes::{ReadBytes, SharedChanges};
pub use self::get::Get;
pub(crate) use self::hash::Hash;
pub use self::hash::{Digest, Slice};
pub use self::interests::{Place, Reader};
pub use self::scan::{Page, Scan};
