//! A replica on another node, over that node's gRPC. Every answer is parsed before the engine sees it.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use tonic::transport::Channel;

use super::backend::{
    Attribute, Backend, BackupOrder, BackupProgress, Child, DiskSpace, HeadMap, Layer, ReplicaDescription,
    SnapshotOptions, StandsOn,
};
use crate::error::{Error, Result};
use crate::name::object::HEAD_NAME;
use crate::name::{
    BackingImageName, BackupName, HostPort, LvsName, NameError, ReplicaAddress, ReplicaName, SnapshotLabels,
    SnapshotName,
};
use crate::peer::Peer;
use crate::replica::clone::{CloneOrder, EntryMark};
use crate::replica::rebuild::{RebuildOrder, RebuildProgress};
use crate::replica::{BackupPhase, HashStatus};
use crate::spdk::clustermap::ClusterMap;
use crate::wire::clone::{self, CloneProgress};
use crate::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use crate::wire::corriente::v1::{
    ReplicaHeadMapRequest, ReplicaHostsDisconnectRequest, ReplicaKeptSnapshotsRequest, ReplicaSnapshotLabelsRequest,
    ReplicaXattrGetRequest, ReplicaXattrSetRequest,
};
use crate::wire::labels::parse_answer as parse_labels;
use crate::wire::rebuild as convert;
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;

pub use crate::peer::{PeerLimits, Peers};

/// The largest map of a head: of a volume of 64 TiB, one bit a cluster, and what is around it.
const MAP_MESSAGE_LIMIT: usize = 9 << 20;

impl Peers {
    /// Control of a replica of another node.
    pub fn backend(&self, replica: &ReplicaName, address: ReplicaAddress) -> Result<PeerBackend> {
        Ok(PeerBackend { replica: replica.clone(), peer: self.node_of(address)? })
    }
}

/// One replica of another node.
pub struct PeerBackend {
    replica: ReplicaName,
    peer: Peer,
}

impl PeerBackend {
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        self.peer.answer(what, &self.replica, call).await
    }

    fn spdk(&self) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.peer.channel())
    }

    fn corriente(&self) -> CorrienteServiceClient<Channel> {
        CorrienteServiceClient::new(self.peer.channel())
    }

    fn snapshot_request(&self, snapshot: Option<&SnapshotName>) -> wire::SnapshotRequest {
        wire::SnapshotRequest {
            name: self.replica.to_string(),
            snapshot_name: snapshot.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }
    }

    /// An answer of the peer that cannot be.
    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::peer(format!("{} about replica {}", self.peer.title(), self.replica), problem.to_string())
    }
}

impl Backend for PeerBackend {
    fn describe(&self) -> BoxFuture<'_, Result<ReplicaDescription>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaGetRequest { name: self.replica.to_string() };
            let replica = self.call("description", client.replica_get(request)).await?;
            parse_replica(&self.peer.title(), &self.replica, replica)
        })
    }

    fn snapshot_create<'a>(
        &'a self,
        snapshot: &'a SnapshotName,
        options: SnapshotOptions,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut request = self.snapshot_request(Some(snapshot));
            request.user_created = options.user_created;
            request.snapshot_timestamp = options.timestamp;
            request.labels = options.labels.into();
            let mut client = self.spdk();
            self.call("snapshot", client.replica_snapshot_create(request)).await.map(drop)
        })
    }

    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = self.snapshot_request(Some(snapshot));
            self.call("snapshot deletion", client.replica_snapshot_delete(request)).await.map(drop)
        })
    }

    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = self.snapshot_request(Some(snapshot));
            self.call("revert", client.replica_snapshot_revert(request)).await.map(drop)
        })
    }

    fn kept_snapshots(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, String>>> {
        Box::pin(async move {
            let mut client = self.corriente();
            let request = ReplicaKeptSnapshotsRequest { replica_name: self.replica.to_string() };
            let answer = self.call("kept snapshots", client.replica_kept_snapshots(request)).await?;
            let kept = answer.kept.into_iter().map(|(name, why)| match SnapshotName::parse(&name) {
                Ok(name) => Ok((name, why)),
                Err(error) => Err(self.wrong(format!("the name {name:?} in its kept snapshots {error}"))),
            });
            kept.collect()
        })
    }

    fn snapshot_labels(&self) -> BoxFuture<'_, Result<BTreeMap<SnapshotName, SnapshotLabels>>> {
        Box::pin(async move {
            let mut client = self.corriente();
            let request = ReplicaSnapshotLabelsRequest { replica_name: self.replica.to_string() };
            let call = async {
                match client.replica_snapshot_labels(request).await {
                    // A node of before there were labels.
                    Err(status) if status.code() == tonic::Code::Unimplemented => {
                        Ok(tonic::Response::new(Default::default()))
                    }
                    answer => answer,
                }
            };
            let answer = self.call("labels", call).await?;
            parse_labels(answer).map_err(|problem| self.wrong(problem))
        })
    }

    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = self.snapshot_request(None);
            self.call("purge", client.replica_snapshot_purge(request)).await.map(drop)
        })
    }

    fn disk_space(&self) -> BoxFuture<'_, Result<DiskSpace>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaGetRequest { name: self.replica.to_string() };
            let disk_name = self.call("description", client.replica_get(request)).await?.lvs_name;
            let request = wire::DiskGetRequest { disk_name, ..Default::default() };
            let found = self.call("disk", client.disk_get(request)).await?;
            let free = u64::try_from(found.free_size).map_err(|_| self.wrong("its disk has less than nothing free"))?;
            Ok(DiskSpace { disk: found.name, free })
        })
    }

    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaExpandRequest { name: self.replica.to_string(), size };
            self.call("expansion", client.replica_expand(request)).await.map(drop)
        })
    }

    fn disconnect_hosts(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.corriente();
            let request = ReplicaHostsDisconnectRequest { replica_name: self.replica.to_string() };
            self.call("end of its connections", client.replica_hosts_disconnect(request)).await.map(drop)
        })
    }

    fn attribute(&self, attribute: Attribute) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let mut client = self.corriente();
            let request =
                ReplicaXattrGetRequest { replica_name: self.replica.to_string(), key: attribute.key().to_owned() };
            let answer = self.call("attribute", client.replica_xattr_get(request)).await?;
            Ok(answer.found.then_some(answer.value))
        })
    }

    fn set_attribute(&self, attribute: Attribute, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.corriente();
            let (replica_name, key) = (self.replica.to_string(), attribute.key().to_owned());
            let request = ReplicaXattrSetRequest { replica_name, key, value };
            self.call("attribute change", client.replica_xattr_set(request)).await.map(drop)
        })
    }

    fn backup_create(&self, order: BackupOrder) -> BoxFuture<'_, Result<(BackupName, bool)>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let mut request = order.request;
            request.replica_name = self.replica.to_string();
            let answer = self.call("backup", client.replica_backup_create(request)).await?;
            let name = BackupName::parse(&answer.backup)
                .map_err(|error| Error::peer(self.peer.title(), format!("its backup's name {error}")))?;
            Ok((name, answer.is_incremental))
        })
    }

    fn backup_status<'a>(&'a self, backup: &'a BackupName) -> BoxFuture<'a, Result<BackupProgress>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::BackupStatusRequest { backup: backup.to_string(), ..Default::default() };
            let answer = self.call("backup status", client.replica_backup_status(request)).await?;
            let wrong = |problem| Error::peer(format!("{} about backup {backup}", self.peer.title()), problem);
            parse_backup(answer).map_err(wrong)
        })
    }

    fn rebuild_source_start<'a>(
        &'a self,
        destination: &'a ReplicaName,
        address: ReplicaAddress,
        snapshot: &'a SnapshotName,
    ) -> BoxFuture<'a, Result<HostPort>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaRebuildingSrcStartRequest {
                name: self.replica.to_string(),
                dst_replica_name: destination.to_string(),
                dst_replica_address: address.to_string(),
                exposed_snapshot_name: snapshot.to_string(),
            };
            let answer = self.call("start as a rebuild's source", client.replica_rebuilding_src_start(request)).await?;
            HostPort::parse(&answer.exposed_snapshot_lvol_address)
                .map_err(|error| self.wrong(format!("the address of the exposed snapshot {error}")))
        })
    }

    fn rebuild_source_finish<'a>(&'a self, destination: &'a ReplicaName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, dst_replica_name) = (self.replica.to_string(), destination.to_string());
            let request = wire::ReplicaRebuildingSrcFinishRequest { name, dst_replica_name };
            self.call("end as a rebuild's source", client.replica_rebuilding_src_finish(request)).await.map(drop)
        })
    }

    fn rebuild_start(&self, order: RebuildOrder) -> BoxFuture<'_, Result<ReplicaAddress>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = convert::order_message(&self.replica, &order);
            let answer = self.call("start of the rebuild", client.replica_rebuilding_dst_start(request)).await?;
            HostPort::parse(&answer.dst_head_lvol_address)
                .map_err(|error| self.wrong(format!("the address of its head {error}")))
        })
    }

    fn rebuild_copy_start<'a>(&'a self, snapshot: &'a SnapshotName, fast_sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, snapshot_name) = (self.replica.to_string(), snapshot.to_string());
            let request = wire::ReplicaRebuildingDstShallowCopyStartRequest { name, snapshot_name, fast_sync };
            self.call("start of a copy", client.replica_rebuilding_dst_shallow_copy_start(request)).await.map(drop)
        })
    }

    fn rebuild_progress(&self) -> BoxFuture<'_, Result<RebuildProgress>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaRebuildingDstShallowCopyCheckRequest { name: self.replica.to_string() };
            let answer = self.call("progress", client.replica_rebuilding_dst_shallow_copy_check(request)).await?;
            convert::parse_progress(answer).map_err(|problem| self.wrong(problem))
        })
    }

    fn rebuild_snapshot_create<'a>(
        &'a self,
        snapshot: &'a SnapshotName,
        options: SnapshotOptions,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut request = self.snapshot_request(Some(snapshot));
            request.user_created = options.user_created;
            request.snapshot_timestamp = options.timestamp;
            request.labels = options.labels.into();
            let mut client = self.spdk();
            self.call("rebuilt snapshot", client.replica_rebuilding_dst_snapshot_create(request)).await.map(drop)
        })
    }

    fn rebuild_finish(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaRebuildingDstFinishRequest { name: self.replica.to_string() };
            self.call("end of the rebuild", client.replica_rebuilding_dst_finish(request)).await.map(drop)
        })
    }

    fn rebuild_limit(&self, mib_per_second: u32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, qos_limit_mbps) = (self.replica.to_string(), mib_per_second.into());
            let request = wire::ReplicaRebuildingDstSetQosLimitRequest { name, qos_limit_mbps };
            self.call("limit of the rebuild", client.replica_rebuilding_dst_set_qos_limit(request)).await.map(drop)
        })
    }

    fn head_map(&self) -> BoxFuture<'_, Result<HeadMap>> {
        Box::pin(async move {
            let mut client = self.corriente().max_decoding_message_size(MAP_MESSAGE_LIMIT);
            let request = ReplicaHeadMapRequest { replica_name: self.replica.to_string() };
            let answer = self.call("map of the head", client.replica_head_map(request)).await?;
            let clusters = ClusterMap::from_bytes(answer.bitmap, answer.cluster_count)
                .ok_or_else(|| self.wrong("its bitmap does not have a bit for each cluster"))?;
            match answer.cluster_size {
                0 => Err(self.wrong("its clusters have no bytes")),
                cluster_size => Ok(HeadMap { cluster_size, clusters }),
            }
        })
    }

    fn clone_start(&self, order: CloneOrder) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = clone::order_message(&self.replica, &order);
            self.call("start of a clone", client.replica_snapshot_clone_dst_start(request)).await.map(drop)
        })
    }

    fn clone_progress(&self) -> BoxFuture<'_, Result<CloneProgress>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: self.replica.to_string() };
            let answer =
                self.call("status of a clone", client.replica_snapshot_clone_dst_status_check(request)).await?;
            clone::parse_status(answer).map_err(|problem| self.wrong(problem))
        })
    }

    fn snapshot_hash<'a>(&'a self, snapshot: &'a SnapshotName, rehash: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, snapshot_name) = (self.replica.to_string(), snapshot.to_string());
            let request = wire::SnapshotHashRequest { name, snapshot_name, rehash };
            self.call("hash", client.replica_snapshot_hash(request)).await.map(drop)
        })
    }

    fn snapshot_hash_status<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<HashStatus>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, snapshot_name) = (self.replica.to_string(), snapshot.to_string());
            let request = wire::SnapshotHashStatusRequest { name, snapshot_name };
            let answer = self.call("hash status", client.replica_snapshot_hash_status(request)).await?;
            crate::wire::hash::parse_status(answer).map_err(|problem| self.wrong(problem))
        })
    }

    fn snapshot_hash_cancel<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let (name, snapshot_name) = (self.replica.to_string(), snapshot.to_string());
            let request = wire::SnapshotHashCancelRequest { name, snapshot_name };
            self.call("cancel of a hash", client.replica_snapshot_hash_cancel(request)).await.map(drop)
        })
    }

    fn is_hashing(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::SnapshotHashLockStateRequest { name: self.replica.to_string() };
            let answer = self.call("hash state", client.replica_snapshot_hash_lock_state(request)).await?;
            Ok(answer.is_locked)
        })
    }
}

fn parse_backup(answer: wire::BackupStatusResponse) -> std::result::Result<BackupProgress, String> {
    let snapshot = SnapshotName::parse(&answer.snapshot_name)
        .map_err(|error| format!("its snapshot's name {:?} {error}", answer.snapshot_name))?;
    let phase = match answer.state.as_str() {
        "in_progress" => BackupPhase::Running(answer.progress.clamp(0, 99) as u32),
        "complete" => BackupPhase::Complete(answer.backup_url),
        "error" => BackupPhase::Failed(answer.error),
        other => return Err(format!("its state {other:?} is not known")),
    };
    Ok(BackupProgress { phase, snapshot })
}

/// Turns a peer's description into types; what cannot be is the peer's fault, by name.
pub fn parse_replica(peer: &str, expected: &ReplicaName, replica: wire::Replica) -> Result<ReplicaDescription> {
    let wrong = |problem: String| Error::peer(format!("{peer} about replica {expected}"), problem);
    if replica.name != expected.as_str() {
        return Err(wrong(format!("it answers for {:?}", replica.name)));
    }
    let mut snapshots = std::collections::BTreeMap::new();
    for (name, lvol) in replica.snapshots {
        let name = SnapshotName::parse(&name).map_err(|error| wrong(format!("the snapshot name {name:?} {error}")))?;
        snapshots.insert(name, parse_layer(lvol).map_err(&wrong)?);
    }
    let head = replica.head.map(parse_layer).transpose().map_err(&wrong)?;
    let linked = replica.linked_clone_info.map(|info| {
        let source = ReplicaName::parse(&info.source_replica_name);
        let snapshot = SnapshotName::parse(&info.source_snapshot_name);
        Ok(EntryMark { source: source?, snapshot: snapshot? })
    });
    let linked =
        linked.transpose().map_err(|error: NameError| wrong(format!("a name in its linked_clone_info {error}")))?;
    let backing_image = match replica.backing_image_name.as_str() {
        "" => None,
        name => Some(parse_base(name, &replica.lvs_uuid, &replica.lvs_name).map_err(&wrong)?),
    };
    Ok(ReplicaDescription {
        name: expected.clone(),
        spec_size: replica.spec_size,
        state: replica.state,
        error_message: replica.error_msg,
        head,
        snapshots,
        rebuilding: replica.rebuilding,
        linked,
        backing_image,
    })
}

fn parse_base(name: &str, lvs_uuid: &str, lvs_name: &str) -> std::result::Result<StandsOn, String> {
    Ok(StandsOn {
        name: BackingImageName::parse(name).map_err(|error| format!("its backing image's name {name:?} {error}"))?,
        lvs_uuid: lvs_uuid.parse().map_err(|_| format!("its lvstore {lvs_uuid:?} is not a UUID"))?,
        lvs_name: LvsName::parse(lvs_name).map_err(|error| format!("its lvstore's name {lvs_name:?} {error}"))?,
    })
}

fn parse_layer(lvol: wire::Lvol) -> std::result::Result<Layer, String> {
    let snapshot =
        |name: &str| SnapshotName::parse(name).map_err(|error| format!("the name {name:?} in its chain {error}"));
    let parent = match lvol.parent.as_str() {
        "" => None,
        name => Some(snapshot(name)?),
    };
    let mut children = Vec::new();
    for name in lvol.children.keys() {
        children.push(if name == HEAD_NAME { Child::Head } else { Child::Snapshot(snapshot(name)?) });
    }
    children.sort();
    Ok(Layer {
        uuid: lvol.uuid,
        spec_size: lvol.spec_size,
        actual_size: lvol.actual_size,
        parent,
        children,
        creation_time: lvol.creation_time,
        user_created: lvol.user_created,
        timestamp: lvol.snapshot_timestamp,
        checksum: lvol.snapshot_checksum,
    })
}
