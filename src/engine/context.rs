//! What engines need of the node: reactors, replicas of this node, other nodes, ports, limits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::attach::{LocalHead, ReplicaPath};
use super::backend::Backend;
use super::peer::Peers;
use super::record::EngineRecord;
use crate::changes::Changes;
use crate::error::Result;
use crate::mirror::core::ReadPolicy;
use crate::name::{ReplicaAddress, ReplicaName};
use crate::ports::Ports;
use crate::record::Records;
use crate::spdk::{Capabilities, Control};
use crate::telemetry::Telemetry;

/// A replica of this node: its control and its head.
pub struct LocalReplica {
    /// Control of it.
    pub backend: Arc<dyn Backend>,
    /// Its head.
    pub head: LocalHead,
}

/// Finds replicas of this node.
pub trait LocalReplicas: Send + Sync + 'static {
    /// `None` when this node has no such replica.
    fn find<'a>(&'a self, replica: &'a ReplicaName) -> futures::future::BoxFuture<'a, Result<Option<LocalReplica>>>;
    /// Control of a replica of this node, whatever its state; calls fail when there is none of the name.
    fn backend(&self, replica: &ReplicaName) -> Arc<dyn Backend>;
}

/// Limits of engines, from the configuration.
#[derive(Debug, Clone)]
pub struct EngineLimits {
    /// Members of a mirror.
    pub replicas: usize,
    /// Restores of this node at once.
    pub restores: usize,
    /// Workers of one restore, unless the request has a lower limit.
    pub restore_workers: usize,
    /// Blocks in memory in one restore.
    pub restore_queue_depth: usize,
    /// Attaching one replica.
    pub attach: Duration,
    /// Pausing client I/O.
    pub pause: Duration,
    /// An answer of a replica to an I/O, and storing a generation with it.
    pub member_deadline: Duration,
    /// How long nothing is written to a region before it is taken off the dirty log.
    pub dirty_quiet: Duration,
    /// How long a replica that failed may come back for what it missed; none for never.
    pub return_window: Option<Duration>,
    /// Holding client I/O on request.
    pub suspend: Duration,
    /// Bringing engines up again after a restart of the node.
    pub recovery: Duration,
    /// A restore without progress.
    pub restore_stall: Duration,
    /// A copy of a rebuild without progress.
    pub rebuild_stall: Duration,
    /// A snapshot's wait for a step of a rebuild that must be alone.
    pub rebuild_step: Duration,
}

/// What all engines of a node share.
pub struct EngineContext {
    /// The reactors.
    pub control: Control,
    /// What the linked SPDK can do.
    pub capabilities: Capabilities,
    /// This node's replicas.
    pub local: Arc<dyn LocalReplicas>,
    /// Other nodes.
    pub peers: Peers,
    /// Data ports of this node.
    pub ports: Ports,
    /// This node's data address.
    pub data_ip: IpAddr,
    /// Where reads of new mirrors go.
    pub read_policy: ReadPolicy,
    /// Limits.
    pub limits: EngineLimits,
    /// Who watches engines.
    pub changes: Changes,
    /// What is remembered of engines.
    pub records: Records<EngineRecord>,
    /// Bounds restores at once.
    pub restores: Arc<tokio::sync::Semaphore>,
    /// Bounds checksums at once.
    pub checksums: Arc<tokio::sync::Semaphore>,
    /// Where engines say what happens.
    pub telemetry: Telemetry,
}

impl EngineContext {
    /// How a replica is reached: directly when its address is this node's and it is here.
    pub async fn path(&self, replica: ReplicaName, address: ReplicaAddress) -> Result<ReplicaPath> {
        if address.ip() == self.data_ip
            && let Some(local) = self.local.find(&replica).await?
        {
            return Ok(ReplicaPath { replica, address, backend: local.backend, local: Some(local.head) });
        }
        let backend = self.peers.backend(&replica, address)?;
        Ok(ReplicaPath { replica, address, backend: Arc::new(backend), local: None })
    }
}
