//! A node: one process with its reactors, disks, replicas and engines behind its services.

use crate::config::NodeConfig;
use crate::error::{Error, Result};
use crate::telemetry;

/// Runs a node until it is told to stop by a signal.
pub fn serve(config: NodeConfig) -> Result<()> {
    let _log = telemetry::log::init(&config.log)?;
    Err(Error::Unimplemented { what: "serve", reason: "this build has no node" })
}
