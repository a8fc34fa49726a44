//! `corriente.v1.CorrienteService`: what Longhorn's contract lacks.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::engine::mode;
use super::{checkpoints, checksum, events, verify};
use crate::engine::instance::Engine;
use crate::error::Error;
use crate::mirror::core::Locality;
use crate::mirror::core::control::MemberMode;
use crate::name::{EngineName, ReplicaName};
use crate::node::Node;
use crate::task::to_its_end;
use crate::wire::corriente::v1 as own;
use crate::wire::corriente::v1::corriente_service_server::CorrienteService;
use crate::wire::labels;
use crate::wire::spdkrpc as wire;

/// The service over a node.
pub struct CorrienteServer {
    node: Arc<Node>,
}

impl CorrienteServer {
    /// Serves `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn engine(&self, name: &str) -> Result<Arc<Engine>, Error> {
        self.node.engines.get(&EngineName::parse(name).map_err(|error| Error::name("engine_name", error))?)
    }
}

fn replica_name(text: &str) -> Result<ReplicaName, Error> {
    ReplicaName::parse(text).map_err(|error| Error::name("replica_name", error))
}

/// Runs a call to its end, also when its caller goes away: nobody would know of a suspension begun half-way.
async fn whole<T: Send + 'static>(call: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    to_its_end("the call", call).await
}

#[tonic::async_trait]
impl CorrienteService for CorrienteServer {
    async fn node_info(&self, _: Request<()>) -> Result<Response<own::NodeInfoResponse>, Status> {
        Ok(Response::new(crate::node::info(&self.node)))
    }

    async fn disk_list(&self, _: Request<()>) -> Result<Response<own::DiskListResponse>, Status> {
        Ok(Response::new(own::DiskListResponse { disks: super::disk::list(&self.node.disks).await? }))
    }

    async fn orphan_list(
        &self,
        request: Request<own::OrphanListRequest>,
    ) -> Result<Response<own::OrphanListResponse>, Status> {
        Ok(Response::new(super::orphan::list(&self.node.replicas, request.into_inner()).await?))
    }

    async fn orphan_delete(&self, request: Request<own::OrphanDeleteRequest>) -> Result<Response<()>, Status> {
        super::orphan::delete(&self.node.replicas, request.into_inner()).await?;
        Ok(Response::new(()))
    }

    async fn orphan_adopt(&self, request: Request<own::OrphanAdoptRequest>) -> Result<Response<wire::Replica>, Status> {
        Ok(Response::new(super::orphan::adopt(&self.node.replicas, request.into_inner()).await?))
    }

    async fn mirror_get(
        &self,
        request: Request<own::MirrorGetRequest>,
    ) -> Result<Response<own::MirrorGetResponse>, Status> {
        let engine = self.engine(&request.into_inner().engine_name)?;
        Ok(Response::new(describe_mirror(&engine).await?))
    }

    async fn replica_flush(&self, request: Request<own::ReplicaFlushRequest>) -> Result<Response<()>, Status> {
        self.node.replicas.flush(&replica_name(&request.into_inner().replica_name)?).await?;
        Ok(Response::new(()))
    }

    async fn volume_checksum(
        &self,
        request: Request<own::VolumeChecksumRequest>,
    ) -> Result<Response<BoxStream<own::VolumeChecksumResponse>>, Status> {
        let request = request.into_inner();
        let engine = self.engine(&request.engine_name)?;
        Ok(Response::new(checksum::start(&engine, &request, &self.node.stopping)?))
    }

    async fn backing_image_verify(
        &self,
        request: Request<own::BackingImageVerifyRequest>,
    ) -> Result<Response<BoxStream<own::BackingImageVerifyResponse>>, Status> {
        let images = &self.node.backing_images;
        Ok(Response::new(verify::start(images, &request.into_inner(), &self.node.stopping).await?))
    }

    async fn events(&self, request: Request<own::EventsRequest>) -> Result<Response<BoxStream<own::Event>>, Status> {
        let events = &self.node.telemetry.events;
        Ok(Response::new(events::start(events, &request.into_inner(), &self.node.stopping)?))
    }

    async fn engine_suspend(
        &self,
        request: Request<own::EngineSuspendRequest>,
    ) -> Result<Response<own::EngineSuspendResponse>, Status> {
        let engine = self.engine(&request.into_inner().engine_name)?;
        let limit = whole(async move { engine.suspend().await }).await?;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(own::EngineSuspendResponse { limit_ms }))
    }

    async fn engine_resume(&self, request: Request<own::EngineResumeRequest>) -> Result<Response<()>, Status> {
        let engine = self.engine(&request.into_inner().engine_name)?;
        whole(async move { engine.resume().await }).await?;
        Ok(Response::new(()))
    }

    async fn replica_xattr_set(&self, request: Request<own::ReplicaXattrSetRequest>) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let replica = replica_name(&request.replica_name)?;
        self.node.replicas.xattr_set(&replica, &request.key, &request.value).await?;
        Ok(Response::new(()))
    }

    async fn replica_xattr_get(
        &self,
        request: Request<own::ReplicaXattrGetRequest>,
    ) -> Result<Response<own::ReplicaXattrGetResponse>, Status> {
        let request = request.into_inner();
        let replica = replica_name(&request.replica_name)?;
        let value = self.node.replicas.xattr_get(&replica, &request.key).await?;
        let found = value.is_some();
        Ok(Response::new(own::ReplicaXattrGetResponse { found, value: value.unwrap_or_default() }))
    }

    async fn replica_hosts_disconnect(
        &self,
        request: Request<own::ReplicaHostsDisconnectRequest>,
    ) -> Result<Response<()>, Status> {
        let replica = replica_name(&request.into_inner().replica_name)?;
        self.node.replicas.disconnect_hosts(&replica).await?;
        Ok(Response::new(()))
    }

    async fn replica_head_map(
        &self,
        request: Request<own::ReplicaHeadMapRequest>,
    ) -> Result<Response<own::ReplicaHeadMapResponse>, Status> {
        let replica = replica_name(&request.into_inner().replica_name)?;
        let (cluster_size, clusters) = self.node.replicas.head_map(&replica).await?;
        let (cluster_count, bitmap) = (clusters.len(), clusters.as_bytes().to_vec());
        Ok(Response::new(own::ReplicaHeadMapResponse { cluster_size, cluster_count, bitmap }))
    }

    async fn replica_kept_snapshots(
        &self,
        request: Request<own::ReplicaKeptSnapshotsRequest>,
    ) -> Result<Response<own::ReplicaKeptSnapshotsResponse>, Status> {
        let replica = replica_name(&request.into_inner().replica_name)?;
        let kept = self.node.replicas.kept_snapshots(&replica).await?;
        let kept = kept.into_iter().map(|(name, why)| (name.to_string(), why)).collect();
        Ok(Response::new(own::ReplicaKeptSnapshotsResponse { kept }))
    }

    async fn replica_snapshot_labels(
        &self,
        request: Request<own::ReplicaSnapshotLabelsRequest>,
    ) -> Result<Response<own::SnapshotLabelsResponse>, Status> {
        let replica = replica_name(&request.into_inner().replica_name)?;
        Ok(Response::new(labels::message(self.node.replicas.get(&replica).await?.snapshot_labels())))
    }

    async fn engine_snapshot_labels(
        &self,
        request: Request<own::EngineSnapshotLabelsRequest>,
    ) -> Result<Response<own::SnapshotLabelsResponse>, Status> {
        let engine = self.engine(&request.into_inner().engine_name)?;
        Ok(Response::new(labels::message(engine.snapshot_labels().await?)))
    }

    async fn restore_checkpoints(
        &self,
        request: Request<own::RestoreCheckpointsRequest>,
    ) -> Result<Response<own::RestoreCheckpointsResponse>, Status> {
        let engine = self.engine(&request.into_inner().engine_name)?;
        Ok(Response::new(checkpoints::list(&engine).await))
    }
}

async fn describe_mirror(engine: &Engine) -> Result<own::MirrorGetResponse, Error> {
    let mirror = engine.mirror()?;
    let activity = mirror.activity().await?;
    let status = mirror.status();
    let listed = engine.published().replicas;
    let returning = engine.returning();
    let member = |member: &crate::mirror::MemberStatus| own::MirrorMember {
        replica_name: member.replica.to_string(),
        address: member.address.to_string(),
        bdev_name: member.bdev.to_string(),
        mode: mode(member.mode.into()) as i32,
        generation: if member.mode == MemberMode::Rw { status.generation.raw() } else { 0 },
        local: member.locality == Locality::Local,
        last_error: listed.get(&member.replica).map(|listed| listed.problem.clone()).unwrap_or_default(),
        pending: activity.pending[member.place.get()],
        awaited: member.awaited,
        missed_bytes: activity.dirty.missed_bytes[member.place.get()].unwrap_or_default(),
        copied_bytes: match &returning {
            Some((replica, copied_bytes)) if *replica == member.replica => *copied_bytes,
            _ => 0,
        },
    };
    Ok(own::MirrorGetResponse {
        engine_name: engine.name.to_string(),
        members: status.members.iter().map(member).collect(),
        read_policy: engine.read_policy().to_string(),
        generation: status.generation.raw(),
        block_size: mirror.geometry().block_size,
        block_count: mirror.geometry().block_count,
        region_bytes: activity.dirty.region_bytes,
        dirty_regions: activity.dirty.regions,
        unequal_bytes: activity.dirty.unequal_bytes,
        asleep: activity.dirty.asleep,
    })
}
