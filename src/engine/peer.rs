//! A replica on another node, over that node's gRPC. Every answer is parsed before the engine sees it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use tonic::transport::{Channel, Endpoint};

use super::backend::{
    Attribute, Backend, BackupOrder, BackupProgress, Child, Layer, ReplicaDescription, SnapshotOptions, limited,
};
use crate::error::{Error, Result};
use crate::name::object::HEAD_NAME;
use crate::name::{BackupName, HostPort, ReplicaAddress, ReplicaName, SnapshotName};
use crate::replica::BackupPhase;
use crate::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use crate::wire::corriente::v1::{ReplicaXattrGetRequest, ReplicaXattrSetRequest};
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::wire::status::from_peer;

/// Limits of calls to peers.
#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// Reaching the node.
    pub connect: Duration,
    /// One call.
    pub call: Duration,
}

/// Connections to other nodes, one each, shared by all engines.
pub struct Peers {
    port: u16,
    limits: PeerLimits,
    channels: Mutex<HashMap<std::net::IpAddr, Channel>>,
}

impl Peers {
    /// `port` is where every node's gRPC answers.
    pub fn new(port: u16, limits: PeerLimits) -> Self {
        Self { port, limits, channels: Mutex::new(HashMap::new()) }
    }

    /// The node that exports a replica at this address. Connects on first use, and again after a failure.
    fn channel(&self, replica: ReplicaAddress) -> Result<(HostPort, Channel)> {
        let node = HostPort::new(replica.ip(), self.port).map_err(|error| Error::name("replica_address_map", error))?;
        let mut channels = self.channels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(channel) = channels.get(&node.ip()) {
            return Ok((node, channel.clone()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{node}"))
            .map_err(|error| Error::internal("peer address", error.to_string()))?
            .connect_timeout(self.limits.connect)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10));
        let channel = endpoint.connect_lazy();
        channels.insert(node.ip(), channel.clone());
        Ok((node, channel))
    }

    /// Control of a replica of another node.
    pub fn backend(&self, replica: &ReplicaName, address: ReplicaAddress) -> Result<PeerBackend> {
        let (node, channel) = self.channel(address)?;
        Ok(PeerBackend { replica: replica.clone(), node, channel, limit: self.limits.call })
    }
}

/// One replica of another node.
pub struct PeerBackend {
    replica: ReplicaName,
    node: HostPort,
    channel: Channel,
    limit: Duration,
}

impl PeerBackend {
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let node = format!("node {}", self.node);
        let answered = async {
            let answer = call.await.map(tonic::Response::into_inner);
            answer.map_err(|status| from_peer(&node, ("replica", self.replica.as_str()), &status))
        };
        limited(format!("{what} of replica {} on {node}", self.replica), self.limit, answered).await
    }

    fn spdk(&self) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.channel.clone())
    }

    fn corriente(&self) -> CorrienteServiceClient<Channel> {
        CorrienteServiceClient::new(self.channel.clone())
    }

    fn snapshot_request(&self, snapshot: Option<&SnapshotName>) -> wire::SnapshotRequest {
        wire::SnapshotRequest {
            name: self.replica.to_string(),
            snapshot_name: snapshot.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }
    }
}

impl Backend for PeerBackend {
    fn describe(&self) -> BoxFuture<'_, Result<ReplicaDescription>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaGetRequest { name: self.replica.to_string() };
            let replica = self.call("description", client.replica_get(request)).await?;
            parse_replica(&format!("node {}", self.node), &self.replica, replica)
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

    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = self.snapshot_request(None);
            self.call("purge", client.replica_snapshot_purge(request)).await.map(drop)
        })
    }

    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::ReplicaExpandRequest { name: self.replica.to_string(), size };
            self.call("expansion", client.replica_expand(request)).await.map(drop)
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
                .map_err(|error| Error::peer(format!("node {}", self.node), format!("its backup's name {error}")))?;
            Ok((name, answer.is_incremental))
        })
    }

    fn backup_status<'a>(&'a self, backup: &'a BackupName) -> BoxFuture<'a, Result<BackupProgress>> {
        Box::pin(async move {
            let mut client = self.spdk();
            let request = wire::BackupStatusRequest { backup: backup.to_string(), ..Default::default() };
            let answer = self.call("backup status", client.replica_backup_status(request)).await?;
            let wrong = |problem| Error::peer(format!("node {} about backup {backup}", self.node), problem);
            parse_backup(answer).map_err(wrong)
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
    Ok(ReplicaDescription {
        name: expected.clone(),
        spec_size: replica.spec_size,
        state: replica.state,
        error_message: replica.error_msg,
        head,
        snapshots,
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
