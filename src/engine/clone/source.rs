//! The engine of a source volume, on this node or on another, as who clones from it sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::Engines;
use crate::engine::state::{EngineState, ReplicaMode};
use crate::error::{Error, Result};
use crate::name::{EngineName, HostPort, ReplicaAddress, ReplicaName, SnapshotName};
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::wire::status::from_peer;

/// A source volume, as its engine has it now.
pub(in crate::engine) struct SourceVolume {
    /// The engine, as errors name it.
    pub(super) object: String,
    /// Its replicas, where each is, and whether it is in sync.
    pub(super) replicas: BTreeMap<ReplicaName, (ReplicaAddress, bool)>,
    /// Its snapshots, and the bytes that each presents.
    pub(super) snapshots: BTreeMap<SnapshotName, u64>,
}

impl SourceVolume {
    /// A replica that must be one of the source's and in sync.
    pub(in crate::engine) fn in_sync(&self, replica: &ReplicaName) -> Result<ReplicaAddress> {
        match self.replicas.get(replica) {
            Some((address, true)) => Ok(*address),
            Some((_, false)) => {
                Err(Error::precondition(&self.object, format!("replica {replica} is not in sync, so it is no source")))
            }
            None => Err(Error::not_found("replica", format!("{replica} of {}", self.object))),
        }
    }
}

impl Engines {
    /// The volume of an engine, as the engine has it now.
    pub(in crate::engine) async fn source_volume(
        &self,
        field: &'static str,
        name: &EngineName,
        node: IpAddr,
    ) -> Result<SourceVolume> {
        match node == self.context.data_ip {
            true => self.source_here(name),
            false => {
                let peer = self.context.peers.node_at(field, node)?;
                let mut client = SpdkServiceClient::new(peer.channel());
                let call = client.engine_get(wire::EngineGetRequest { name: name.to_string() });
                let title = peer.title();
                let answer = match tokio::time::timeout(peer.limit(), call).await {
                    Ok(Ok(answer)) => answer.into_inner(),
                    Ok(Err(status)) => return Err(from_peer(&title, ("engine", name.as_str()), &status)),
                    Err(_) => {
                        let what = format!("description of engine {name} on {title}");
                        return Err(Error::Timeout { what, limit: peer.limit() });
                    }
                };
                parse(format!("engine {name} on {title}"), answer)
            }
        }
    }

    fn source_here(&self, name: &EngineName) -> Result<SourceVolume> {
        let engine = self.get(name)?;
        let published = engine.published();
        require_running(&engine.object(), published.state.as_str(), &published.error_message)?;
        let replica = |(name, listed): (&ReplicaName, &crate::engine::state::ListedReplica)| {
            (name.clone(), (listed.address, listed.mode == ReplicaMode::ReadWrite))
        };
        Ok(SourceVolume {
            object: engine.object(),
            replicas: published.replicas.iter().map(replica).collect(),
            snapshots: published.chain.snapshots.iter().map(|(name, layer)| (name.clone(), layer.spec_size)).collect(),
        })
    }
}

fn require_running(object: &str, state: &str, message: &str) -> Result<()> {
    match state == EngineState::Running.as_str() {
        true => Ok(()),
        false => Err(Error::precondition(object, format!("it is in state {state} and cannot be cloned: {message}"))),
    }
}

fn parse(object: String, engine: wire::Engine) -> Result<SourceVolume> {
    require_running(&object, &engine.state, &engine.error_msg)?;
    let wrong = |what: &str, problem: String| Error::peer(&object, format!("its {what} {problem}"));
    let mut replicas = BTreeMap::new();
    for (name, address) in &engine.replica_address_map {
        let parsed = ReplicaName::parse(name).map_err(|error| wrong("replica's name", error.to_string()))?;
        let address = HostPort::parse(address).map_err(|error| wrong("replica's address", error.to_string()))?;
        let in_sync = engine.replica_mode_map.get(name) == Some(&wire::ReplicaMode::Rw.into());
        replicas.insert(parsed, (address, in_sync));
    }
    let mut snapshots = BTreeMap::new();
    for (name, lvol) in engine.snapshots {
        let name = SnapshotName::parse(&name).map_err(|error| wrong("snapshot's name", error.to_string()))?;
        snapshots.insert(name, lvol.spec_size);
    }
    Ok(SourceVolume { object, replicas, snapshots })
}
