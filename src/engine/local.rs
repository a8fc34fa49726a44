//! A replica of this node as an engine controls and opens it: no network, no NVMe.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::attach::LocalHead;
use super::backend::{
    Attribute, Backend, BackupOrder, BackupProgress, Child, DiskSpace, HeadMap, Layer, ReplicaDescription,
    SnapshotOptions, StandsOn,
};
use super::context::{LocalReplica, LocalReplicas};
use crate::disk::FlushHandle;
use crate::error::Result;
use crate::mirror::DiskFlush;
use crate::name::{BackupName, HostPort, ReplicaAddress, ReplicaName, SnapshotLabels, SnapshotName};
use crate::replica::clone::{CloneOrder, CloneStatus};
use crate::replica::rebuild::{RebuildOrder, RebuildProgress};
use crate::replica::{self, HashStatus, LvolView, ReplicaView, Replicas};
use crate::spdk::control::Reply;
use crate::wire::backup::parse_order;
use crate::wire::clone::CloneProgress;

/// The replicas of this node.
pub struct NodeReplicas {
    replicas: Replicas,
}

impl NodeReplicas {
    /// Those of `replicas`.
    pub fn new(replicas: Replicas) -> Self {
        Self { replicas }
    }
}

impl LocalReplicas for NodeReplicas {
    fn find<'a>(&'a self, replica: &'a ReplicaName) -> BoxFuture<'a, Result<Option<LocalReplica>>> {
        Box::pin(async move {
            let Some(head) = self.replicas.local_head(replica).await? else { return Ok(None) };
            Ok(Some(LocalReplica {
                backend: self.backend(replica),
                head: LocalHead { bdev: head.bdev, flush: Arc::new(DiskOfNode(head.flush)) },
            }))
        })
    }

    fn backend(&self, replica: &ReplicaName) -> Arc<dyn Backend> {
        Arc::new(LocalBackend { replicas: self.replicas.clone(), name: replica.clone() })
    }
}

/// The flush of a disk of this node, for a mirror on a reactor.
struct DiskOfNode(FlushHandle);

impl DiskFlush for DiskOfNode {
    fn flush(&self, reply: Reply<bool>) {
        self.0.request(move |outcome| {
            if let Err(error) = &outcome {
                tracing::error!(%error, "a member's disk could not be flushed");
            }
            reply.send(outcome.is_ok());
        });
    }
}

/// Control of one replica of this node.
struct LocalBackend {
    replicas: Replicas,
    name: ReplicaName,
}

fn of_replica(options: SnapshotOptions) -> replica::SnapshotOptions {
    let SnapshotOptions { user_created, timestamp, labels } = options;
    replica::SnapshotOptions { user_created, timestamp, labels }
}

impl Backend for LocalBackend {
    fn describe(&self) -> BoxFuture<'_, Result<ReplicaDescription>> {
        Box::pin(async move { Ok(describe(&*self.replicas.get(&self.name).await?)) })
    }

    fn snapshot_create<'a>(
        &'a self,
        snapshot: &'a SnapshotName,
        options: SnapshotOptions,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let options = of_replica(options);
            self.replicas.snapshot_create(&self.name, snapshot, options).await.map(drop)
        })
    }

    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.snapshot_delete(&self.name, snapshot).await.map(drop) })
    }

    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.snapshot_revert(&self.name, snapshot).await.map(drop) })
    }

    fn kept_snapshots(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, String>>> {
        Box::pin(async move { self.replicas.kept_snapshots(&self.name).await })
    }

    fn snapshot_labels(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, SnapshotLabels>>> {
        Box::pin(async move { Ok(self.replicas.get(&self.name).await?.snapshot_labels()) })
    }

    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.snapshot_purge(&self.name).await.map(drop) })
    }

    fn disk_space(&self) -> BoxFuture<'_, Result<DiskSpace>> {
        Box::pin(async move {
            let (disk, free) = self.replicas.disk_space(&self.name).await?;
            Ok(DiskSpace { disk: disk.to_string(), free })
        })
    }

    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.expand(&self.name, size).await.map(drop) })
    }

    fn disconnect_hosts(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.disconnect_hosts(&self.name).await })
    }

    fn attribute(&self, attribute: Attribute) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        Box::pin(async move { self.replicas.xattr_get(&self.name, attribute.key()).await })
    }

    fn set_attribute(&self, attribute: Attribute, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.xattr_set(&self.name, attribute.key(), &value).await })
    }

    fn backup_create(&self, order: BackupOrder) -> BoxFuture<'_, Result<(BackupName, bool)>> {
        Box::pin(async move {
            let mut request = order.request;
            request.replica_name = self.name.to_string();
            let started = self.replicas.backup_create(parse_order(&request)?).await?;
            Ok((started.name, started.is_incremental))
        })
    }

    fn backup_status<'a>(&'a self, backup: &'a BackupName) -> BoxFuture<'a, Result<BackupProgress>> {
        Box::pin(async move {
            let status = self.replicas.backup_status(backup)?;
            Ok(BackupProgress { phase: status.phase, snapshot: status.snapshot })
        })
    }

    fn rebuild_source_start<'a>(
        &'a self,
        destination: &'a ReplicaName,
        address: ReplicaAddress,
        snapshot: &'a SnapshotName,
    ) -> BoxFuture<'a, Result<HostPort>> {
        Box::pin(async move { self.replicas.rebuild_source_start(&self.name, destination, address, snapshot).await })
    }

    fn rebuild_source_finish<'a>(&'a self, destination: &'a ReplicaName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.rebuild_source_finish(&self.name, destination).await })
    }

    fn rebuild_start(&self, order: RebuildOrder) -> BoxFuture<'_, Result<ReplicaAddress>> {
        Box::pin(async move { self.replicas.rebuild_start(&self.name, order).await })
    }

    fn rebuild_copy_start<'a>(&'a self, snapshot: &'a SnapshotName, fast_sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.rebuild_copy_start(&self.name, snapshot, fast_sync).await })
    }

    fn rebuild_progress(&self) -> BoxFuture<'_, Result<RebuildProgress>> {
        Box::pin(async move { self.replicas.rebuild_progress(&self.name) })
    }

    fn rebuild_snapshot_create<'a>(
        &'a self,
        snapshot: &'a SnapshotName,
        options: SnapshotOptions,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let options = of_replica(options);
            self.replicas.rebuild_snapshot_create(&self.name, snapshot, options).await
        })
    }

    fn rebuild_finish(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.rebuild_finish(&self.name).await })
    }

    fn rebuild_limit(&self, mib_per_second: u32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.rebuild_limit(&self.name, mib_per_second) })
    }

    fn head_map(&self) -> BoxFuture<'_, Result<HeadMap>> {
        Box::pin(async move {
            let (cluster_size, clusters) = self.replicas.head_map(&self.name).await?;
            Ok(HeadMap { cluster_size, clusters })
        })
    }

    fn clone_start(&self, order: CloneOrder) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.replicas.clone_start(&self.name, order).await })
    }

    fn clone_progress(&self) -> BoxFuture<'_, Result<CloneProgress>> {
        Box::pin(async move {
            let CloneStatus { state, percent, error, .. } = self.replicas.clone_status(&self.name)?;
            Ok(CloneProgress { state, percent, error })
        })
    }

    fn snapshot_hash<'a>(&'a self, snapshot: &'a SnapshotName, rehash: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.snapshot_hash(&self.name, snapshot, rehash).await })
    }

    fn snapshot_hash_status<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<HashStatus>> {
        Box::pin(async move { self.replicas.snapshot_hash_status(&self.name, snapshot).await })
    }

    fn snapshot_hash_cancel<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.replicas.snapshot_hash_cancel(&self.name, snapshot).await })
    }

    fn is_hashing(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { self.replicas.is_hashing(&self.name) })
    }
}

fn describe(view: &ReplicaView) -> ReplicaDescription {
    ReplicaDescription {
        name: view.name.clone(),
        spec_size: view.spec_size,
        state: view.state.as_str().to_owned(),
        error_message: view.error.clone(),
        head: view.head.as_ref().map(layer),
        snapshots: view.snapshots.iter().map(|(name, lvol)| (name.clone(), layer(lvol))).collect(),
        rebuilding: view.rebuilding,
        linked: view.linked.clone(),
        backing_image: view.backing_image.clone().map(|name| StandsOn {
            name,
            lvs_uuid: view.lvs_uuid,
            lvs_name: view.lvs_name.clone(),
        }),
    }
}

fn layer(lvol: &LvolView) -> Layer {
    let child = |child: &replica::Child| match child {
        replica::Child::Snapshot(name) => Child::Snapshot(name.clone()),
        replica::Child::Head => Child::Head,
    };
    let mut children: Vec<_> = lvol.children.iter().map(child).collect();
    children.sort();
    Layer {
        uuid: lvol.uuid.to_string(),
        spec_size: lvol.spec_size,
        actual_size: lvol.actual_size,
        parent: lvol.parent.clone(),
        children,
        creation_time: lvol.creation_time.clone(),
        user_created: lvol.user_created,
        timestamp: lvol.snapshot_timestamp.clone(),
        checksum: lvol.checksum.clone(),
    }
}
