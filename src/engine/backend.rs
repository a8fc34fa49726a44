//! A replica as an engine controls it, on this node or on another: the same calls, the same typed answers.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::error::Result;
use crate::name::{
    BackingImageName, BackupName, HostPort, LvsName, ReplicaAddress, ReplicaName, SnapshotLabels, SnapshotName,
};
use crate::replica::clone::{CloneOrder, EntryMark};
use crate::replica::rebuild::{RebuildOrder, RebuildProgress};
use crate::replica::{BackupPhase, HashStatus};
use crate::spdk::clustermap::ClusterMap;
use crate::wire::clone::CloneProgress;

/// Where a replica's chain hangs together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// A snapshot.
    Snapshot(SnapshotName),
    /// The writable head.
    Head,
}

/// One layer of a replica's chain: a snapshot or the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The lvol's UUID as text; empty when the peer does not tell.
    pub uuid: String,
    /// Bytes it presents.
    pub spec_size: u64,
    /// Bytes allocated in it alone.
    pub actual_size: u64,
    /// The snapshot below, if any.
    pub parent: Option<SnapshotName>,
    /// What is directly above.
    pub children: Vec<Child>,
    /// When it was made, as the replica's node tells it.
    pub creation_time: String,
    /// Made by a user, not by the system.
    pub user_created: bool,
    /// The time the engine gave it, the same on all replicas.
    pub timestamp: String,
    /// Its stored checksum, decimal, or empty.
    pub checksum: String,
}

/// A replica as its node describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaDescription {
    /// Which.
    pub name: ReplicaName,
    /// Bytes it presents.
    pub spec_size: u64,
    /// `running` when it is exported.
    pub state: String,
    /// Why it is in state `error`.
    pub error_message: String,
    /// The writable end.
    pub head: Option<Layer>,
    /// All snapshots.
    pub snapshots: BTreeMap<SnapshotName, Layer>,
    /// A rebuild of it was begun and has not come to its end: it is no copy of its volume.
    pub rebuilding: bool,
    /// What it is a linked clone of.
    pub linked: Option<EntryMark>,
    /// What it stands on; its own layers are above that.
    pub backing_image: Option<StandsOn>,
}

/// A backing image as a replica's node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandsOn {
    /// The image.
    pub name: BackingImageName,
    /// The lvstore of the replica, and so of the image there.
    pub lvs_uuid: Uuid,
    /// That lvstore's name.
    pub lvs_name: LvsName,
}

impl ReplicaDescription {
    /// The name of the image that it stands on.
    pub fn backing_image_name(&self) -> Option<&BackingImageName> {
        self.backing_image.as_ref().map(|image| &image.name)
    }

    /// Nothing was ever written to it and it has no history.
    pub fn is_fresh(&self) -> bool {
        self.snapshots.is_empty()
            && self.linked.is_none()
            && self.head.as_ref().is_some_and(|head| head.actual_size == 0 && head.parent.is_none())
    }
}

/// What a new snapshot carries.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// Made by a user, not by the system.
    pub user_created: bool,
    /// RFC 3339, UTC, the same for all replicas.
    pub timestamp: String,
    /// What its user noted with it.
    pub labels: SnapshotLabels,
}

/// A backup request as it goes to a replica, already checked.
#[derive(Debug, Clone)]
pub struct BackupOrder {
    /// The wire request: the replica parses it once more, as it may come from anywhere.
    pub request: crate::wire::spdkrpc::BackupCreateRequest,
}

/// A running or ended backup.
#[derive(Debug, Clone)]
pub struct BackupProgress {
    /// How far it is, or how it ended.
    pub phase: BackupPhase,
    /// What it is of.
    pub snapshot: SnapshotName,
}

/// An attribute stored durably with a replica's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// How recent it is: [`crate::mirror::core::GenerationRecord`].
    Generation,
    /// Which of its regions may differ from the other replicas': [`crate::mirror::core::DirtyRecord`].
    Dirty,
    /// What was last restored into it, or is being restored: [`super::restore::marker::RestoreMarker`].
    Restore,
}

impl Attribute {
    /// Its key, in the lvol and on the wire.
    pub fn key(self) -> &'static str {
        match self {
            Self::Generation => "corriente.generation",
            Self::Dirty => "corriente.dirty",
            Self::Restore => "corriente.restore",
        }
    }
}

/// Which clusters a head has of its own: what was written since its last snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadMap {
    /// Bytes in a cluster.
    pub cluster_size: u64,
    /// The clusters.
    pub clusters: ClusterMap,
}

/// How much room a replica's disk has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpace {
    /// The disk, as its node calls it.
    pub disk: String,
    /// Bytes in free clusters.
    pub free: u64,
}

/// Control of one replica. Every call has a limit of its own inside.
pub trait Backend: Send + Sync + 'static {
    /// As its node describes it now.
    fn describe(&self) -> BoxFuture<'_, Result<ReplicaDescription>>;
    /// Takes a snapshot of the head.
    fn snapshot_create<'a>(&'a self, snapshot: &'a SnapshotName, options: SnapshotOptions)
    -> BoxFuture<'a, Result<()>>;
    /// Deletes a snapshot; a missing one is fine.
    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>>;
    /// Makes the head what the snapshot is. Nothing may have the head open.
    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>>;
    /// Its snapshots that cannot be deleted now, and why.
    fn kept_snapshots(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, String>>>;
    /// The labels of those of its snapshots that have any.
    fn snapshot_labels(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, SnapshotLabels>>>;
    /// Deletes what the system made and nobody needs.
    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>>;
    /// Grows the head.
    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>>;
    /// Reads an attribute.
    fn attribute(&self, attribute: Attribute) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;
    /// Stores an attribute durably; empty removes it.
    fn set_attribute(&self, attribute: Attribute, value: Vec<u8>) -> BoxFuture<'_, Result<()>>;
    /// Starts a backup of a snapshot; true when it is incremental.
    fn backup_create(&self, order: BackupOrder) -> BoxFuture<'_, Result<(BackupName, bool)>>;
    /// How a backup is getting on.
    fn backup_status<'a>(&'a self, backup: &'a BackupName) -> BoxFuture<'a, Result<BackupProgress>>;
    /// Makes it the source of a rebuild of `destination`, and exposes `snapshot`, the newest that is to be copied; returns
    /// where. The same again is fine.
    fn rebuild_source_start<'a>(
        &'a self,
        destination: &'a ReplicaName,
        address: ReplicaAddress,
        snapshot: &'a SnapshotName,
    ) -> BoxFuture<'a, Result<HostPort>>;
    /// Ends its part in the rebuild of `destination`, and a copy that runs. That there is none is fine.
    fn rebuild_source_finish<'a>(&'a self, destination: &'a ReplicaName) -> BoxFuture<'a, Result<()>>;
    /// Begins to rebuild it. From here to [`Backend::rebuild_finish`] it has no head and cannot be opened; what it
    /// held is kept aside. Returns where its head will be. When a rebuild from the same source was begun before, and all that
    /// is made is in the order, that stays and the rebuild goes on; else it begins anew.
    fn rebuild_start(&self, order: RebuildOrder) -> BoxFuture<'_, Result<ReplicaAddress>>;
    /// Begins to copy one snapshot, whose parent must be complete; [`Backend::rebuild_progress`] tells of its end.
    fn rebuild_copy_start<'a>(&'a self, snapshot: &'a SnapshotName, fast_sync: bool) -> BoxFuture<'a, Result<()>>;
    /// How the rebuild is getting on. A rebuild that failed stays failed until it is begun anew.
    fn rebuild_progress(&self) -> BoxFuture<'_, Result<RebuildProgress>>;
    /// Makes the snapshot of what was copied. The same again is fine.
    fn rebuild_snapshot_create<'a>(
        &'a self,
        snapshot: &'a SnapshotName,
        options: SnapshotOptions,
    ) -> BoxFuture<'a, Result<()>>;
    /// Ends the rebuild: the replica has the source's snapshots and a head above the newest of them, and is exported. The
    /// same again is fine. Called before all snapshots are there it ends the rebuild as failed.
    fn rebuild_finish(&self) -> BoxFuture<'_, Result<()>>;
    /// Limits how fast this and later rebuilds of it are written; 0 for no limit.
    fn rebuild_limit(&self, mib_per_second: u32) -> BoxFuture<'_, Result<()>>;
    /// Its disk, and the bytes that are free there now.
    fn disk_space(&self) -> BoxFuture<'_, Result<DiskSpace>>;
    /// Disconnects all who reach its head over the network: nothing that they had sent before can change it any more.
    fn disconnect_hosts(&self) -> BoxFuture<'_, Result<()>>;
    /// Which clusters its head has of its own now.
    fn head_map(&self) -> BoxFuture<'_, Result<HeadMap>>;
    /// Makes it, which must hold nothing, a clone of another replica's snapshot. A linked clone is complete then; a full copy
    /// has begun, and [`Backend::clone_progress`] tells of its end. Until then it has no head. The same again is fine.
    fn clone_start(&self, order: CloneOrder) -> BoxFuture<'_, Result<()>>;
    /// How the clone is getting on.
    fn clone_progress(&self) -> BoxFuture<'_, Result<CloneProgress>>;
    /// Begins to hash a snapshot, unless its checksum is known and `rehash` is not set.
    fn snapshot_hash<'a>(&'a self, snapshot: &'a SnapshotName, rehash: bool) -> BoxFuture<'a, Result<()>>;
    /// What is known of a snapshot's hash.
    fn snapshot_hash_status<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<HashStatus>>;
    /// Stops hashing a snapshot; that nobody does is fine.
    fn snapshot_hash_cancel<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>>;
    /// Whether it is hashing any snapshot.
    fn is_hashing(&self) -> BoxFuture<'_, Result<bool>>;
}
