//! Which parts of a volume may differ between its members when the mirror ends at a bad moment: a write-intent log.
//!
//! The volume is seen in *regions*. Before the first write into a region starts, every member durably holds that the
//! region is *dirty*; it is taken off again when nothing was written to it for a while and all members have what was
//! written. A mirror that starts after a crash makes the members equal in the regions that any of them holds dirty
//! ([`super::unequal`]); all else is equal already.
//!
//! - [`regions`]: how a volume is divided, and sets of regions.
//! - [`record`]: the stored form (docs/formats.md).
//! - [`hot`]: what the I/O path asks before a write, without a lock.
//! - [`log`]: what must be stored with whom before what.

pub mod hot;
pub mod log;
pub mod record;
pub mod regions;

pub use hot::HotMap;
pub use log::{DirtyLog, StoreId, Todo};
pub use record::{
    CarriedOut, DirtyOrder, DirtyRecord, DirtyRecordError, DirtyRefused, FoundDirty, ReplicaRecords, unequal,
};
pub use regions::{REGIONS, RegionSet, Regions};
