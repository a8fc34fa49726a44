//! Rebuild orders and their progress, to the wire and from it: an engine sends them to a node, and a node to another.

use super::clone::parse_entry;
use super::field::{replica_address, replica_name, snapshot_name, uuid};
use super::spdkrpc as wire;
use crate::name::{HostPort, ReplicaName, SnapshotName};
use crate::replica::rebuild::{CopyProgress, CopyState, RebuildOrder, RebuildProgress, RebuildSnapshot};
use crate::{Error, Result};

/// The field of an order that lists snapshots.
const LIST: &str = "rebuilding_snapshot_list";

/// Parses every field of an order; also tells for which replica it is.
pub fn parse_order(request: &wire::ReplicaRebuildingDstStartRequest) -> Result<(ReplicaName, RebuildOrder)> {
    let name = replica_name("name", &request.name)?;
    let exposed_address = HostPort::parse(&request.external_snapshot_address)
        .map_err(|error| Error::name("external_snapshot_address", error))?;
    let order = RebuildOrder {
        source: replica_name("src_replica_name", &request.src_replica_name)?,
        source_address: replica_address("src_replica_address", &request.src_replica_address)?,
        exposed_snapshot: snapshot_name("external_snapshot_name", &request.external_snapshot_name)?,
        exposed_address,
        snapshots: request.rebuilding_snapshot_list.iter().map(parse_snapshot).collect::<Result<_>>()?,
        linked: request.linked_clone_source.as_ref().and_then(parse_entry).transpose()?,
    };
    Ok((name, order))
}

fn parse_snapshot(lvol: &wire::Lvol) -> Result<RebuildSnapshot> {
    let parent = match lvol.parent.as_str() {
        "" => None,
        parent => Some(snapshot_name(LIST, parent)?),
    };
    if !lvol.snapshot_checksum.is_empty() && lvol.snapshot_checksum.parse::<u64>().is_err() {
        let problem = format!("{:?} is not the checksum of a snapshot", lvol.snapshot_checksum);
        return Err(Error::invalid(LIST, problem));
    }
    Ok(RebuildSnapshot {
        name: snapshot_name(LIST, &lvol.name)?,
        uuid: uuid(LIST, &lvol.uuid)?,
        spec_size: super::field::size(LIST, lvol.spec_size)?,
        actual_size: lvol.actual_size,
        parent,
        user_created: lvol.user_created,
        timestamp: lvol.snapshot_timestamp.clone(),
        checksum: lvol.snapshot_checksum.clone(),
    })
}

/// An order as the wire has it.
pub fn order_message(replica: &ReplicaName, order: &RebuildOrder) -> wire::ReplicaRebuildingDstStartRequest {
    let children_of = |name: &SnapshotName| {
        let children = order.snapshots.iter().filter(|snapshot| snapshot.parent.as_ref() == Some(name));
        children.map(|child| (child.name.to_string(), true)).collect()
    };
    let lvol = |snapshot: &RebuildSnapshot| wire::Lvol {
        name: snapshot.name.to_string(),
        uuid: snapshot.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        spec_size: snapshot.spec_size,
        actual_size: snapshot.actual_size,
        parent: snapshot.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        children: children_of(&snapshot.name),
        creation_time: String::new(),
        user_created: snapshot.user_created,
        snapshot_timestamp: snapshot.timestamp.clone(),
        snapshot_checksum: snapshot.checksum.clone(),
    };
    wire::ReplicaRebuildingDstStartRequest {
        name: replica.to_string(),
        src_replica_name: order.source.to_string(),
        src_replica_address: order.source_address.to_string(),
        external_snapshot_name: order.exposed_snapshot.to_string(),
        external_snapshot_address: order.exposed_address.to_string(),
        rebuilding_snapshot_list: order.snapshots.iter().map(lvol).collect(),
        linked_clone_source: order.linked.as_ref().map(|linked| wire::LinkedCloneSource {
            snapshot_name: linked.snapshot.to_string(),
            replica_name: linked.source.to_string(),
            ..Default::default()
        }),
    }
}

/// A destination's progress as the wire has it.
pub fn progress_message(progress: &RebuildProgress) -> wire::ReplicaRebuildingDstShallowCopyCheckResponse {
    wire::ReplicaRebuildingDstShallowCopyCheckResponse {
        src_replica_name: progress.source.to_string(),
        src_replica_address: progress.source_address.to_string(),
        snapshot_name: progress.snapshot.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: progress.state.as_str().into(),
        progress: progress.percent.into(),
        total_state: progress.total_state.as_str().into(),
        total_progress: progress.total_percent.into(),
        error: progress.error.clone(),
    }
}

/// A destination's progress from its node's answer; the error says what in it cannot be.
pub fn parse_progress(
    message: wire::ReplicaRebuildingDstShallowCopyCheckResponse,
) -> std::result::Result<RebuildProgress, String> {
    let snapshot = match message.snapshot_name.as_str() {
        "" => None,
        name => Some(SnapshotName::parse(name).map_err(|error| format!("the snapshot name {name:?} {error}"))?),
    };
    Ok(RebuildProgress {
        source: ReplicaName::parse(&message.src_replica_name).map_err(|error| format!("its source's name {error}"))?,
        source_address: HostPort::parse(&message.src_replica_address)
            .map_err(|error| format!("its source's address {error}"))?,
        snapshot,
        state: state(&message.state)?,
        percent: percent(message.progress),
        total_state: state(&message.total_state)?,
        total_percent: percent(message.total_progress),
        error: message.error,
    })
}

/// A source's progress as the wire has it.
pub fn copy_message(progress: &CopyProgress) -> wire::ReplicaRebuildingSrcShallowCopyCheckResponse {
    wire::ReplicaRebuildingSrcShallowCopyCheckResponse {
        state: progress.state.as_str().into(),
        copied_clusters: progress.copied_clusters,
        total_clusters: progress.total_clusters,
        error_msg: progress.error.clone(),
        handled_clusters: progress.copied_clusters,
    }
}

/// A source's progress from its node's answer; the error says what in it cannot be.
pub fn parse_copy(
    message: wire::ReplicaRebuildingSrcShallowCopyCheckResponse,
) -> std::result::Result<CopyProgress, String> {
    Ok(CopyProgress {
        state: state(&message.state)?,
        copied_clusters: message.copied_clusters.max(message.handled_clusters),
        total_clusters: message.total_clusters,
        error: message.error_msg,
    })
}

fn state(text: &str) -> std::result::Result<CopyState, String> {
    CopyState::parse(text).ok_or_else(|| format!("the state {text:?} is not known"))
}

fn percent(number: u32) -> u8 {
    // At most 100, so it fits.
    number.min(100) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::clone::EntryMark;

    fn order() -> (ReplicaName, RebuildOrder) {
        let name = |text: &str| SnapshotName::parse(text).unwrap();
        let snapshot = |text: &str, parent: Option<&str>| RebuildSnapshot {
            name: name(text),
            uuid: Some(uuid::Uuid::from_u128(7)),
            spec_size: 4 << 20,
            actual_size: 1 << 20,
            parent: parent.map(name),
            user_created: true,
            timestamp: "2026-01-01T00:00:00Z".into(),
            checksum: "18446744073709551615".into(),
        };
        let order = RebuildOrder {
            source: ReplicaName::parse("vol-r-00000001").unwrap(),
            source_address: HostPort::parse("10.0.0.1:20001").unwrap(),
            exposed_snapshot: name("s2"),
            exposed_address: HostPort::parse("10.0.0.1:20002").unwrap(),
            snapshots: vec![snapshot("s1", None), snapshot("s2", Some("s1"))],
            linked: Some(EntryMark { source: ReplicaName::parse("src-r-00000009").unwrap(), snapshot: name("s9") }),
        };
        (ReplicaName::parse("vol-r-00000002").unwrap(), order)
    }

    #[test]
    fn an_order_is_the_same_at_the_other_end() {
        let (name, order) = order();
        let message = order_message(&name, &order);
        assert_eq!(message.rebuilding_snapshot_list[0].children.keys().collect::<Vec<_>>(), ["s2"]);
        assert_eq!(parse_order(&message).unwrap(), (name, order));
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let (name, order) = order();
        let field_of = |change: fn(&mut wire::ReplicaRebuildingDstStartRequest)| {
            let mut message = order_message(&name, &order);
            change(&mut message);
            match parse_order(&message) {
                Err(Error::InvalidArgument { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field_of(|message| message.name.clear()), "name");
        assert_eq!(field_of(|message| message.src_replica_name = "a b".into()), "src_replica_name");
        assert_eq!(field_of(|message| message.src_replica_address = ":0".into()), "src_replica_address");
        assert_eq!(field_of(|message| message.external_snapshot_name.clear()), "external_snapshot_name");
        assert_eq!(field_of(|message| message.external_snapshot_address.clear()), "external_snapshot_address");
        assert_eq!(field_of(|message| message.rebuilding_snapshot_list[0].name = "volume-head".into()), LIST);
        assert_eq!(field_of(|message| message.rebuilding_snapshot_list[0].spec_size = 0), LIST);
        assert_eq!(field_of(|message| message.rebuilding_snapshot_list[1].snapshot_checksum = "x".into()), LIST);
    }
}
