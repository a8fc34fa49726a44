//! A new replica of a linked clone: it needs a replica of the source volume on its own disk, as it holds only what was
//! written to the clone.

use crate::engine::instance::Engine;
use crate::engine::{Engines, ReplicaAddition};
use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaAddress, ReplicaName};
use crate::replica::clone::EntryMark;
use crate::wire::clone::LinkedSource;

/// The field that says what the new replica is to be based on.
const SOURCE: &str = "linked_clone_source";

/// A request to take a replica in, as it comes from the wire.
#[derive(Debug, Clone)]
pub struct AdditionRequest {
    /// Which replica.
    pub replica: ReplicaName,
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// Keep those of its snapshots that are known to equal the source's.
    pub fast_sync: bool,
    /// For a linked clone: from where its base comes.
    pub linked: Option<LinkedSource>,
}

impl Engines {
    /// Starts to take a replica into an engine's volume; returns once its rebuild runs. A refusal changes nothing.
    pub async fn add_replica(&self, name: &EngineName, request: AdditionRequest) -> Result<()> {
        let engine = self.get(name)?;
        let linked = match &request.linked {
            Some(source) => Some(self.check_source(&engine, &request, source).await?),
            None => None,
        };
        let AdditionRequest { replica, address, fast_sync, .. } = request;
        engine.add_replica(ReplicaAddition { replica, address, fast_sync, linked }).await
    }

    async fn check_source(
        &self,
        engine: &Engine,
        request: &AdditionRequest,
        source: &LinkedSource,
    ) -> Result<EntryMark> {
        let bases = engine.linked_bases().await?;
        let Some(snapshot) = bases.first().map(|base| base.snapshot.clone()) else {
            return Err(Error::invalid(SOURCE, format!("{} serves no linked clone", engine.object())));
        };
        if let Some(told) = source.snapshot.as_ref().filter(|told| **told != snapshot) {
            let problem = format!("{} serves a linked clone of snapshot {snapshot}, not of {told}", engine.object());
            return Err(Error::invalid(SOURCE, problem));
        }
        let volume = self.source_volume(SOURCE, &source.engine, source.node).await?;
        let address = volume.in_sync(&source.replica)?;
        if !bases.iter().any(|base| volume.replicas.contains_key(&base.source)) {
            let sources: Vec<_> = bases.iter().map(|base| base.source.to_string()).collect();
            let problem =
                format!("{} is not the clone's source: it has no replica {}", volume.object, sources.join(", "));
            return Err(Error::invalid(SOURCE, problem));
        }
        if address.ip() != request.address.ip() {
            let problem = format!(
                "replica {} is at {address} and replica {} at {}; a linked clone is on its source's disk",
                source.replica, request.replica, request.address
            );
            return Err(Error::invalid(SOURCE, problem));
        }
        Ok(EntryMark { source: source.replica.clone(), snapshot })
    }
}

impl Engine {
    /// What each replica in sync is a linked clone of; none when the volume is no linked clone.
    pub(in crate::engine) async fn linked_bases(&self) -> Result<Vec<EntryMark>> {
        let mut bases = Vec::new();
        for path in self.in_sync() {
            bases.extend(path.backend.describe().await?.linked);
        }
        Ok(bases)
    }
}
