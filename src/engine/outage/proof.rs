//! Whether a replica that is back is the copy that it was when it left.

use std::collections::BTreeMap;

use crate::engine::backend::{Layer, ReplicaDescription};
use crate::mirror::core::{Generation, Incarnation, ReplicaRecords};
use crate::name::SnapshotName;

/// By its records: the mirror of `incarnation` had it last. Gives the generation that it holds.
pub(super) fn is_own(records: &ReplicaRecords, incarnation: Incarnation) -> Result<Generation, String> {
    match records.held_of(incarnation) {
        Some(held) => Ok(held),
        None if records.generation.is_none() => Err("it was in no mirror yet, so it is another copy".into()),
        None => Err("another engine has gone on with it, or has rebuilt it".into()),
    }
}

/// By its head: it is the lvol that it was.
pub(super) fn has_same_head(replica: &ReplicaDescription, before: Option<&str>) -> Result<(), String> {
    match (replica.head.as_ref().map(|head| head.uuid.as_str()), before) {
        (_, None) => Err("it failed before it was known which lvol its head is".into()),
        (now, before) if now == before => Ok(()),
        _ => Err("its head is another lvol: it was reverted, or made anew".into()),
    }
}

/// By its layers: it has those of a replica in sync, and that one has the snapshots of `before`, when the other left. Snapshots do not
/// change, so below the head nothing differs.
pub(super) fn has_same_layers(
    replica: &ReplicaDescription,
    in_sync: &ReplicaDescription,
    before: &BTreeMap<SnapshotName, Layer>,
) -> Result<(), String> {
    if replica.spec_size != in_sync.spec_size {
        return Err(format!("it has {} bytes, the volume has {}", replica.spec_size, in_sync.spec_size));
    }
    let parent = |replica: &ReplicaDescription| replica.head.as_ref().map(|head| head.parent.clone());
    if facts(&in_sync.snapshots) != facts(before) {
        return Err("the volume's snapshots have changed since it failed".into());
    }
    if facts(&replica.snapshots) != facts(before) || parent(replica) != parent(in_sync) || parent(replica).is_none() {
        return Err("it has other snapshots than the volume".into());
    }
    Ok(())
}

fn facts(snapshots: &BTreeMap<SnapshotName, Layer>) -> Vec<(&SnapshotName, &Option<SnapshotName>, &str, u64)> {
    snapshots.iter().map(|(name, layer)| (name, &layer.parent, layer.timestamp.as_str(), layer.spec_size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ReplicaName;

    fn replica(size: u64, head: &str, snapshots: &[(&str, &str)]) -> ReplicaDescription {
        let name = |text: &str| SnapshotName::parse(text).expect("a name");
        let layer = |parent: Option<SnapshotName>, timestamp: &str| Layer {
            uuid: String::new(),
            spec_size: size,
            actual_size: 0,
            parent,
            children: Vec::new(),
            creation_time: String::new(),
            user_created: true,
            timestamp: timestamp.into(),
            checksum: String::new(),
        };
        ReplicaDescription {
            name: ReplicaName::parse("vol-r-1").expect("a name"),
            spec_size: size,
            state: "running".into(),
            error_message: String::new(),
            head: Some(layer(Some(name(head)), "")),
            snapshots: snapshots.iter().map(|(at, time)| (name(at), layer(None, time))).collect(),
            rebuilding: false,
            linked: None,
            backing_image: None,
        }
    }

    #[test]
    fn another_lvol_is_another_copy() {
        let mut same = replica(8, "s1", &[]);
        same.head.as_mut().expect("a head").uuid = "one".into();
        assert_eq!(has_same_head(&same, Some("one")), Ok(()));
        assert!(has_same_head(&same, Some("two")).is_err());
        assert!(has_same_head(&same, None).is_err());
        same.head = None;
        assert!(has_same_head(&same, Some("one")).is_err());
    }

    #[test]
    fn any_difference_of_the_layers_or_of_the_size_is_found() {
        let same = replica(8, "s1", &[("s1", "noon")]);
        assert_eq!(has_same_layers(&same, &same, &same.snapshots), Ok(()));
        let others = [
            replica(9, "s1", &[("s1", "noon")]),
            replica(8, "s2", &[("s1", "noon"), ("s2", "noon")]),
            replica(8, "s2", &[("s1", "noon")]),
            replica(8, "s1", &[("s1", "one")]),
            replica(8, "s1", &[]),
        ];
        for other in others {
            assert!(has_same_layers(&other, &same, &same.snapshots).is_err(), "{other:?}");
            assert!(has_same_layers(&same, &other, &same.snapshots).is_err(), "{other:?}");
        }
        let made_and_deleted = replica(8, "s1", &[("s1", "noon"), ("s2", "noon")]);
        assert!(has_same_layers(&same, &same, &made_and_deleted.snapshots).is_err(), "deleted on both");
    }
}
