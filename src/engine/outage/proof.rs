//! Whether a replica that is back is the copy that it was when it left.

use std::collections::BTreeMap;

use crate::engine::backend::{Layer, ReplicaDescription};
use crate::mirror::core::{Generation, Incarnation, ReplicaRecords};
use crate::name::SnapshotName;

/// By its records: the mirror of `incarnation` claimed it last, and raised what it holds, or declared it void when it was back
/// before. Then nobody else has changed it since. Gives the generation that it holds.
pub(super) fn is_own(records: &ReplicaRecords, incarnation: Incarnation) -> Result<Generation, String> {
    let Some(record) = &records.generation else {
        return Err("it was in no mirror yet, so it is another copy".into());
    };
    let raised_by = match record.generation {
        Generation::NONE => record.base.incarnation(),
        generation => generation.incarnation(),
    };
    if raised_by != incarnation || records.dirty.claimed_by() != Some(incarnation) {
        return Err("another engine has gone on with it, or has rebuilt it".into());
    }
    Ok(record.generation)
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
    use crate::mirror::core::dirty::{DirtyRecord, FoundDirty, RegionSet, Regions};
    use crate::mirror::core::{GenerationRecord, ReplicaRecords};
    use crate::name::ReplicaName;

    const OWN: Incarnation = Incarnation(7);
    const OTHER: Incarnation = Incarnation(8);

    fn records(generation: Generation, base: Generation, claimed_by: Incarnation) -> ReplicaRecords {
        let (regions, dirty) = (Regions::of_volume(1 << 30), RegionSet::EMPTY);
        let dirty = DirtyRecord { regions, incarnation: claimed_by, sequence: 3, dirty, released: false };
        let generation = Some(GenerationRecord { generation, base, in_sync: vec![] });
        ReplicaRecords { generation, dirty: FoundDirty::Known(Box::new(dirty)) }
    }

    #[test]
    fn a_replica_is_the_mirrors_own_while_nobody_else_has_raised_claimed_or_voided_it() {
        let base = Generation::NONE.next(OWN);
        let (own, other) = (base.next(OWN), base.next(OTHER));
        assert_eq!(is_own(&records(own, base, OWN), OWN), Ok(own));
        assert_eq!(is_own(&records(Generation::NONE, own, OWN), OWN), Ok(Generation::NONE), "it was back before");
        assert!(is_own(&records(other, base, OTHER), OWN).is_err(), "claimed by another");
        assert!(is_own(&records(own, base, OTHER), OWN).is_err());
        assert!(is_own(&records(Generation::NONE, other, OWN), OWN).is_err(), "another fills it");
        let new = ReplicaRecords { generation: None, dirty: FoundDirty::Nothing };
        assert!(is_own(&new, OWN).is_err(), "deleted and made anew");
    }

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
