//! The calls of Longhorn's contract that this node does not offer, and what to do instead. Answered before the service is
//! reached, so that every other call of the contract is one that does something.

use tonic::Status;

const NO_SHARDS: &str =
    "erasure-coded volumes (shards and shard groups) are not offered; create an engine with the replicated layout";

/// What is not offered, by the beginning of the calls' names.
const FAMILIES: [(&str, &str); 1] = [("Shard", NO_SHARDS)];

/// The calls that Longhorn's own engine leaves out as well (`engine-behaviour` §0).
const LEFT_OUT: [(&str, &str); 4] = [
    ("EngineSuspend", "Longhorn's engine leaves it out; use EngineFrontendSuspend, or EngineSuspend of corriente.v1"),
    ("EngineResume", "Longhorn's engine leaves it out; use EngineFrontendResume, or EngineResume of corriente.v1"),
    ("EngineDeleteTarget", "Longhorn's engine leaves it out; EngineDelete takes the target down"),
    ("EngineBackupRestoreFinish", "Longhorn's engine leaves it out; a restore ends by itself, see EngineRestoreStatus"),
];

/// The answer to a call, by its path, that is not offered.
pub(super) fn refusal(path: &str) -> Option<Status> {
    let call = path.strip_prefix("/spdkrpc.SPDKService/")?;
    let left_out = LEFT_OUT.iter().find(|(name, _)| *name == call);
    let (_, why) = left_out.or_else(|| FAMILIES.iter().find(|(beginning, _)| call.starts_with(beginning)))?;
    Some(Status::unimplemented(format!("{call}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_says_so_and_nothing_else_is_refused() {
        for call in ["ShardCreate", "ShardGroupSnapshotPurge", "EngineSuspend", "EngineBackupRestoreFinish"] {
            let status = refusal(&format!("/spdkrpc.SPDKService/{call}")).expect("it is refused");
            assert!(status.message().starts_with(&format!("{call}: ")), "{status:?}");
        }
        for path in ["/spdkrpc.SPDKService/EngineSuspended", "/corriente.v1.CorrienteService/EngineSuspend", "/x", ""] {
            assert!(refusal(path).is_none(), "{path}");
        }
    }
}
