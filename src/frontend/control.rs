//! An engine as its frontend uses it, on this node or on another: the same calls, the same typed answers.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::engine::target::AnaState;
use crate::error::Result;
use crate::name::{FrontendName, HostPort, ReplicaAddress, ReplicaName, SnapshotLabels, SnapshotName, VolumeName};

/// An engine as its node describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineView {
    /// The volume it serves.
    pub volume: VolumeName,
    /// Bytes the volume has.
    pub size: u64,
    /// Where clients connect, when it has a target.
    pub target: Option<HostPort>,
    /// `running` when it serves.
    pub state: String,
    /// Why it is in state `error`.
    pub error_message: String,
}

/// A replica that is to join a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaAddOrder {
    /// Which.
    pub replica: ReplicaName,
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// Keep what it has where that can be told to be good.
    pub fast_sync: bool,
    /// The frontend that asks.
    pub frontend: FrontendName,
    /// The gRPC of the frontend's node.
    pub frontend_address: HostPort,
    /// From where the base of a linked clone comes, as the wire has it; its owner is the engine.
    pub linked_clone_source: Option<crate::wire::spdkrpc::LinkedCloneSource>,
}

/// Control of one engine. Every call has a limit of its own inside.
pub trait EngineControl: Send + Sync + 'static {
    /// As its node describes it now.
    fn describe(&self) -> BoxFuture<'_, Result<EngineView>>;
    /// Holds client I/O; returns for how long at most.
    fn suspend(&self) -> BoxFuture<'_, Result<Duration>>;
    /// Lets client I/O go on.
    fn resume(&self) -> BoxFuture<'_, Result<()>>;
    /// Grows the volume.
    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>>;
    /// Takes a snapshot; a missing name is made up. Returns the name.
    fn snapshot_create(
        &self,
        snapshot: Option<SnapshotName>,
        labels: SnapshotLabels,
    ) -> BoxFuture<'_, Result<SnapshotName>>;
    /// Deletes a snapshot; a missing one is fine.
    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>>;
    /// Makes the volume what the snapshot is.
    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>>;
    /// Deletes what the system made and nobody needs.
    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>>;
    /// Has a replica join.
    fn replica_add(&self, order: ReplicaAddOrder) -> BoxFuture<'_, Result<()>>;
    /// Tells hosts how to think of the path to this engine.
    fn set_ana_state(&self, state: AnaState) -> BoxFuture<'_, Result<()>>;
}
