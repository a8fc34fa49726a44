//! What a rebuild has to copy, checked, and what it need not copy because it is there already. Pure.

use std::collections::BTreeMap;

use super::types::{RebuildOrder, RebuildSnapshot};
use crate::name::{LvolName, SnapshotName};
use crate::replica::tree::LvolFacts;
use crate::{Error, Result};

/// A rebuild's order that can be carried out: each snapshot is listed once, after its parent, and fits.
#[derive(Debug)]
pub(in crate::replica) struct Plan {
    pub(super) order: RebuildOrder,
    places: BTreeMap<SnapshotName, usize>,
}

/// The field of the order that lists snapshots.
const LIST: &str = "rebuilding_snapshot_list";

impl Plan {
    /// Checks an order for a replica of `size` bytes on a disk with clusters of `cluster_size`.
    pub(super) fn new(order: RebuildOrder, size: u64, cluster_size: u64) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (place, snapshot) in order.snapshots.iter().enumerate() {
            let name = &snapshot.name;
            let refused = |problem: String| Err(Error::invalid(LIST, format!("snapshot {name} {problem}")));
            if let Some(parent) = &snapshot.parent {
                let Some(below) = places.get(parent).map(|place: &usize| &order.snapshots[*place]) else {
                    return refused(format!("is based on {parent}, which is not listed before it"));
                };
                if below.spec_size > snapshot.spec_size {
                    return refused(format!("is smaller than {parent}, which it is based on"));
                }
            }
            if !snapshot.spec_size.is_multiple_of(cluster_size) || snapshot.spec_size > size {
                let bytes = snapshot.spec_size;
                return refused(format!("has {bytes} bytes, not whole clusters of {cluster_size} up to {size}"));
            }
            if snapshot.actual_size > snapshot.spec_size {
                return refused("has more bytes in clusters of its own than it presents".into());
            }
            if places.insert(name.clone(), place).is_some() {
                return refused("is listed twice".into());
            }
        }
        if !places.contains_key(&order.exposed_snapshot) {
            let problem = format!("{} is not among the snapshots to be copied", order.exposed_snapshot);
            return Err(Error::invalid("external_snapshot_name", problem));
        }
        Ok(Self { order, places })
    }

    /// One snapshot of the order.
    pub(super) fn find(&self, name: &SnapshotName) -> Result<&RebuildSnapshot> {
        let place = self.places.get(name);
        let snapshot = place.map(|place| &self.order.snapshots[*place]);
        snapshot
            .ok_or_else(|| Error::not_found("snapshot", format!("{name} of the rebuild from {}", self.order.source)))
    }

    /// How many snapshots there are.
    pub(super) fn count(&self) -> usize {
        self.order.snapshots.len()
    }
}

/// Whether `next`, of a further round, has the snapshot that was made as `made`: the same lvol of the source, unchanged. What
/// may be known of it by now, as a checksum, is no difference.
pub(super) fn is_unchanged(made: &RebuildSnapshot, next: &RebuildSnapshot) -> bool {
    let facts = |snapshot: &RebuildSnapshot| (snapshot.spec_size, snapshot.actual_size, snapshot.user_created);
    made.name == next.name
        && made.uuid.is_some()
        && made.uuid == next.uuid
        && made.parent == next.parent
        && made.timestamp == next.timestamp
        && facts(made) == facts(next)
}

/// The lvol of before that is the wanted snapshot already, based on the right parent. Equal by checksum if
/// `by_checksum`; else only a copy that an interrupted rebuild made of the same lvol.
pub(super) fn reusable<'a>(
    wanted: &RebuildSnapshot,
    parent: Option<&LvolName>,
    expired: &'a [LvolFacts],
    by_checksum: bool,
) -> Option<&'a LvolFacts> {
    expired.iter().find(|facts| {
        let attributes = &facts.attributes;
        let is_like = facts.is_snapshot
            && attributes.snapshot.as_ref() == Some(&wanted.name)
            && attributes.timestamp.as_deref().unwrap_or_default() == wanted.timestamp
            && facts.parent.as_ref() == parent
            && (facts.size, facts.actual_size) == (wanted.spec_size, wanted.actual_size);
        let is_equal = || {
            let checksum = attributes.checksum.map(|sum| sum.to_string());
            attributes.checksum_found.is_none() && checksum.as_ref() == Some(&wanted.checksum)
        };
        let is_copy = || wanted.uuid.is_some() && attributes.rebuilt == wanted.uuid;
        is_like && (is_copy() || (by_checksum && is_equal()))
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::name::{HostPort, ReplicaName};
    use crate::replica::attributes::Attributes;

    const CLUSTER: u64 = 1 << 20;

    fn name(text: &str) -> SnapshotName {
        SnapshotName::parse(text).unwrap()
    }

    fn snapshot(text: &str, parent: Option<&str>) -> RebuildSnapshot {
        RebuildSnapshot {
            name: name(text),
            uuid: Some(Uuid::from_u128(1)),
            spec_size: 4 * CLUSTER,
            actual_size: CLUSTER,
            parent: parent.map(name),
            user_created: false,
            timestamp: "2026-01-01T00:00:00Z".into(),
            checksum: "7".into(),
        }
    }

    fn plan(exposed: &str, snapshots: Vec<RebuildSnapshot>) -> Result<Plan> {
        let order = RebuildOrder {
            source: ReplicaName::parse("r").unwrap(),
            source_address: HostPort::parse("10.0.0.1:1").unwrap(),
            exposed_snapshot: name(exposed),
            exposed_address: HostPort::parse("10.0.0.1:2").unwrap(),
            snapshots,
            linked: None,
        };
        Plan::new(order, 4 * CLUSTER, CLUSTER)
    }

    #[test]
    fn a_tree_with_a_branch_is_a_plan() {
        let snapshots =
            vec![snapshot("a", None), snapshot("b", Some("a")), snapshot("c", Some("a")), snapshot("d", None)];
        let plan = plan("c", snapshots).unwrap();
        assert_eq!((plan.count(), &plan.find(&name("b")).unwrap().parent), (4, &Some(name("a"))));
        assert!(matches!(plan.find(&name("x")), Err(Error::NotFound { .. })));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_field() {
        let change = |change: fn(&mut RebuildSnapshot)| {
            let mut second = snapshot("b", Some("a"));
            change(&mut second);
            plan("a", vec![snapshot("a", None), second])
        };
        let field = |result: Result<Plan>| match result {
            Err(Error::InvalidArgument { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert!(change(|_| {}).is_ok());
        assert_eq!(field(plan("a", vec![])), "external_snapshot_name");
        assert_eq!(field(plan("x", vec![snapshot("a", None)])), "external_snapshot_name");
        assert_eq!(field(plan("a", vec![snapshot("b", Some("a")), snapshot("a", None)])), LIST);
        assert_eq!(field(change(|second| second.name = name("a"))), LIST);
        assert_eq!(field(change(|second| second.spec_size += 1)), LIST);
        assert_eq!(field(change(|second| second.spec_size += CLUSTER)), LIST);
        assert_eq!(field(change(|second| second.spec_size -= CLUSTER)), LIST);
        assert_eq!(field(change(|second| second.actual_size = 5 * CLUSTER)), LIST);
    }

    #[test]
    fn a_snapshot_of_another_lvol_or_that_was_merged_is_not_the_one_that_was_made() {
        let made = snapshot("a", Some("b"));
        let next = |change: fn(&mut RebuildSnapshot)| {
            let mut next = made.clone();
            change(&mut next);
            is_unchanged(&made, &next)
        };
        assert!(next(|_| {}));
        assert!(next(|next| next.checksum = "9".into()), "it was hashed meanwhile");
        assert!(!next(|next| next.uuid = Some(Uuid::from_u128(2))));
        assert!(!next(|next| next.parent = None), "what was below it is deleted");
        assert!(!next(|next| next.actual_size += CLUSTER));
        assert!(!next(|next| next.timestamp.clear()));
        let untold = RebuildSnapshot { uuid: None, ..made.clone() };
        assert!(!is_unchanged(&untold, &untold));
    }

    fn facts(change: impl FnOnce(&mut LvolFacts)) -> Vec<LvolFacts> {
        let mut facts = LvolFacts {
            lvol: LvolName::parse("x").unwrap(),
            uuid: Uuid::nil(),
            size: 4 * CLUSTER,
            actual_size: CLUSTER,
            parent: None,
            children: 0,
            is_snapshot: true,
            open: false,
            attributes: Attributes {
                snapshot: Some(name("a")),
                timestamp: Some("2026-01-01T00:00:00Z".into()),
                checksum: Some(7),
                expired: true,
                ..Default::default()
            },
        };
        change(&mut facts);
        vec![facts]
    }

    #[test]
    fn an_equal_checksum_counts_only_when_asked_for() {
        let (wanted, same) = (snapshot("a", None), facts(|_| {}));
        assert!(reusable(&wanted, None, &same, true).is_some());
        assert!(reusable(&wanted, None, &same, false).is_none());
        let unknown = RebuildSnapshot { checksum: String::new(), ..wanted.clone() };
        assert!(reusable(&unknown, None, &facts(|facts| facts.attributes.checksum = None), true).is_none());
        for other in [
            facts(|facts| facts.attributes.checksum = Some(8)),
            facts(|facts| facts.attributes.checksum_found = Some(9)),
            facts(|facts| facts.attributes.timestamp = None),
            facts(|facts| facts.attributes.snapshot = Some(name("b"))),
            facts(|facts| facts.size += CLUSTER),
            facts(|facts| facts.actual_size += CLUSTER),
            facts(|facts| facts.parent = Some(LvolName::parse("p").unwrap())),
            facts(|facts| facts.is_snapshot = false),
        ] {
            assert!(reusable(&wanted, None, &other, true).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_copy_of_the_same_lvol_counts_without_a_checksum() {
        let wanted = RebuildSnapshot { checksum: String::new(), ..snapshot("a", None) };
        let copy = facts(|facts| facts.attributes.rebuilt = wanted.uuid);
        assert!(reusable(&wanted, None, &copy, false).is_some());
        let of_another = RebuildSnapshot { uuid: Some(Uuid::from_u128(2)), ..wanted.clone() };
        assert!(reusable(&of_another, None, &copy, false).is_none());
        let untold = RebuildSnapshot { uuid: None, ..wanted };
        assert!(reusable(&untold, None, &facts(|_| {}), false).is_none());
    }
}
