//! The source's node as a destination calls it: this one, or another by gRPC.

use super::types::CopyProgress;
use crate::name::{HostPort, ReplicaName, SnapshotName};
use crate::peer::Peer;
use crate::replica::Replicas;
use crate::wire::rebuild::parse_copy;
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::{Error, Result};

/// Where the source of a rebuild or of a clone is.
#[derive(Clone)]
pub(in crate::replica) enum SourceNode {
    /// Here.
    Own(Replicas),
    /// On another node.
    Other(Peer),
}

impl SourceNode {
    /// Asks for the copy of a snapshot to the lvol served at `address`.
    pub(super) async fn copy_start(
        &self,
        source: &ReplicaName,
        snapshot: &SnapshotName,
        address: HostPort,
    ) -> Result<()> {
        match self {
            Self::Own(replicas) => replicas.rebuild_source_copy(source, snapshot, address, None).await,
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let request = wire::ReplicaRebuildingSrcShallowCopyStartRequest {
                    name: source.to_string(),
                    snapshot_name: snapshot.to_string(),
                    dst_rebuilding_lvol_address: address.to_string(),
                };
                let call = client.replica_rebuilding_src_shallow_copy_start(request);
                peer.answer("start of a copy", source, call).await
            }
        }
    }

    /// How far that copy is.
    pub(super) async fn copy_progress(
        &self,
        source: &ReplicaName,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
    ) -> Result<CopyProgress> {
        match self {
            Self::Own(replicas) => replicas.rebuild_source_progress(source, destination, snapshot),
            Self::Other(peer) => {
                let mut client = SpdkServiceClient::new(peer.channel());
                let request = wire::ReplicaRebuildingSrcShallowCopyCheckRequest {
                    name: source.to_string(),
                    dst_replica_name: destination.to_string(),
                    snapshot_name: snapshot.to_string(),
                };
                let call = client.replica_rebuilding_src_shallow_copy_check(request);
                let answer = peer.answer("progress of a copy", source, call).await?;
                let wrong = |problem| Error::peer(format!("{} about replica {source}", peer.title()), problem);
                parse_copy(answer).map_err(wrong)
            }
        }
    }
}
