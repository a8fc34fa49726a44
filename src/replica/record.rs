//! What is remembered of a running replica between two runs of the node: that it runs, and on which ports. All else is with
//! its lvols. A stopped replica has no record.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::ReplicaName;
use crate::record::Record;

/// A running replica's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaRecord {
    pub(super) name: ReplicaName,
    /// The lvstore it is in.
    pub(super) disk: Uuid,
    /// The first of its ports.
    pub(super) port: u16,
    pub(super) port_count: NonZeroU16,
}

impl Record for ReplicaRecord {
    const FOLDER: &'static str = "replicas";
    const VERSION: u32 = 1;

    fn name(&self) -> &str {
        self.name.as_str()
    }
}
