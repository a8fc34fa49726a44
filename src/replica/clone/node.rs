//! The source's node as a replica that is cloned into calls it: this one, or another by gRPC.

use super::types::{CloneMode, CloneOrder};
use crate::name::{BackingImageName, HostPort, ReplicaName};
use crate::replica::rebuild::{CopyProgress, SourceNode};
use crate::wire::clone::{mode_number, parse_copy};
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::{Error, Result};

/// A snapshot that is to be copied, as its node describes it.
pub(super) struct SourceSnapshot {
    /// Bytes that it presents.
    pub(super) bytes: u64,
    /// The backing image that the source stands on.
    pub(super) backing_image: Option<BackingImageName>,
}

impl SourceNode {
    /// What the order's snapshot is.
    pub(super) async fn snapshot(&self, order: &CloneOrder) -> Result<SourceSnapshot> {
        let (source, snapshot) = (&order.source, &order.snapshot);
        let found = match self {
            Self::Own(replicas) => {
                let view = replicas.get(source).await?;
                let backing_image = view.backing_image.clone();
                view.snapshots.get(snapshot).map(|lvol| SourceSnapshot { bytes: lvol.spec_size, backing_image })
            }
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let call = client.replica_get(wire::ReplicaGetRequest { name: source.to_string() });
                let answer = peer.answer("description", source, call).await?;
                let backing_image = BackingImageName::parse(&answer.backing_image_name).ok();
                let lvol = answer.snapshots.get(snapshot.as_str());
                lvol.map(|lvol| SourceSnapshot { bytes: lvol.spec_size, backing_image })
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
