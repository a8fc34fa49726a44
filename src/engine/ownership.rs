//! Whose the replicas are when a volume has more than one engine, as while its frontend switches over. An engine's mirror sleeps
//! until it is used, then claims its replicas ([`crate::mirror`]). What is here sees to the two moments at which hosts lose
//! sight of an engine and see it again.

use std::sync::Arc;

use futures::future::join_all;

use super::assemble::{Start, bring_up};
use super::attach::ReplicaPath;
use super::backend::Attribute;
use super::instance::Engine;
use super::probe::parse_record;
use super::state::EngineState;
use crate::error::Result;
use crate::mirror::core::ReplicaRecords;
use crate::mirror::core::dirty::FoundDirty;

/// What a replica durably knows of the mirrors that have served it.
pub(super) async fn records(path: &ReplicaPath) -> Result<ReplicaRecords> {
    let generation = parse_record(&path.replica, path.backend.attribute(Attribute::Generation).await?)?;
    let stored = path.backend.attribute(Attribute::Dirty).await?;
    Ok(ReplicaRecords { generation, dirty: stored.map_or(FoundDirty::Nothing, |bytes| FoundDirty::parse(&bytes)) })
}

impl Engine {
    /// After hosts were told that this path is closed: waits for what they had begun, and has the mirror sleep. From then on no
    /// write of this engine is under way that could come after one of another.
    pub(super) async fn rest(&self) -> Result<()> {
        match self.mirror() {
            Ok(mirror) => mirror.rest(self.context.limits.pause).await,
            Err(_) => Ok(()),
        }
    }

    /// Before hosts are told that this path is open again, when another engine has gone on with the replicas: what the mirror knew
    /// of them is void, and it is assembled anew. Every replica that may be newer must answer. Nothing may have the mirror open.
    pub(super) async fn renew(self: &Arc<Self>) -> Result<()> {
        let _operation = self.begin("opening its target again")?;
        tracing::info!(engine = %self.name, volume = %self.volume, "another engine has gone on with the replicas; the mirror is assembled anew");
        if let Some(mirror) = self.set_mirror(None) {
            mirror.stop().await?;
        }
        let renewed = bring_up(self, Start::Reopened).await;
        self.publish(|published| match &renewed {
            Ok(()) => {
                published.state = EngineState::Running;
                published.error_message.clear();
            }
            Err(error) => {
                published.state = EngineState::Error;
                published.error_message = error.to_string();
            }
        });
        renewed
    }

    /// Whether another engine has gone on with a replica in sync since this one did, or was assembled. One that does not answer is
    /// the mirror's business.
    pub(super) async fn is_superseded(&self) -> bool {
        let Ok(mirror) = self.mirror() else { return false };
        let status = mirror.status();
        if status.superseded {
            return true;
        }
        let found = join_all(self.in_sync().iter().map(async |path| records(path).await)).await;
        found.iter().flatten().any(|records| records.held().is_some_and(|held| held != status.generation))
    }
}
