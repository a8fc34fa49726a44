//! What is remembered of an engine between two runs of the node: what it was asked to be, and the port of its target.
//! Which of its replicas are good is not in it; the replicas know that themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::EngineRequest;
use super::instance::{Engine, Frontend};
use super::state::EngineState;
use crate::error::{Error, Result};
use crate::mirror::core::Incarnation;
use crate::name::{EngineName, HostPort, ReplicaName, VolumeName};
use crate::record::Record;

/// An engine's record. Fields are text or number as on the wire, and are parsed again when they are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineRecord {
    name: EngineName,
    volume: VolumeName,
    size: u64,
    replicas: BTreeMap<ReplicaName, String>,
    frontend: String,
    snapshot_max_count: u32,
    port: Option<u16>,
    incarnations: Vec<u32>,
}

/// A record as it is taken up again.
#[derive(Debug)]
pub(super) struct Remembered {
    /// What makes the engine again.
    pub(super) request: EngineRequest,
    /// The port that its target had.
    pub(super) port: Option<u16>,
    /// As whom the engine has, or may have, raised generations: see [`Engine::claim`].
    pub(super) incarnations: Vec<Incarnation>,
}

impl Record for EngineRecord {
    const FOLDER: &'static str = "engines";
    const VERSION: u32 = 1;

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl EngineRecord {
    /// What to remember of an engine now; nothing of one that is going, or is not to come back.
    fn of(engine: &Engine) -> Option<Self> {
        let published = engine.published();
        if !engine.is_remembered || published.state == EngineState::Terminating {
            return None;
        }
        let address =
            |(name, listed): (&ReplicaName, &super::state::ListedReplica)| (name.clone(), listed.address.to_string());
        Some(Self {
            name: engine.name.clone(),
            volume: engine.volume.clone(),
            size: published.size,
            replicas: published.replicas.iter().map(address).collect(),
            frontend: engine.frontend.as_str().into(),
            snapshot_max_count: published.snapshot_max_count,
            port: published.target.map(|target| target.port()),
            incarnations: engine.incarnations().iter().map(|incarnation| incarnation.0).collect(),
        })
    }

    /// What it says, as types.
    pub(super) fn parse(self) -> Result<Remembered> {
        let mut replicas = BTreeMap::new();
        for (name, address) in self.replicas {
            replicas.insert(name, HostPort::parse(&address).map_err(|error| Error::name("replicas", error))?);
        }
        let request = EngineRequest {
            name: self.name,
            volume: self.volume,
            size: self.size,
            replicas,
            frontend: Frontend::parse(&self.frontend)?,
            salvage: false,
            snapshot_max_count: self.snapshot_max_count,
        };
        let incarnations = self.incarnations.into_iter().map(Incarnation).collect();
        Ok(Remembered { request, port: self.port, incarnations })
    }
}

impl Engine {
    /// Stores what is to be remembered of the engine now; durable on return.
    pub(super) async fn remember(&self) -> Result<()> {
        self.context.records.write(|| EngineRecord::of(self)).await
    }

    /// As [`Engine::remember`], after a change that has taken place already: it cannot be taken back, so a failure is logged.
    pub(super) async fn remember_change(&self) {
        if let Err(error) = self.remember().await {
            tracing::error!(engine = %self.name, volume = %self.volume, %error,
                "a change of the engine could not be recorded; a restart of the node will not know of it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_request_or_says_which_field_cannot_be() {
        let record = EngineRecord {
            name: EngineName::parse("v1-e-0").unwrap(),
            volume: VolumeName::parse("v1").unwrap(),
            size: 8 << 20,
            replicas: BTreeMap::from([(ReplicaName::parse("v1-r-0").unwrap(), "10.0.0.7:20001".into())]),
            frontend: "spdk-tcp-nvmf".into(),
            snapshot_max_count: 7,
            port: Some(20011),
            incarnations: vec![3, 4],
        };
        let read: EngineRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        let Remembered { request, port, incarnations } = read.parse().unwrap();
        assert_eq!((request.name.as_str(), request.size, port), ("v1-e-0", 8 << 20, Some(20011)));
        assert_eq!(incarnations, [Incarnation(3), Incarnation(4)]);
        assert_eq!((request.frontend, request.snapshot_max_count), (Frontend::NvmeTcp, 7));
        assert!(!request.salvage);
        let name = ReplicaName::parse("v1-r-0").unwrap();
        assert_eq!(request.replicas[&name].to_string(), "10.0.0.7:20001");
        let wrong = EngineRecord { replicas: BTreeMap::from([(name, "10.0.0.7".into())]), ..record.clone() };
        assert!(matches!(wrong.parse(), Err(Error::InvalidArgument { field: "replicas", .. })));
        assert!(EngineRecord { frontend: "x".into(), ..record }.parse().is_err());
    }
}
