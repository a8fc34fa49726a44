//! A volume made of another volume's snapshot, before anything was written to it.
//!
//! The mirror is down meanwhile, and hosts are disconnected: nobody reads or writes what is neither empty nor whole. A
//! linked clone is made on each replica, from a replica of the source on the same disk; one for which there is none is out of
//! the mirror before, by the generation of the others, so that no restart takes it in again.
//!
//! `link`: linked clones. `full`: a full copy, and whoever waits for it. `found`: one that an engine finds when it comes up.
//! `source`: the volume that is cloned. `rebuild`: further replicas of a linked clone.

mod found;
mod full;
mod link;
mod rebuild;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Engines;
use super::attach::ReplicaPath;
use super::backend::ReplicaDescription;
use super::instance::Engine;
use super::state::EngineState;
use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaName, SnapshotName};
use crate::replica::clone::CloneMode;

pub(super) use found::CopyFound;
pub(super) use full::RunningClone;
pub use rebuild::AdditionRequest;

/// The field that maps replicas to their sources.
const PAIRS: &str = "dst_replica_src_replica_pair_map";

/// A clone to be made.
#[derive(Debug, Clone)]
pub struct CloneRequest {
    /// The source's snapshot.
    pub snapshot: SnapshotName,
    /// The engine of the source volume.
    pub source: EngineName,
    /// The node of that engine.
    pub source_node: IpAddr,
    /// How.
    pub mode: CloneMode,
    /// For a linked clone: the source of each of the engine's replicas. One that is not named drops out.
    pub pairs: BTreeMap<ReplicaName, ReplicaName>,
}

impl Engines {
    /// Makes an engine's volume, which must be empty, a clone. A linked clone is complete when this returns; a full copy has
    /// begun, and its replica tells of its end.
    pub async fn snapshot_clone(&self, name: &EngineName, request: CloneRequest) -> Result<()> {
        let engine = self.get(name)?;
        if request.source == *name && request.source_node == self.context.data_ip {
            return Err(Error::invalid("src_engine_name", "a volume cannot be a clone of itself"));
        }
        let source = self.source_volume("src_engine_address", &request.source, request.source_node).await?;
        let Some(bytes) = source.snapshots.get(&request.snapshot) else {
            return Err(Error::not_found("snapshot", format!("{} of {}", request.snapshot, source.object)));
        };
        let size = engine.published().size;
        if *bytes > size {
            let problem = format!("it has {size} bytes, less than the {bytes} of snapshot {}", request.snapshot);
            return Err(Error::precondition(engine.object(), problem));
        }
        match request.mode {
            CloneMode::Linked => engine.link(&request, &source).await,
            CloneMode::FullCopy => engine.copy(&request, &source).await,
        }
    }
}

impl Engine {
    /// Each replica in sync as its node describes it; an error unless the volume is up and may be cloned into.
    async fn describe_for_clone(&self) -> Result<Vec<(Arc<ReplicaPath>, ReplicaDescription)>> {
        let published = self.published();
        if published.state != EngineState::Running {
            let problem = format!("it is in state {}: {}", published.state.as_str(), published.error_message);
            return Err(Error::precondition(self.object(), problem));
        }
        self.mirror()?;
        self.refuse_when_suspended("it is cloned into")?;
        let mut described = Vec::new();
        for path in self.in_sync() {
            let description = path.backend.describe().await?;
            described.push((path, description));
        }
        Ok(described)
    }

    /// Refuses to make a clone of a volume that holds anything.
    async fn require_fresh(&self, described: &[(Arc<ReplicaPath>, ReplicaDescription)]) -> Result<()> {
        for (path, description) in described {
            // The sizes of a description may be a second old, a map is not.
            if !description.is_fresh() || path.backend.head_map().await?.clusters.iter().next().is_some() {
                let problem = format!("replica {} holds data; only an empty volume is cloned into", path.replica);
                return Err(Error::precondition(self.object(), problem));
            }
        }
        Ok(())
    }

    /// Takes target and mirror down, so that nobody has a replica open.
    async fn close_for_clone(&self) -> Result<()> {
        self.withdraw().await?;
        match self.set_mirror(None) {
            Some(mirror) => mirror.stop().await,
            None => Ok(()),
        }
    }
}
