//! Clone orders and their progress, to the wire and from it: an engine sends them to a node, and a node to another.

use super::field::{replica_address, replica_name, snapshot_name};
use super::spdkrpc as wire;
use crate::name::{HostPort, ReplicaName, SnapshotName};
use crate::replica::clone::{CloneMark, CloneMode, CloneOrder, CloneStatus, EntryMark};
use crate::replica::rebuild::{CopyProgress, CopyState};
use crate::{Error, Result};

/// The field that tells of what a rebuilt replica is a linked clone.
const LINKED: &str = "linked_clone_source";

/// How a clone is to be made.
pub fn parse_mode(mode: i32) -> Result<CloneMode> {
    match wire::CloneMode::try_from(mode) {
        Ok(wire::CloneMode::FullCopy) => Ok(CloneMode::FullCopy),
        Ok(wire::CloneMode::LinkedClone) => Ok(CloneMode::Linked),
        Err(_) => Err(Error::invalid("clone_mode", format!("{mode} is not one"))),
    }
}

/// The same as the wire has it.
pub fn mode_number(mode: CloneMode) -> i32 {
    let mode = match mode {
        CloneMode::FullCopy => wire::CloneMode::FullCopy,
        CloneMode::Linked => wire::CloneMode::LinkedClone,
    };
    mode.into()
}

/// Parses every field of an order; also tells for which replica it is.
pub fn parse_order(request: &wire::ReplicaSnapshotCloneDstStartRequest) -> Result<(ReplicaName, CloneOrder)> {
    let name = replica_name("name", &request.name)?;
    let order = CloneOrder {
        source: replica_name("src_replica_name", &request.src_replica_name)?,
        source_address: replica_address("src_replica_address", &request.src_replica_address)?,
        snapshot: snapshot_name("snapshot_name", &request.snapshot_name)?,
        mode: parse_mode(request.clone_mode)?,
    };
    Ok((name, order))
}

/// An order as the wire has it.
pub fn order_message(replica: &ReplicaName, order: &CloneOrder) -> wire::ReplicaSnapshotCloneDstStartRequest {
    wire::ReplicaSnapshotCloneDstStartRequest {
        name: replica.to_string(),
        snapshot_name: order.snapshot.to_string(),
        src_replica_name: order.source.to_string(),
        src_replica_address: order.source_address.to_string(),
        clone_mode: mode_number(order.mode),
    }
}

/// How a clone is getting on, as the wire has it.
pub fn status_message(status: &CloneStatus) -> wire::ReplicaSnapshotCloneDstStatusCheckResponse {
    let text = |get: fn(&CloneMark) -> String| status.mark.as_ref().map(get).unwrap_or_default();
    wire::ReplicaSnapshotCloneDstStatusCheckResponse {
        is_cloning: status.is_running(),
        src_replica_name: text(|mark| mark.source.to_string()),
        src_replica_address: text(|mark| mark.source_address.to_string()),
        snapshot_name: text(|mark| mark.snapshot.to_string()),
        state: status.state.as_str().into(),
        progress: status.percent.into(),
        error: status.error.clone(),
    }
}

/// How far a node says a clone is; the error says what in its answer cannot be.
pub fn parse_status(
    message: wire::ReplicaSnapshotCloneDstStatusCheckResponse,
) -> std::result::Result<CloneProgress, String> {
    let state =
        CopyState::parse(&message.state).ok_or_else(|| format!("the state {:?} is not known", message.state))?;
    // At most 100, so it fits.
    Ok(CloneProgress { state, percent: message.progress.min(100) as u8, error: message.error })
}

/// A source's progress as the wire has it.
pub fn copy_message(progress: &CopyProgress) -> wire::ReplicaSnapshotCloneSrcStatusCheckResponse {
    wire::ReplicaSnapshotCloneSrcStatusCheckResponse {
        state: progress.state.as_str().into(),
        processed_clusters: progress.copied_clusters,
        total_clusters: progress.total_clusters,
        error_msg: progress.error.clone(),
    }
}

/// A source's progress from its node's answer; the error says what in it cannot be.
pub fn parse_copy(
    message: wire::ReplicaSnapshotCloneSrcStatusCheckResponse,
) -> std::result::Result<CopyProgress, String> {
    Ok(CopyProgress {
        state: CopyState::parse(&message.state).ok_or_else(|| format!("the state {:?} is not known", message.state))?,
        copied_clusters: message.processed_clusters,
        total_clusters: message.total_clusters,
        error: message.error_msg,
    })
}

/// What an engine wants to know of a clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneProgress {
    /// How far it is.
    pub state: CopyState,
    /// Per cent of the clusters.
    pub percent: u8,
    /// Why it failed; empty when it did not.
    pub error: String,
}

/// What a replica is to be a linked clone of, on its own disk. A message without any field is none.
pub fn parse_entry(source: &wire::LinkedCloneSource) -> Option<Result<EntryMark>> {
    (*source != wire::LinkedCloneSource::default()).then(|| {
        Ok(EntryMark {
            source: replica_name(LINKED, &source.replica_name)?,
            snapshot: snapshot_name(LINKED, &source.snapshot_name)?,
        })
    })
}

/// From where the base of a linked clone's new replica comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedSource {
    /// A replica of the source volume, on the new replica's disk.
    pub replica: ReplicaName,
    /// The source's snapshot, if it is told.
    pub snapshot: Option<SnapshotName>,
    /// The engine of the source volume.
    pub engine: crate::name::EngineName,
    /// The node of that engine.
    pub node: std::net::IpAddr,
}

/// As an engine is told it: replica, engine and its address, all or none.
pub fn parse_linked_source(source: Option<&wire::LinkedCloneSource>) -> Result<Option<LinkedSource>> {
    let Some(source) = source.filter(|source| **source != wire::LinkedCloneSource::default()) else { return Ok(None) };
    let empty = [&source.replica_name, &source.engine_name, &source.engine_address].into_iter().any(String::is_empty);
    if empty {
        let problem = "replica_name, engine_name and engine_address must all be given, or none of them";
        return Err(Error::invalid(LINKED, problem));
    }
    Ok(Some(LinkedSource {
        replica: replica_name(LINKED, &source.replica_name)?,
        snapshot: match source.snapshot_name.as_str() {
            "" => None,
            name => Some(snapshot_name(LINKED, name)?),
        },
        engine: super::field::engine_name(LINKED, &source.engine_name)?,
        node: HostPort::parse(&source.engine_address).map_err(|error| Error::name(LINKED, error))?.ip(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> (ReplicaName, CloneOrder) {
        let order = CloneOrder {
            source: ReplicaName::parse("src-r-00000001").unwrap(),
            source_address: HostPort::parse("10.0.0.1:20001").unwrap(),
            snapshot: SnapshotName::parse("s1").unwrap(),
            mode: CloneMode::Linked,
        };
        (ReplicaName::parse("vol-r-00000002").unwrap(), order)
    }

    #[test]
    fn an_order_is_the_same_at_the_other_end() {
        for mode in [CloneMode::FullCopy, CloneMode::Linked] {
            let (name, order) = order();
            let order = CloneOrder { mode, ..order };
            assert_eq!(parse_order(&order_message(&name, &order)).unwrap(), (name, order));
        }
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let (name, order) = order();
        let field_of = |change: fn(&mut wire::ReplicaSnapshotCloneDstStartRequest)| {
            let mut message = order_message(&name, &order);
            change(&mut message);
            match parse_order(&message) {
                Err(Error::InvalidArgument { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field_of(|message| message.name.clear()), "name");
        assert_eq!(field_of(|message| message.snapshot_name = "volume-head".into()), "snapshot_name");
        assert_eq!(field_of(|message| message.src_replica_name = "a/b".into()), "src_replica_name");
        assert_eq!(field_of(|message| message.src_replica_address = ":0".into()), "src_replica_address");
        assert_eq!(field_of(|message| message.clone_mode = 2), "clone_mode");
    }

    #[test]
    fn a_linked_source_is_whole_or_none() {
        let whole = wire::LinkedCloneSource {
            replica_name: "src-r-00000001".into(),
            engine_name: "src-e-0".into(),
            engine_address: "10.0.0.1:8504".into(),
            snapshot_name: String::new(),
        };
        assert!(parse_linked_source(None).unwrap().is_none());
        assert!(parse_linked_source(Some(&wire::LinkedCloneSource::default())).unwrap().is_none());
        assert_eq!(parse_linked_source(Some(&whole)).unwrap().unwrap().snapshot, None);
        for change in [
            (|source| source.replica_name.clear()) as fn(&mut wire::LinkedCloneSource),
            |source| source.engine_name.clear(),
            |source| source.engine_address.clear(),
            |source| source.engine_address = "node".into(),
            |source| source.snapshot_name = "volume-head".into(),
        ] {
            let mut source = whole.clone();
            change(&mut source);
            let refused = parse_linked_source(Some(&source));
            assert!(matches!(refused, Err(Error::InvalidArgument { field: LINKED, .. })), "{refused:?}");
        }
    }
}
