//! The status of a snapshot's hash, to the wire and from it: a node tells it, and an engine of another node reads it.

use super::spdkrpc::ReplicaSnapshotHashStatusResponse;
use crate::replica::{HashPhase, HashStatus};

/// As the wire has it.
pub fn status_message(status: HashStatus) -> ReplicaSnapshotHashStatusResponse {
    ReplicaSnapshotHashStatusResponse {
        state: status.phase.as_str().into(),
        checksum: status.checksum,
        error: status.error,
        silently_corrupted: status.silently_corrupted,
    }
}

/// From a peer's answer; the error says what in it cannot be.
pub fn parse_status(message: ReplicaSnapshotHashStatusResponse) -> Result<HashStatus, String> {
    let phase =
        HashPhase::parse(&message.state).ok_or_else(|| format!("the state {:?} is not known", message.state))?;
    if !message.checksum.is_empty() && message.checksum.parse::<u64>().is_err() {
        return Err(format!("the checksum {:?} is not a decimal number of 64 bits", message.checksum));
    }
    Ok(HashStatus {
        phase,
        checksum: message.checksum,
        error: message.error,
        silently_corrupted: message.silently_corrupted,
    })
}
