//! The entry points in a store, and which replicas are linked clones through them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::name::{LvolName, ReplicaName, SnapshotName};
use crate::replica::tree::LvolFacts;

/// Of what an entry point is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryMark {
    /// The source replica.
    pub source: ReplicaName,
    /// Its snapshot.
    pub snapshot: SnapshotName,
}

/// An entry point in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::replica) struct EntryPoint {
    pub(in crate::replica) lvol: LvolName,
    pub(in crate::replica) mark: EntryMark,
    /// The names of the replicas based on it; of an lvol that is no replica's, its own.
    pub(in crate::replica) clones: BTreeSet<String>,
}

/// Whether an lvol is an entry point, and of what.
pub(in crate::replica) fn mark_of(facts: &LvolFacts) -> Option<EntryMark> {
    let by_name = || facts.lvol.as_entry_point().map(|(source, snapshot)| EntryMark { source, snapshot });
    match facts.is_snapshot {
        true => facts.attributes.entry_point.clone().or_else(by_name),
        false => None,
    }
}

/// Of which entry point an lvol is the temporary head.
pub(super) fn temp_head_of(facts: &LvolFacts) -> Option<EntryMark> {
    let by_name = || facts.lvol.as_entry_point_temp_head().map(|(source, snapshot)| EntryMark { source, snapshot });
    match facts.is_snapshot {
        true => None,
        false => facts.attributes.entry_point.clone().or_else(by_name),
    }
}

/// All entry points of a store.
pub(in crate::replica) fn entry_points(lvols: &[LvolFacts]) -> Vec<EntryPoint> {
    // One that was cut short has not got its mark, but its temporary head has.
    let unmarked: BTreeMap<_, _> = lvols
        .iter()
        .filter_map(temp_head_of)
        .map(|mark| (LvolName::entry_point(&mark.source, &mark.snapshot), mark))
        .collect();
    let found = lvols.iter().filter_map(|facts| {
        let mark = mark_of(facts).or_else(|| unmarked.get(&facts.lvol).filter(|_| facts.is_snapshot).cloned())?;
        let children = lvols.iter().filter(|child| child.parent.as_ref() == Some(&facts.lvol));
        let clones = children.filter(|child| temp_head_of(child).is_none()).map(owner).collect();
        Some(EntryPoint { lvol: facts.lvol.clone(), mark, clones })
    });
    found.collect()
}

/// The replica that an lvol is of, for people.
fn owner(facts: &LvolFacts) -> String {
    let named = || facts.lvol.as_str().split_once("-snap-").map(|(replica, _)| replica.to_owned());
    let marked = facts.attributes.replica.as_ref().map(ToString::to_string);
    marked.or_else(named).unwrap_or_else(|| facts.lvol.to_string())
}

/// The linked clones of a replica, by snapshot.
pub(in crate::replica) fn clones_of(
    source: &ReplicaName,
    lvols: &[LvolFacts],
) -> BTreeMap<SnapshotName, BTreeSet<String>> {
    let mut clones = BTreeMap::new();
    // A snapshot has several when the source was rebuilt in between.
    for entry in entry_points(lvols).into_iter().filter(|entry| entry.mark.source == *source) {
        clones.entry(entry.mark.snapshot).or_insert_with(BTreeSet::new).extend(entry.clones);
    }
    clones
}

/// The temporary heads in a store, and the entry points without a clone: what nobody needs, in the order in which it can
/// be deleted.
pub(super) fn unused(lvols: &[LvolFacts]) -> Vec<LvolName> {
    let heads = lvols.iter().filter(|facts| temp_head_of(facts).is_some()).map(|facts| facts.lvol.clone());
    let entries = entry_points(lvols).into_iter().filter(|entry| entry.clones.is_empty()).map(|entry| entry.lvol);
    heads.chain(entries).collect()
}

/// Whether there is any such lvol.
pub(in crate::replica) fn has_unused_entry_points(lvols: &[LvolFacts]) -> bool {
    !unused(lvols).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::tree::example::lvol;

    fn mark() -> EntryMark {
        EntryMark { source: ReplicaName::parse("a-r-00000000").unwrap(), snapshot: SnapshotName::parse("s1").unwrap() }
    }

    const ENTRY: &str = "a-r-00000000-clone-ep-s1";
    const HEAD: &str = "a-r-00000000-clone-ep-s1-tmp-head";

    #[test]
    fn clones_are_found_by_the_mark_or_the_name_of_their_lvols() {
        let mut marked = lvol("x", Some(ENTRY), false);
        marked.attributes.replica = Some(ReplicaName::parse("b-r-00000001").unwrap());
        let lvols = [
            lvol(ENTRY, Some("a-r-00000000-snap-s1"), true),
            marked,
            lvol("c-r-00000002-snap-z", Some(ENTRY), true),
            lvol("c-r-00000002", Some("c-r-00000002-snap-z"), false),
            lvol("d-r-00000003", Some(ENTRY), false),
            lvol(HEAD, Some(ENTRY), false),
        ];
        let clones = clones_of(&mark().source, &lvols);
        let names: Vec<_> = clones[&mark().snapshot].iter().map(String::as_str).collect();
        assert_eq!(names, ["b-r-00000001", "c-r-00000002", "d-r-00000003"]);
        assert!(clones_of(&ReplicaName::parse("b-r-00000001").unwrap(), &lvols).is_empty());
        assert_eq!(unused(&lvols), [LvolName::parse(HEAD).unwrap()]);
    }

    #[test]
    fn an_entry_point_with_nothing_but_a_temporary_head_is_unused() {
        let lvols = [lvol(HEAD, Some(ENTRY), false), lvol(ENTRY, None, true)];
        assert_eq!(unused(&lvols), [LvolName::parse(HEAD).unwrap(), LvolName::parse(ENTRY).unwrap()]);
        assert_eq!(unused(&lvols[..1]), [LvolName::parse(HEAD).unwrap()]);
    }

    #[test]
    fn shortened_names_are_told_by_their_marks() {
        let mark = EntryMark { source: mark().source, snapshot: SnapshotName::parse(&"s".repeat(200)).unwrap() };
        let (entry, head) = (
            LvolName::entry_point(&mark.source, &mark.snapshot),
            LvolName::entry_point_temp_head(&mark.source, &mark.snapshot),
        );
        let mut lvols = [lvol(head.as_str(), Some(entry.as_str()), false), lvol(entry.as_str(), None, true)];
        assert!(unused(&lvols).is_empty(), "nothing tells what they are");
        lvols[0].attributes.entry_point = Some(mark.clone());
        assert_eq!(unused(&lvols), [head, entry.clone()]);
        lvols[1].attributes.entry_point = Some(mark);
        assert_eq!(unused(&lvols[1..]), [entry]);
    }

    #[test]
    fn the_clones_of_before_and_after_a_rebuild_of_the_source_are_told_together() {
        let mut before = lvol("a-r-00000000-expired-0000000a", None, true);
        before.attributes.entry_point = Some(mark());
        let lvols = [
            before,
            lvol("b-r-00000001", Some("a-r-00000000-expired-0000000a"), false),
            lvol(ENTRY, Some("a-r-00000000-snap-s1"), true),
            lvol("c-r-00000002", Some(ENTRY), false),
        ];
        let clones = clones_of(&mark().source, &lvols);
        assert_eq!(clones[&mark().snapshot].iter().collect::<Vec<_>>(), ["b-r-00000001", "c-r-00000002"]);
        assert!(unused(&lvols).is_empty());
    }

    #[test]
    fn a_snapshot_of_such_a_name_that_is_writable_is_no_entry_point() {
        assert!(entry_points(&[lvol(ENTRY, None, false)]).is_empty());
    }
}
