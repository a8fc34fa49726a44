//! The source's node as a replica that is cloned into calls it: this one, or another by gRPC.

use super::types::{CloneMode, CloneOrder};
use crate::name::{HostPort, ReplicaName};
use crate::replica::rebuild::{CopyProgress, SourceNode};
use crate::wire::clone::{mode_number, parse_copy};
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::{Error, Result};

impl SourceNode {
    /// Bytes that the order's snapshot presents.
    pub(super) async fn snapshot_size(&self, order: &CloneOrder) -> Result<u64> {
        let (source, snapshot) = (&order.source, &order.snapshot);
        let found = match self {
            Self::Own(replicas) => replicas.get(source).await?.snapshots.get(snapshot).map(|lvol| lvol.spec_size),
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let call = client.replica_get(wire::ReplicaGetRequest { name: source.to_string() });
                let answer = peer.answer("description", source, call).await?;
                answer.snapshots.get(snapshot.as_str()).map(|lvol| lvol.spec_size)
            }
        };
        found.ok_or_else(|| Error::not_found("snapshot", format!("{snapshot} of replica {source}")))
    }

    /// Asks for the copy of all that the snapshot shows, to the lvol served at `address`.
    pub(super) async fn clone_start(
        &self,
        order: &CloneOrder,
        destination: &ReplicaName,
        address: HostPort,
    ) -> Result<()> {
        match self {
            Self::Own(replicas) => {
                replicas.clone_source_start(&order.source, destination, &order.snapshot, address).await
            }
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let call = client.replica_snapshot_clone_src_start(wire::ReplicaSnapshotCloneSrcStartRequest {
                    name: order.source.to_string(),
                    snapshot_name: order.snapshot.to_string(),
                    dst_replica_name: destination.to_string(),
                    dst_cloning_lvol_address: address.to_string(),
                    clone_mode: mode_number(CloneMode::FullCopy),
                });
                peer.answer("start of a clone's copy", &order.source, call).await
            }
        }
    }

    /// How far that copy is.
    pub(super) async fn clone_progress(&self, order: &CloneOrder, destination: &ReplicaName) -> Result<CopyProgress> {
        let source = &order.source;
        match self {
            Self::Own(replicas) => replicas.clone_source_progress(source, destination, &order.snapshot),
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let call =
                    client.replica_snapshot_clone_src_status_check(wire::ReplicaSnapshotCloneSrcStatusCheckRequest {
                        name: source.to_string(),
                        snapshot_name: order.snapshot.to_string(),
                        dst_replica_name: destination.to_string(),
                    });
                let answer = peer.answer("progress of a clone's copy", source, call).await?;
                let wrong = |problem| Error::peer(format!("{} about replica {source}", peer.title()), problem);
                parse_copy(answer).map_err(wrong)
            }
        }
    }

    /// Ends the source's part, and a copy that runs.
    pub(super) async fn clone_finish(&self, order: &CloneOrder, destination: &ReplicaName) -> Result<()> {
        let source = &order.source;
        match self {
            Self::Own(replicas) => replicas.clone_source_finish(source, destination).await,
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let call = client.replica_snapshot_clone_src_finish(wire::ReplicaSnapshotCloneSrcFinishRequest {
                    name: source.to_string(),
                    dst_replica_name: destination.to_string(),
                });
                peer.answer("end of a clone's copy", source, call).await
            }
        }
    }
}
