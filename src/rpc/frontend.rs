//! Engine frontend calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::engine::instance::Frontend;
use crate::engine::target::AnaState;
use crate::error::{Error, Result};
use crate::frontend::control::ReplicaAddOrder;
use crate::frontend::instance::EngineFrontend;
use crate::frontend::state::EnginePath;
use crate::frontend::{EngineFrontends, FrontendRequest, SnapshotOrder, SwitchOver, SwitchPhase};
use crate::name::{HostPort, Nguid, Nqn};
use crate::wire::field::{engine_name, frontend_name, replica_address, replica_name, size, snapshot_name, volume_name};
use crate::wire::{labels, spdkrpc as wire};

/// EngineFrontendCreate.
pub async fn create(
    frontends: &EngineFrontends,
    request: wire::EngineFrontendCreateRequest,
) -> Result<wire::EngineFrontend> {
    let request = parse_create(frontends.node(), &request)?;
    Ok(describe(frontends, &*frontends.create(request).await?))
}

fn parse_create(here: IpAddr, request: &wire::EngineFrontendCreateRequest) -> Result<FrontendRequest> {
    let kind = Frontend::parse(&request.frontend)?;
    let io_queues = u16::try_from(request.nvme_tcp_nr_io_queues)
        .map_err(|_| Error::invalid("nvme_tcp_nr_io_queues", "must be within 0 and 65535"))?;
    Ok(FrontendRequest {
        name: frontend_name("name", &request.name)?,
        volume: volume_name("volume_name", &request.volume_name)?,
        kind,
        size: size("spec_size", request.spec_size)?,
        path: parse_path(here, kind, &request.engine_name, &request.target_address)?,
        io_queues: NonZeroU16::new(io_queues),
    })
}

/// An engine by its name and its target's address. No address means this node; an empty frontend, which needs no
/// target, may be given port 0.
fn parse_path(here: IpAddr, kind: Frontend, engine: &str, address: &str) -> Result<EnginePath> {
    let engine = engine_name("engine_name", engine)?;
    let (node, target) = match (address, address.parse::<SocketAddr>()) {
        ("", _) => (here, None),
        (_, Ok(socket)) if socket.port() == 0 && kind == Frontend::None && !socket.ip().is_unspecified() => {
            (socket.ip(), None)
        }
        (text, _) => {
            let target = HostPort::parse(text).map_err(|error| Error::name("target_address", error))?;
            (target.ip(), Some(target))
        }
    };
    Ok(EnginePath { engine, node, target, ana: AnaState::Optimized })
}

/// EngineFrontendDelete.
pub async fn delete(frontends: &EngineFrontends, request: wire::EngineFrontendDeleteRequest) -> Result<()> {
    frontends.delete(&frontend_name("name", &request.name)?).await
}

/// EngineFrontendGet.
pub fn get(frontends: &EngineFrontends, request: wire::EngineFrontendGetRequest) -> Result<wire::EngineFrontend> {
    Ok(describe(frontends, &*frontends.get(&frontend_name("name", &request.name)?)?))
}

/// EngineFrontendList.
pub fn list(frontends: &EngineFrontends) -> wire::EngineFrontendListResponse {
    let listed = frontends.list();
    let engine_frontends =
        listed.iter().map(|frontend| (frontend.name.to_string(), describe(frontends, frontend))).collect();
    wire::EngineFrontendListResponse { engine_frontends }
}

/// EngineFrontendSuspend.
pub async fn suspend(frontends: &EngineFrontends, request: wire::EngineFrontendSuspendRequest) -> Result<()> {
    frontends.suspend(&frontend_name("name", &request.name)?).await
}

/// EngineFrontendResume.
pub async fn resume(frontends: &EngineFrontends, request: wire::EngineFrontendResumeRequest) -> Result<()> {
    frontends.resume(&frontend_name("name", &request.name)?).await
}

/// EngineFrontendExpand.
pub async fn expand(frontends: &EngineFrontends, request: wire::EngineFrontendExpandRequest) -> Result<()> {
    frontends.expand(&frontend_name("name", &request.name)?, size("size", request.size)?).await
}

/// EngineFrontendSnapshotCreate. User and time are the engine's to set, as for EngineSnapshotCreate.
pub async fn snapshot_create(
    frontends: &EngineFrontends,
    request: wire::SnapshotRequest,
) -> Result<wire::SnapshotResponse> {
    let name = frontend_name("name", &request.name)?;
    let snapshot = match request.snapshot_name.as_str() {
        "" => None,
        snapshot => Some(snapshot_name("snapshot_name", snapshot)?),
    };
    let snapshot = frontends.snapshot_create(&name, snapshot, labels::parse(request.labels)?).await?;
    Ok(wire::SnapshotResponse { snapshot_name: snapshot.to_string() })
}

/// EngineFrontendSnapshotDelete.
pub async fn snapshot_delete(frontends: &EngineFrontends, request: wire::SnapshotRequest) -> Result<()> {
    let name = frontend_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    frontends.change_snapshots(&name, SnapshotOrder::Delete(snapshot)).await
}

/// EngineFrontendSnapshotRevert.
pub async fn snapshot_revert(frontends: &EngineFrontends, request: wire::SnapshotRequest) -> Result<()> {
    let name = frontend_name("name", &request.name)?;
    let snapshot = snapshot_name("snapshot_name", &request.snapshot_name)?;
    frontends.change_snapshots(&name, SnapshotOrder::Revert(snapshot)).await
}

/// EngineFrontendSnapshotPurge.
pub async fn snapshot_purge(frontends: &EngineFrontends, request: wire::SnapshotRequest) -> Result<()> {
    frontends.change_snapshots(&frontend_name("name", &request.name)?, SnapshotOrder::Purge).await
}

/// EngineFrontendReplicaAdd.
pub async fn replica_add(frontends: &EngineFrontends, request: wire::EngineFrontendReplicaAddRequest) -> Result<()> {
    let order = ReplicaAddOrder {
        replica: replica_name("replica_name", &request.replica_name)?,
        address: replica_address("replica_address", &request.replica_address)?,
        fast_sync: request.fast_sync,
        frontend: frontend_name("engine_frontend_name", &request.engine_frontend_name)?,
        frontend_address: frontends.service(),
        linked_clone_source: request.linked_clone_source,
    };
    frontends.replica_add(order).await
}

/// EngineFrontendSwitchOver.
pub async fn switch_over(frontends: &EngineFrontends, request: wire::EngineFrontendSwitchOverRequest) -> Result<()> {
    let frontend = frontend_name("name", &request.name)?;
    let phase = SwitchPhase::parse(&request.switchover_phase)?;
    if request.target_address.is_empty() {
        return Err(Error::invalid("target_address", "must not be empty"));
    }
    let kind = frontends.get(&frontend)?.kind;
    let to = parse_path(frontends.node(), kind, &request.engine_name, &request.target_address)?;
    frontends.switch_over(SwitchOver { frontend, to, phase }).await
}

/// A frontend on the wire.
fn describe(frontends: &EngineFrontends, frontend: &EngineFrontend) -> wire::EngineFrontend {
    let (state, error_message) = frontends.condition(frontend);
    let published = frontend.published();
    let active = &published.active;
    let address = |path: &EnginePath| path.target.map(|target| target.to_string()).unwrap_or_default();
    let (failed, failed_at) = published.expansion_failure.clone().unwrap_or_default();
    wire::EngineFrontend {
        name: frontend.name.to_string(),
        volume_name: frontend.volume.to_string(),
        engine_name: active.engine.to_string(),
        spec_size: published.size,
        frontend: frontend.kind.as_str().into(),
        target_ip: active.target.map(|target| target.ip().to_string()).unwrap_or_default(),
        target_port: active.target.map(|target| i32::from(target.port())).unwrap_or_default(),
        endpoint: frontend.endpoint(),
        state: state.as_str().into(),
        error_msg: error_message,
        is_expanding: published.is_expanding,
        last_expansion_error: failed,
        last_expansion_failed_at: failed_at,
        active_path: address(active),
        preferred_path: address(active),
        paths: std::iter::once(active)
            .chain(&published.others)
            .filter(|path| path.target.is_some())
            .map(|path| describe_path(frontend, path))
            .collect(),
        ..Default::default()
    }
}

fn describe_path(frontend: &EngineFrontend, path: &EnginePath) -> wire::EngineFrontendNvmeTcpPath {
    wire::EngineFrontendNvmeTcpPath {
        engine_name: path.engine.to_string(),
        target_ip: path.node.to_string(),
        target_port: path.target.map(|target| i32::from(target.port())).unwrap_or_default(),
        nqn: Nqn::volume(&frontend.volume).to_string(),
        nguid: Nguid::volume(&frontend.volume).to_string(),
        ana_state: path.ana.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> IpAddr {
        "10.0.0.7".parse().unwrap()
    }

    fn parse(change: impl FnOnce(&mut wire::EngineFrontendCreateRequest)) -> Result<FrontendRequest> {
        let mut request = wire::EngineFrontendCreateRequest {
            name: "v1-ef-0".into(),
            volume_name: "v1".into(),
            engine_name: "v1-e-0".into(),
            spec_size: 8 << 20,
            frontend: "spdk-tcp-nvmf".into(),
            ..Default::default()
        };
        change(&mut request);
        parse_create(here(), &request)
    }

    #[test]
    fn an_engine_is_on_this_node_unless_its_target_says_otherwise() {
        let path = parse(|_| {}).unwrap().path;
        assert_eq!((path.node, path.target), (here(), None));
        let path = parse(|request| request.target_address = "10.0.0.9:20011".into()).unwrap().path;
        assert_eq!((path.node, path.target), ("10.0.0.9".parse().unwrap(), HostPort::parse("10.0.0.9:20011").ok()));
        let empty = |address: &str| {
            parse(|request| {
                request.frontend.clear();
                request.target_address = address.into();
            })
        };
        assert_eq!(empty("10.0.0.9:0").unwrap().path.target, None);
        assert!(empty(":0").is_err() && empty("0.0.0.0:0").is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_field() {
        type Change = fn(&mut wire::EngineFrontendCreateRequest);
        let wrong: [(&str, Change); 8] = [
            ("name", |request| request.name.clear()),
            ("volume_name", |request| request.volume_name = "a/b".into()),
            ("engine_name", |request| request.engine_name = " ".into()),
            ("spec_size", |request| request.spec_size = 0),
            ("frontend", |request| request.frontend = "iscsi".into()),
            ("target_address", |request| request.target_address = "10.0.0.9:0".into()),
            ("target_address", |request| request.target_address = "node-9:20011".into()),
            ("nvme_tcp_nr_io_queues", |request| request.nvme_tcp_nr_io_queues = -1),
        ];
        for (field, change) in wrong {
            let error = parse(change).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidArgument { field: named, .. } if *named == field),
                "{field}: {error}"
            );
        }
        let ublk = parse(|request| request.frontend = "ublk".into());
        assert!(matches!(ublk, Err(Error::Unimplemented { .. })), "{ublk:?}");
    }
}
