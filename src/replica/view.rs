//! A replica as it is shown: plain values, a copy of what was true at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use uuid::Uuid;

use super::clone::{CloneMark, EntryMark};
use crate::name::{BackingImageName, LvsName, ReplicaName, SnapshotLabels, SnapshotName};

/// Where a replica is in its life (`engine-behaviour` §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaState {
    /// It is being created.
    Pending,
    /// It is on its disk, and not exported.
    Stopped,
    /// It is exported.
    Running,
    /// Something failed that left it unusable; the message says what.
    Error,
    /// It is being deleted.
    Terminating,
}

impl ReplicaState {
    /// The wire's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Error => "error",
            Self::Terminating => "terminating",
        }
    }
}

/// What hangs below a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// Another snapshot.
    Snapshot(SnapshotName),
    /// The writable head.
    Head,
}

/// One lvol of a replica: a snapshot or the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvolView {
    /// Its identity.
    pub uuid: Uuid,
    /// Bytes it presents. A snapshot's does not follow an expansion.
    pub spec_size: u64,
    /// Bytes of clusters of its own.
    pub actual_size: u64,
    /// The snapshot it is based on; `None` for the oldest.
    pub parent: Option<SnapshotName>,
    /// What is based on it.
    pub children: BTreeSet<Child>,
    /// When it was made, RFC 3339; empty when unknown.
    pub creation_time: String,
    /// A user asked for it.
    pub user_created: bool,
    /// The time its snapshot was given, RFC 3339; empty when unknown.
    pub snapshot_timestamp: String,
    /// What its user noted with it.
    pub labels: SnapshotLabels,
    /// Checksum of its own clusters as last read, decimal; empty when it was never hashed.
    pub checksum: String,
    /// It is a snapshot, which cannot change, and read differently when it was hashed again.
    pub silently_corrupted: bool,
}

/// Where a running replica is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaPorts {
    /// The node's data address.
    pub ip: IpAddr,
    /// The port its head is exported on.
    pub first: u16,
    /// The last of its ports.
    pub last: u16,
}

/// A replica as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its name.
    pub name: ReplicaName,
    /// The lvstore it is in; the disk's name.
    pub lvs_name: LvsName,
    /// The lvstore's identity.
    pub lvs_uuid: Uuid,
    /// Bytes of the volume.
    pub spec_size: u64,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Why it is in state error, or what failed last; empty when nothing did.
    pub error: String,
    /// A rebuild of it, or a full copy into it, was begun and has not come to its end: it is no copy of its volume, and has no head.
    pub rebuilding: bool,
    /// Where it is reached while it runs.
    pub ports: Option<ReplicaPorts>,
    /// The writable end of its chain.
    pub head: Option<LvolView>,
    /// All its snapshots.
    pub snapshots: BTreeMap<SnapshotName, LvolView>,
    /// The snapshot of another replica that it is a linked clone of.
    pub linked: Option<EntryMark>,
    /// What it was cloned from.
    pub cloned: Option<CloneMark>,
    /// A full copy of this into it is not complete: it has no head.
    pub interrupted: Option<CloneMark>,
    /// How many linked clones its snapshots have; only of those that have any.
    pub clone_usage: BTreeMap<SnapshotName, usize>,
    /// The backing image that the chain stands on.
    pub backing_image: Option<BackingImageName>,
}

impl ReplicaView {
    /// The labels of those of its snapshots that have any.
    pub fn snapshot_labels(&self) -> BTreeMap<SnapshotName, SnapshotLabels> {
        let labelled = self.snapshots.iter().filter(|(_, lvol)| !lvol.labels.is_empty());
        labelled.map(|(name, lvol)| (name.clone(), lvol.labels.clone())).collect()
    }

    /// Bytes of clusters of the head and all snapshots.
    pub fn actual_size(&self) -> u64 {
        self.head.iter().chain(self.snapshots.values()).map(|lvol| lvol.actual_size).sum()
    }
}
