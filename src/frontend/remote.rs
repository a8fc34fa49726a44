//! An engine of another node, over that node's gRPC. Every answer is parsed before the frontend sees it.

use std::time::Duration;

use futures::future::BoxFuture;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::control::{EngineControl, EngineView, ReplicaAddOrder};
use crate::engine::target::AnaState;
use crate::error::{Error, Result};
use crate::name::{EngineName, HostPort, SnapshotLabels, SnapshotName, VolumeName};
use crate::peer::{Peer, Peers};
use crate::wire::corriente::v1 as own;
use crate::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::wire::status::from_peer;

/// Control of one engine of another node.
pub struct RemoteEngine {
    name: EngineName,
    peer: Peer,
}

impl RemoteEngine {
    /// The engine `name` of the node with that data address.
    pub fn new(peers: &Peers, name: EngineName, node: std::net::IpAddr) -> Result<Self> {
        Ok(Self { name, peer: peers.node_at("target_address", node)? })
    }

    fn spdk(&self) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.peer.channel())
    }

    fn corriente(&self) -> CorrienteServiceClient<Channel> {
        CorrienteServiceClient::new(self.peer.channel())
    }

    /// `field` is what the caller gave us and the node may refuse.
    async fn call<T>(
        &self,
        what: &'static str,
        field: &'static str,
        answer: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.peer.limit(), answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.refused(what, field, &status)),
            Err(_) => Err(Error::Timeout {
                what: format!("{what} of engine {} on {}", self.name, self.peer.title()),
                limit: self.peer.limit(),
            }),
        }
    }

    /// What the node finds wrong with a value that was handed through is the caller's to correct, not ours.
    fn refused(&self, what: &'static str, field: &'static str, status: &Status) -> Error {
        match status.code() {
            Code::InvalidArgument => {
                let prefix = format!("{field}: ");
                Error::invalid(field, status.message().strip_prefix(prefix.as_str()).unwrap_or(status.message()))
            }
            Code::Unimplemented => Error::Unimplemented { what, reason: "the engine's node does not offer it" },
            _ => from_peer(&self.peer.title(), ("engine", self.name.as_str()), status),
        }
    }

    fn snapshot_request(&self, snapshot: Option<&SnapshotName>) -> wire::SnapshotRequest {
        wire::SnapshotRequest {
            name: self.name.to_string(),
            snapshot_name: snapshot.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }
    }

    fn parse(&self, engine: wire::Engine) -> Result<EngineView> {
        let wrong = |problem: String| Error::peer(format!("{} about engine {}", self.peer.title(), self.name), problem);
        if engine.name != self.name.as_str() {
            return Err(wrong(format!("it answers for {:?}", engine.name)));
        }
        let volume = VolumeName::parse(&engine.volume_name)
            .map_err(|error| wrong(format!("its volume's name {:?} {error}", engine.volume_name)))?;
        let target = match (engine.ip.as_str(), engine.port) {
            ("", _) | (_, 0) => None,
            (ip, port) => {
                let text = format!("{ip}:{port}");
                let ip = ip.parse().map_err(|_| wrong(format!("its target {text:?} is no address")))?;
                let port = u16::try_from(port).map_err(|_| wrong(format!("its target {text:?} is no address")))?;
                Some(HostPort::new(ip, port).map_err(|error| wrong(format!("its target {text:?}: {error}")))?)
            }
        };
        let (size, state, error_message) = (engine.spec_size, engine.state, engine.error_msg);
        Ok(EngineView { volume, size, target, state, error_message })
    }
}

impl EngineControl for RemoteEngine {
    fn describe(&self) -> BoxFuture<'_, Result<EngineView>> {
        Box::pin(async move {
            let request = wire::EngineGetRequest { name: self.name.to_string() };
            let mut client = self.spdk();
            let engine = self.call("description", "engine_name", client.engine_get(request)).await?;
            self.parse(engine)
        })
    }

    fn suspend(&self) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(async move {
            let request = own::EngineSuspendRequest { engine_name: self.name.to_string() };
            let mut client = self.corriente();
            let answer = self.call("suspension", "engine_name", client.engine_suspend(request)).await?;
            Ok(Duration::from_millis(answer.limit_ms))
        })
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let request = own::EngineResumeRequest { engine_name: self.name.to_string() };
            let mut client = self.corriente();
            self.call("resumption", "engine_name", client.engine_resume(request)).await
        })
    }

    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let request = wire::EngineExpandRequest { name: self.name.to_string(), size };
            let mut client = self.spdk();
            self.call("expansion", "size", client.engine_expand(request)).await
        })
    }

    fn snapshot_create(
        &self,
        snapshot: Option<SnapshotName>,
        labels: SnapshotLabels,
    ) -> BoxFuture<'_, Result<SnapshotName>> {
        Box::pin(async move {
            let request = wire::SnapshotRequest {
                user_created: true,
                labels: labels.into(),
                ..self.snapshot_request(snapshot.as_ref())
            };
            let mut client = self.spdk();
            let answer = self.call("snapshot", "snapshot_name", client.engine_snapshot_create(request)).await?;
            SnapshotName::parse(&answer.snapshot_name)
                .map_err(|error| Error::peer(self.peer.title(), format!("its snapshot's name {error}")))
        })
    }

    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.snapshot_request(Some(snapshot));
            let mut client = self.spdk();
            self.call("snapshot deletion", "snapshot_name", client.engine_snapshot_delete(request)).await
        })
    }

    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.snapshot_request(Some(snapshot));
            let mut client = self.spdk();
            self.call("revert", "snapshot_name", client.engine_snapshot_revert(request)).await
        })
    }

    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let request = self.snapshot_request(None);
            let mut client = self.spdk();
            self.call("purge", "name", client.engine_snapshot_purge(request)).await
        })
    }

    fn replica_add(&self, order: ReplicaAddOrder) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let request = wire::EngineReplicaAddRequest {
                engine_name: self.name.to_string(),
                replica_name: order.replica.to_string(),
                replica_address: order.address.to_string(),
                fast_sync: order.fast_sync,
                engine_frontend_name: order.frontend.to_string(),
                engine_frontend_address: order.frontend_address.to_string(),
                linked_clone_source: order.linked_clone_source,
            };
            let mut client = self.spdk();
            self.call("EngineReplicaAdd", "replica_name", client.engine_replica_add(request)).await
        })
    }

    fn set_ana_state(&self, state: AnaState) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ana_state = state.as_str().to_owned();
            let request = wire::EngineSetTargetListenerAnaStateRequest { name: self.name.to_string(), ana_state };
            let mut client = self.spdk();
            self.call("access state", "ana_state", client.engine_set_target_listener_ana_state(request)).await
        })
    }
}
