//! `spdkrpc.SPDKService`: which call goes where. Nothing is decided here; calls that are not listed are refused by
//! [`super::not_offered`].

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::until_stop::until_stop;
use super::{backing_image, clone, disk, engine, frontend, hash, log, rebuild, replica, restore};
use crate::changes::Changes;
use crate::error::Error;
use crate::node::Node;
use crate::task::to_its_end;
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_server::SpdkService;

/// The service over a node.
pub struct SpdkServer {
    node: Arc<Node>,
}

impl SpdkServer {
    /// Serves `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// One message a change; changes that come faster than the watcher reads become one. So nothing is kept for a slow
    /// watcher, and nothing waits for it.
    fn watch(&self, changes: &Changes) -> Response<Watch> {
        let messages = futures::stream::unfold(changes.watch(), |mut watcher| async move {
            watcher.changed().await?;
            Some((Ok(()), watcher))
        });
        Response::new(until_stop(&self.node.stopping, messages))
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Watch = BoxStream<()>;

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(Status::from)
}

/// Runs a call to its end, also when its caller goes away: a half-done change would be seen by the next call.
async fn whole<T: Send + 'static>(call: impl Future<Output = Result<T, Error>> + Send + 'static) -> Answer<T> {
    answer(to_its_end("the call", call).await)
}

#[tonic::async_trait]
impl SpdkService for SpdkServer {
    async fn disk_create(&self, request: Request<wire::DiskCreateRequest>) -> Answer<wire::Disk> {
        answer(disk::create(&self.node.disks, request.into_inner()).await)
    }

    async fn disk_delete(&self, request: Request<wire::DiskDeleteRequest>) -> Answer<()> {
        answer(disk::delete(&self.node.disks, request.into_inner()).await)
    }

    async fn disk_get(&self, request: Request<wire::DiskGetRequest>) -> Answer<wire::Disk> {
        answer(disk::get(&self.node.disks, request.into_inner()).await)
    }

    async fn disk_health_get(
        &self,
        request: Request<wire::DiskHealthGetRequest>,
    ) -> Answer<wire::DiskHealthGetResponse> {
        answer(disk::health_get(&self.node.disks, request.into_inner()).await)
    }

    async fn replica_create(&self, request: Request<wire::ReplicaCreateRequest>) -> Answer<wire::Replica> {
        answer(replica::create(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_delete(&self, request: Request<wire::ReplicaDeleteRequest>) -> Answer<()> {
        answer(restore::replica_delete(&self.node, request.into_inner()).await)
    }

    async fn replica_get(&self, request: Request<wire::ReplicaGetRequest>) -> Answer<wire::Replica> {
        answer(replica::get(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_list(&self, _: Request<()>) -> Answer<wire::ReplicaListResponse> {
        answer(replica::list(&self.node.replicas).await)
    }

    async fn replica_watch(&self, _: Request<()>) -> Answer<Watch> {
        Ok(self.watch(self.node.replicas.changes()))
    }

    async fn replica_expand(&self, request: Request<wire::ReplicaExpandRequest>) -> Answer<()> {
        answer(replica::expand(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_create(&self, request: Request<wire::SnapshotRequest>) -> Answer<wire::Replica> {
        answer(replica::snapshot_create(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_delete(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(replica::snapshot_delete(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_revert(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(replica::snapshot_revert(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_purge(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(replica::snapshot_purge(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_backup_create(
        &self,
        request: Request<wire::BackupCreateRequest>,
    ) -> Answer<wire::BackupCreateResponse> {
        answer(replica::backup_create(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_backup_status(
        &self,
        request: Request<wire::BackupStatusRequest>,
    ) -> Answer<wire::BackupStatusResponse> {
        answer(replica::backup_status(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_backup_restore(&self, request: Request<wire::ReplicaBackupRestoreRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { restore::replica_restore(&node, request.into_inner()).await }).await
    }

    async fn replica_restore_status(
        &self,
        request: Request<wire::ReplicaRestoreStatusRequest>,
    ) -> Answer<wire::ReplicaRestoreStatusResponse> {
        answer(restore::replica_status(&self.node, request.into_inner()).await)
    }

    async fn replica_snapshot_hash(&self, request: Request<wire::SnapshotHashRequest>) -> Answer<()> {
        answer(hash::replica(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_hash_status(
        &self,
        request: Request<wire::SnapshotHashStatusRequest>,
    ) -> Answer<wire::ReplicaSnapshotHashStatusResponse> {
        answer(hash::replica_status(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_hash_cancel(&self, request: Request<wire::SnapshotHashCancelRequest>) -> Answer<()> {
        answer(hash::replica_cancel(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_hash_lock_state(
        &self,
        request: Request<wire::SnapshotHashLockStateRequest>,
    ) -> Answer<wire::SnapshotHashLockStateResponse> {
        answer(hash::replica_lock_state(&self.node.replicas, request.into_inner()))
    }

    async fn replica_snapshot_range_hash_get(
        &self,
        request: Request<wire::ReplicaSnapshotRangeHashGetRequest>,
    ) -> Answer<wire::ReplicaSnapshotRangeHashGetResponse> {
        answer(hash::replica_range(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_clone_dst_start(
        &self,
        request: Request<wire::ReplicaSnapshotCloneDstStartRequest>,
    ) -> Answer<()> {
        answer(clone::start(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_clone_dst_status_check(
        &self,
        request: Request<wire::ReplicaSnapshotCloneDstStatusCheckRequest>,
    ) -> Answer<wire::ReplicaSnapshotCloneDstStatusCheckResponse> {
        answer(clone::status(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_clone_src_start(
        &self,
        request: Request<wire::ReplicaSnapshotCloneSrcStartRequest>,
    ) -> Answer<()> {
        answer(clone::source_start(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_snapshot_clone_src_status_check(
        &self,
        request: Request<wire::ReplicaSnapshotCloneSrcStatusCheckRequest>,
    ) -> Answer<wire::ReplicaSnapshotCloneSrcStatusCheckResponse> {
        answer(clone::source_status(&self.node.replicas, request.into_inner()))
    }

    async fn replica_snapshot_clone_src_finish(
        &self,
        request: Request<wire::ReplicaSnapshotCloneSrcFinishRequest>,
    ) -> Answer<()> {
        answer(clone::source_finish(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_src_start(
        &self,
        request: Request<wire::ReplicaRebuildingSrcStartRequest>,
    ) -> Answer<wire::ReplicaRebuildingSrcStartResponse> {
        answer(rebuild::source_start(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_src_finish(
        &self,
        request: Request<wire::ReplicaRebuildingSrcFinishRequest>,
    ) -> Answer<()> {
        answer(rebuild::source_finish(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_src_shallow_copy_start(
        &self,
        request: Request<wire::ReplicaRebuildingSrcShallowCopyStartRequest>,
    ) -> Answer<()> {
        answer(rebuild::source_copy(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_src_range_shallow_copy_start(
        &self,
        request: Request<wire::ReplicaRebuildingSrcRangeShallowCopyStartRequest>,
    ) -> Answer<()> {
        answer(rebuild::source_copy_range(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_src_shallow_copy_check(
        &self,
        request: Request<wire::ReplicaRebuildingSrcShallowCopyCheckRequest>,
    ) -> Answer<wire::ReplicaRebuildingSrcShallowCopyCheckResponse> {
        answer(rebuild::source_check(&self.node.replicas, request.into_inner()))
    }

    async fn replica_rebuilding_dst_start(
        &self,
        request: Request<wire::ReplicaRebuildingDstStartRequest>,
    ) -> Answer<wire::ReplicaRebuildingDstStartResponse> {
        answer(rebuild::start(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_dst_finish(
        &self,
        request: Request<wire::ReplicaRebuildingDstFinishRequest>,
    ) -> Answer<()> {
        answer(rebuild::finish(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_dst_shallow_copy_start(
        &self,
        request: Request<wire::ReplicaRebuildingDstShallowCopyStartRequest>,
    ) -> Answer<()> {
        answer(rebuild::copy_start(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_dst_shallow_copy_check(
        &self,
        request: Request<wire::ReplicaRebuildingDstShallowCopyCheckRequest>,
    ) -> Answer<wire::ReplicaRebuildingDstShallowCopyCheckResponse> {
        answer(rebuild::check(&self.node.replicas, request.into_inner()))
    }

    async fn replica_rebuilding_dst_snapshot_create(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(rebuild::snapshot_create(&self.node.replicas, request.into_inner()).await)
    }

    async fn replica_rebuilding_dst_set_qos_limit(
        &self,
        request: Request<wire::ReplicaRebuildingDstSetQosLimitRequest>,
    ) -> Answer<()> {
        answer(rebuild::set_limit(&self.node.replicas, request.into_inner()))
    }

    async fn engine_create(&self, request: Request<wire::EngineCreateRequest>) -> Answer<wire::Engine> {
        let node = self.node.clone();
        whole(async move { engine::create(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_delete(&self, request: Request<wire::EngineDeleteRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::delete(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_get(&self, request: Request<wire::EngineGetRequest>) -> Answer<wire::Engine> {
        answer(engine::get(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_list(&self, _: Request<()>) -> Answer<wire::EngineListResponse> {
        answer(engine::list(&self.node.engines).await)
    }

    async fn engine_watch(&self, _: Request<()>) -> Answer<Watch> {
        Ok(self.watch(self.node.engines.changes()))
    }

    async fn engine_expand(&self, request: Request<wire::EngineExpandRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::expand(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_expand_precheck(
        &self,
        request: Request<wire::EngineExpandPrecheckRequest>,
    ) -> Answer<wire::EngineExpandPrecheckResponse> {
        answer(engine::expand_precheck(&self.node.engines, request.into_inner()))
    }

    async fn engine_replica_list(
        &self,
        request: Request<wire::EngineReplicaListRequest>,
    ) -> Answer<wire::EngineReplicaListResponse> {
        answer(engine::replica_list(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_replica_add(&self, request: Request<wire::EngineReplicaAddRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::replica_add(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_replica_delete(&self, request: Request<wire::EngineReplicaDeleteRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::replica_delete(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_create(&self, request: Request<wire::SnapshotRequest>) -> Answer<wire::SnapshotResponse> {
        let node = self.node.clone();
        whole(async move { engine::snapshot_create(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_delete(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::snapshot_delete(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_revert(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::snapshot_revert(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_purge(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::snapshot_purge(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_clone(&self, request: Request<wire::EngineSnapshotCloneRequest>) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { clone::engine(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_snapshot_hash(&self, request: Request<wire::SnapshotHashRequest>) -> Answer<()> {
        answer(hash::engine(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_snapshot_hash_status(
        &self,
        request: Request<wire::SnapshotHashStatusRequest>,
    ) -> Answer<wire::EngineSnapshotHashStatusResponse> {
        answer(hash::engine_status(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_snapshot_hash_cancel(&self, request: Request<wire::SnapshotHashCancelRequest>) -> Answer<()> {
        answer(hash::engine_cancel(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_snapshot_hash_lock_state(
        &self,
        request: Request<wire::SnapshotHashLockStateRequest>,
    ) -> Answer<wire::SnapshotHashLockStateResponse> {
        answer(hash::engine_lock_state(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_snapshot_max_count_set(
        &self,
        request: Request<wire::EngineSnapshotMaxCountSetRequest>,
    ) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::snapshot_max_count_set(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_backup_create(
        &self,
        request: Request<wire::BackupCreateRequest>,
    ) -> Answer<wire::BackupCreateResponse> {
        answer(engine::backup_create(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_backup_status(
        &self,
        request: Request<wire::BackupStatusRequest>,
    ) -> Answer<wire::BackupStatusResponse> {
        answer(engine::backup_status(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_backup_restore(
        &self,
        request: Request<wire::EngineBackupRestoreRequest>,
    ) -> Answer<wire::EngineBackupRestoreResponse> {
        answer(engine::backup_restore(&self.node.engines, request.into_inner()).await)
    }

    async fn engine_restore_status(
        &self,
        request: Request<wire::RestoreStatusRequest>,
    ) -> Answer<wire::RestoreStatusResponse> {
        answer(engine::restore_status(&self.node.engines, request.into_inner()))
    }

    async fn metrics_get(&self, request: Request<wire::MetricsRequest>) -> Answer<wire::Metrics> {
        answer(engine::metrics(&self.node.rates, request.into_inner()))
    }

    async fn log_set_level(&self, request: Request<wire::LogSetLevelRequest>) -> Answer<()> {
        answer(log::set_level(&self.node.logs, request.into_inner()))
    }

    async fn log_get_level(&self, _: Request<()>) -> Answer<wire::LogGetLevelResponse> {
        Ok(Response::new(log::get_level(&self.node.logs)))
    }

    async fn log_set_flags(&self, request: Request<wire::LogSetFlagsRequest>) -> Answer<()> {
        answer(log::set_flags(&self.node.logs, request.into_inner()).await)
    }

    async fn log_get_flags(&self, _: Request<()>) -> Answer<wire::LogGetFlagsResponse> {
        answer(log::get_flags(&self.node.logs).await)
    }

    async fn engine_set_target_listener_ana_state(
        &self,
        request: Request<wire::EngineSetTargetListenerAnaStateRequest>,
    ) -> Answer<()> {
        let node = self.node.clone();
        whole(async move { engine::set_target_ana_state(&node.engines, request.into_inner()).await }).await
    }

    async fn engine_frontend_create(
        &self,
        request: Request<wire::EngineFrontendCreateRequest>,
    ) -> Answer<wire::EngineFrontend> {
        answer(frontend::create(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_delete(&self, request: Request<wire::EngineFrontendDeleteRequest>) -> Answer<()> {
        answer(frontend::delete(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_get(
        &self,
        request: Request<wire::EngineFrontendGetRequest>,
    ) -> Answer<wire::EngineFrontend> {
        answer(frontend::get(&self.node.frontends, request.into_inner()))
    }

    async fn engine_frontend_suspend(&self, request: Request<wire::EngineFrontendSuspendRequest>) -> Answer<()> {
        answer(frontend::suspend(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_resume(&self, request: Request<wire::EngineFrontendResumeRequest>) -> Answer<()> {
        answer(frontend::resume(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_expand(&self, request: Request<wire::EngineFrontendExpandRequest>) -> Answer<()> {
        answer(frontend::expand(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_snapshot_create(
        &self,
        request: Request<wire::SnapshotRequest>,
    ) -> Answer<wire::SnapshotResponse> {
        answer(frontend::snapshot_create(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_snapshot_delete(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(frontend::snapshot_delete(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_snapshot_revert(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(frontend::snapshot_revert(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_snapshot_purge(&self, request: Request<wire::SnapshotRequest>) -> Answer<()> {
        answer(frontend::snapshot_purge(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_replica_add(&self, request: Request<wire::EngineFrontendReplicaAddRequest>) -> Answer<()> {
        answer(frontend::replica_add(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_switch_over(&self, request: Request<wire::EngineFrontendSwitchOverRequest>) -> Answer<()> {
        answer(frontend::switch_over(&self.node.frontends, request.into_inner()).await)
    }

    async fn engine_frontend_list(&self, _: Request<()>) -> Answer<wire::EngineFrontendListResponse> {
        Ok(Response::new(frontend::list(&self.node.frontends)))
    }

    async fn engine_frontend_watch(&self, _: Request<()>) -> Answer<Watch> {
        Ok(self.watch(self.node.frontends.changes()))
    }

    async fn backing_image_create(
        &self,
        request: Request<wire::BackingImageCreateRequest>,
    ) -> Answer<wire::BackingImage> {
        answer(backing_image::create(&self.node.backing_images, request.into_inner()).await)
    }

    async fn backing_image_delete(&self, request: Request<wire::BackingImageDeleteRequest>) -> Answer<()> {
        answer(backing_image::delete(&self.node.backing_images, request.into_inner()).await)
    }

    async fn backing_image_get(&self, request: Request<wire::BackingImageGetRequest>) -> Answer<wire::BackingImage> {
        answer(backing_image::get(&self.node.backing_images, request.into_inner()).await)
    }

    async fn backing_image_list(&self, _: Request<()>) -> Answer<wire::BackingImageListResponse> {
        answer(backing_image::list(&self.node.backing_images).await)
    }

    async fn backing_image_watch(&self, _: Request<()>) -> Answer<Watch> {
        Ok(self.watch(self.node.backing_images.changes()))
    }

    async fn backing_image_expose(
        &self,
        request: Request<wire::BackingImageGetRequest>,
    ) -> Answer<wire::BackingImageExposeResponse> {
        answer(backing_image::expose(&self.node.backing_images, request.into_inner()).await)
    }

    async fn backing_image_unexpose(&self, request: Request<wire::BackingImageGetRequest>) -> Answer<()> {
        answer(backing_image::unexpose(&self.node.backing_images, request.into_inner()).await)
    }

    async fn version_detail_get(&self, _: Request<()>) -> Answer<wire::VersionDetailGetReply> {
        let version =
            wire::VersionOutput { version: format!("corriente {}", env!("CARGO_PKG_VERSION")), ..Default::default() };
        Ok(Response::new(wire::VersionDetailGetReply { version: Some(version) }))
    }
}
