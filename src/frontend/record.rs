//! What is remembered of a frontend between two runs of the node. Fields are text or number as on the wire, and are parsed
//! again when they are read.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::FrontendRequest;
use super::instance::EngineFrontend;
use super::state::{EnginePath, FrontendState};
use crate::engine::instance::Frontend;
use crate::engine::target::AnaState;
use crate::error::{Error, Result};
use crate::name::{EngineName, FrontendName, HostPort, VolumeName};
use crate::record::Record;

/// A frontend's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FrontendRecord {
    name: FrontendName,
    volume: VolumeName,
    frontend: String,
    size: u64,
    io_queues: Option<NonZeroU16>,
    active: PathRecord,
    others: Vec<PathRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathRecord {
    engine: EngineName,
    node: IpAddr,
    target: Option<String>,
    ana_state: String,
}

impl Record for FrontendRecord {
    const FOLDER: &'static str = "frontends";
    const VERSION: u32 = 1;

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl FrontendRecord {
    /// What to remember of a frontend now; nothing of one that is being deleted.
    pub(super) fn of(frontend: &EngineFrontend) -> Option<Self> {
        let published = frontend.published();
        if published.state == FrontendState::Terminating {
            return None;
        }
        Some(Self {
            name: frontend.name.clone(),
            volume: frontend.volume.clone(),
            frontend: frontend.kind.as_str().into(),
            size: published.size,
            io_queues: frontend.io_queues,
            active: PathRecord::of(&published.active),
            others: published.others.iter().map(PathRecord::of).collect(),
        })
    }

    /// The request that makes the frontend again, and its other paths.
    pub(super) fn parse(self) -> Result<(FrontendRequest, Vec<EnginePath>)> {
        let request = FrontendRequest {
            name: self.name,
            volume: self.volume,
            kind: Frontend::parse(&self.frontend)?,
            size: self.size,
            path: self.active.parse()?,
            io_queues: self.io_queues,
        };
        Ok((request, self.others.into_iter().map(PathRecord::parse).collect::<Result<_>>()?))
    }
}

impl PathRecord {
    fn of(path: &EnginePath) -> Self {
        Self {
            engine: path.engine.clone(),
            node: path.node,
            target: path.target.map(|target| target.to_string()),
            ana_state: path.ana.as_str().into(),
        }
    }

    fn parse(self) -> Result<EnginePath> {
        let target = self.target.map(|target| HostPort::parse(&target).map_err(|error| Error::name("target", error)));
        let ana = AnaState::parse("ana_state", &self.ana_state)?;
        Ok(EnginePath { engine: self.engine, node: self.node, target: target.transpose()?, ana })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::events::Events;

    #[test]
    fn a_record_becomes_the_request_it_was_made_from() {
        let path = |engine: &str, ana| EnginePath {
            engine: EngineName::parse(engine).unwrap(),
            node: "10.0.0.7".parse().unwrap(),
            target: Some(HostPort::parse("10.0.0.7:20011").unwrap()),
            ana,
        };
        let request = FrontendRequest {
            name: FrontendName::parse("v1-ef-0").unwrap(),
            volume: VolumeName::parse("v1").unwrap(),
            kind: Frontend::NvmeTcpBlockdev,
            size: 8 << 20,
            path: path("v1-e-1", AnaState::Optimized),
            io_queues: NonZeroU16::new(2),
        };
        let others = vec![path("v1-e-0", AnaState::Inaccessible)];
        let frontend = EngineFrontend::new(request.clone(), others.clone(), Default::default(), Events::new(1));
        let record = FrontendRecord::of(&frontend).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        let read: FrontendRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read.clone().parse().unwrap(), (request, others));
        let wrong = FrontendRecord { frontend: "spdk-tcp-".into(), ..read.clone() };
        assert!(wrong.parse().is_err());
        let active = PathRecord { target: Some("10.0.0.7".into()), ..read.active.clone() };
        assert!(FrontendRecord { active, ..read }.parse().is_err());
        frontend.publish(|published| published.state = FrontendState::Terminating);
        assert_eq!(FrontendRecord::of(&frontend), None);
    }
}
