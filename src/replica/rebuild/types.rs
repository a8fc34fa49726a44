//! What a rebuild is asked for and what it tells: plain values.

use uuid::Uuid;

use crate::name::{HostPort, ReplicaAddress, ReplicaName, SnapshotName};
use crate::replica::clone::EntryMark;

/// A rebuild to be begun at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildOrder {
    /// The replica that is copied.
    pub source: ReplicaName,
    /// Where its head is exported; its node is asked for the copies.
    pub source_address: ReplicaAddress,
    /// The newest snapshot, which the new head is to be based on.
    pub exposed_snapshot: SnapshotName,
    /// Where the source exposes that snapshot. Longhorn's replicas read it from there until they have it; ours do not.
    pub exposed_address: HostPort,
    /// All snapshots of the source, each after the one it is based on.
    pub snapshots: Vec<RebuildSnapshot>,
    /// When the source is a linked clone: what the rebuilt replica is to be one of, on its own disk.
    pub linked: Option<EntryMark>,
}

/// One snapshot as its source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Its lvol's identity at the source, if that is told.
    pub uuid: Option<Uuid>,
    /// Bytes it presents.
    pub spec_size: u64,
    /// Bytes of clusters of its own.
    pub actual_size: u64,
    /// The snapshot it is based on; `None` for a root.
    pub parent: Option<SnapshotName>,
    /// A user asked for it.
    pub user_created: bool,
    /// Its time, RFC 3339; empty when it has none.
    pub timestamp: String,
    /// Its checksum at the source, decimal; empty when it was never hashed.
    pub checksum: String,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// None was asked for.
    Idle,
    /// It waits for the source, or for its turn there.
    Starting,
    /// Clusters are being copied.
    InProgress,
    /// All is copied and durable.
    Complete,
    /// It failed.
    Error,
}

impl CopyState {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "",
            Self::Starting => "starting",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }

    /// From the wire's word. SPDK's own spelling is known too (`engine-behaviour` §1.3).
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Idle),
            "starting" => Some(Self::Starting),
            "in_progress" | "in progress" => Some(Self::InProgress),
            "complete" => Some(Self::Complete),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// How a rebuild is getting on, as its destination tells. No number falls while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildProgress {
    /// The replica that is copied.
    pub source: ReplicaName,
    /// Where it is exported.
    pub source_address: ReplicaAddress,
    /// The snapshot being copied, or copied last.
    pub snapshot: Option<SnapshotName>,
    /// How far that one is.
    pub state: CopyState,
    /// Per cent of its clusters.
    pub percent: u8,
    /// How far all snapshots are; complete when the last is made.
    pub total_state: CopyState,
    /// Per cent of all snapshots' clusters.
    pub total_percent: u8,
    /// Why it failed; empty when it did not.
    pub error: String,
}

/// How a copy is getting on, as its source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyProgress {
    /// How far it is.
    pub state: CopyState,
    /// Clusters written to the destination.
    pub copied_clusters: u64,
    /// Clusters that are to be written.
    pub total_clusters: u64,
    /// Why it failed; empty when it did not.
    pub error: String,
}
