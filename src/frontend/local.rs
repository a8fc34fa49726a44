//! An engine of this node, as its frontend uses it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::control::{EngineControl, EngineView, ReplicaAddOrder};
use crate::engine::Engines;
use crate::engine::clone::AdditionRequest;
use crate::engine::instance::Engine;
use crate::engine::target::AnaState;
use crate::error::Result;
use crate::name::{EngineName, SnapshotLabels, SnapshotName};
use crate::wire::clone::parse_linked_source;

/// Control of one engine of this node, looked up anew by each call: it may have been deleted meanwhile.
pub struct LocalEngine {
    engines: Arc<Engines>,
    name: EngineName,
}

impl LocalEngine {
    /// Of that name, whether it exists or not.
    pub fn new(engines: Arc<Engines>, name: EngineName) -> Self {
        Self { engines, name }
    }

    fn engine(&self) -> Result<Arc<Engine>> {
        self.engines.get(&self.name)
    }
}

impl EngineControl for LocalEngine {
    fn describe(&self) -> BoxFuture<'_, Result<EngineView>> {
        Box::pin(async move {
            let engine = self.engine()?;
            let published = engine.published();
            Ok(EngineView {
                volume: engine.volume.clone(),
                size: published.size,
                target: published.target,
                state: published.state.as_str().into(),
                error_message: published.error_message,
            })
        })
    }

    fn suspend(&self) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(async move { self.engine()?.suspend().await })
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.engine()?.resume().await })
    }

    fn expand(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.engine()?.expand(size).await })
    }

    fn snapshot_create(
        &self,
        snapshot: Option<SnapshotName>,
        labels: SnapshotLabels,
    ) -> BoxFuture<'_, Result<SnapshotName>> {
        Box::pin(async move { self.engine()?.snapshot_create(snapshot, labels).await })
    }

    fn snapshot_delete<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.engine()?.snapshot_delete(snapshot).await })
    }

    fn snapshot_revert<'a>(&'a self, snapshot: &'a SnapshotName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.engine()?.snapshot_revert(snapshot).await })
    }

    fn snapshot_purge(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.engine()?.snapshot_purge().await })
    }

    fn replica_add(&self, order: ReplicaAddOrder) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let linked = parse_linked_source(order.linked_clone_source.as_ref())?;
            let ReplicaAddOrder { replica, address, fast_sync, .. } = order;
            self.engines.add_replica(&self.name, AdditionRequest { replica, address, fast_sync, linked }).await
        })
    }

    fn set_ana_state(&self, state: AnaState) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.engine()?.set_ana_state(state).await })
    }
}
