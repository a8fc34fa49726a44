//! Log calls: the level of the process, and the flags of SPDK (`engine-behaviour` §1.8).

use crate::error::Result;
use crate::node::Logs;
use crate::telemetry::log::Level;
use crate::wire::spdkrpc as wire;

/// LogSetLevel.
pub fn set_level(logs: &Logs, request: wire::LogSetLevelRequest) -> Result<()> {
    logs.set_level(Level::parse(&request.level)?)
}

/// LogGetLevel.
pub fn get_level(logs: &Logs) -> wire::LogGetLevelResponse {
    wire::LogGetLevelResponse { level: logs.level().as_str().into() }
}

/// LogSetFlags.
pub async fn set_flags(logs: &Logs, request: wire::LogSetFlagsRequest) -> Result<()> {
    logs.set_flags(&request.flags).await
}

/// LogGetFlags. No flag is the empty text (hazard O4).
pub async fn get_flags(logs: &Logs) -> Result<wire::LogGetFlagsResponse> {
    Ok(wire::LogGetFlagsResponse { flags: logs.flags().await? })
}
