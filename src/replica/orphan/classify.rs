//! Which lvols of a store belong to no object of the node, and whose they may have been. Pure: facts in, orphans out.

use std::collections::BTreeSet;

use crate::name::{LvolName, ReplicaName};
use crate::replica::snapshot::is_reverts;
use crate::replica::tree::{LvolFacts, Tree};

/// What an lvol that nobody owns looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanKind {
    /// It can be written: a head, or what was to become one.
    Volume,
    /// A snapshot.
    Snapshot,
}

/// The lvols that belong to none of `replicas` (those of this store that the node knows), nor to objects of other kinds.
/// What such an object is based on belongs to it too.
pub(super) fn orphans<'a>(lvols: &'a [LvolFacts], replicas: &[ReplicaName]) -> Vec<&'a LvolFacts> {
    let mut owned: BTreeSet<&LvolName> = BTreeSet::new();
    let trees: Vec<_> = replicas.iter().map(|replica| (replica, Tree::build(replica, lvols))).collect();
    for facts in lvols {
        let in_tree = |(replica, tree): &(&ReplicaName, Tree)| is_of(replica, tree, facts);
        if trees.iter().any(in_tree) || is_anothers(&facts.lvol) || facts.attributes.entry_point.is_some() {
            owned.insert(&facts.lvol);
        }
    }
    let mut below: Vec<_> = lvols.iter().filter(|facts| owned.contains(&facts.lvol)).collect();
    while let Some(facts) = below.pop() {
        let parent = facts.parent.as_ref().and_then(|parent| lvols.iter().find(|other| other.lvol == *parent));
        below.extend(parent.filter(|parent| owned.insert(&parent.lvol)));
    }
    lvols.iter().filter(|facts| !owned.contains(&facts.lvol)).collect()
}

/// Whether an lvol is one of a replica's: of its tree, or what one of its operations works with.
fn is_of(replica: &ReplicaName, tree: &Tree, facts: &LvolFacts) -> bool {
    let lvol = &facts.lvol;
    *lvol == LvolName::head(replica)
        || tree.snapshots.values().any(|node| node.lvol == *lvol)
        || tree.rebuilding.as_ref() == Some(lvol)
        || tree.cloning.as_ref() == Some(lvol)
        || tree.expired.iter().any(|expired| expired.lvol == *lvol)
        || (is_reverts(lvol) && facts.attributes.replica.as_ref() == Some(replica))
}

/// Objects that are not replicas, by the names of their lvols (`engine-behaviour` §1.6): backing images, entry points
/// of linked clones, copies for a clone, shards. Who adds a kind of object names its lvols here; its own code knows
/// which of them are left over.
pub(super) fn is_anothers(lvol: &LvolName) -> bool {
    let text = lvol.as_str();
    text.starts_with("bi-")
        || text.starts_with("shard-")
        || text.contains("-clone-ep-")
        || ["-cloning", "-cloning-tmp", "-tmp-head", "-temp-head"].iter().any(|ending| text.ends_with(ending))
}

/// The replica that an lvol most likely belonged to: as it is marked, else as its name says.
pub(super) fn owner(facts: &LvolFacts) -> Option<ReplicaName> {
    if let Some(replica) = &facts.attributes.replica {
        return Some(replica.clone());
    }
    let text = facts.lvol.as_str();
    let name = text
        .split_once("-snap-")
        .or_else(|| text.rsplit_once("-expired-"))
        .map(|(name, _)| name)
        .or_else(|| text.strip_suffix("-rebuilding"))
        .unwrap_or(text);
    ReplicaName::parse(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::tree::example::lvol;

    fn marked(mut facts: LvolFacts, replica: &str) -> LvolFacts {
        facts.attributes.replica = Some(ReplicaName::parse(replica).unwrap());
        facts
    }

    fn found(lvols: &[LvolFacts], replicas: &[&str]) -> Vec<String> {
        let replicas: Vec<_> = replicas.iter().map(|name| ReplicaName::parse(name).unwrap()).collect();
        orphans(lvols, &replicas).into_iter().map(|facts| facts.lvol.to_string()).collect()
    }

    #[test]
    fn what_a_known_replica_has_is_no_orphan_and_the_same_of_an_unknown_one_is() {
        let mut expired = marked(lvol("r1-expired-00000001", None, false), "r1");
        expired.attributes.expired = true;
        let lvols = [
            lvol("r1", Some("r1-snap-s1"), false),
            lvol("r1-snap-s1", Some("foreign"), true),
            lvol("foreign", None, true),
            lvol("r1-rebuilding", None, false),
            marked(lvol("revert-0123456789abcdef", Some("r1-snap-s1"), false), "r1"),
            expired,
            lvol("r2-snap-s1", None, true),
            lvol("loose", None, false),
        ];
        assert_eq!(found(&lvols, &["r1"]), ["r2-snap-s1", "loose"]);
        assert_eq!(found(&lvols, &["r1", "r2"]), ["loose"]);
        assert_eq!(found(&lvols, &[]).len(), lvols.len());
    }

    #[test]
    fn objects_of_other_kinds_and_what_they_are_based_on_are_left_alone() {
        let lvols = [
            lvol("bi-image-disk-0b2c", None, true),
            lvol("bi-image-disk-0b2c-temp-head", None, false),
            lvol("shard-vol-3", None, false),
            lvol("r1-clone-ep-s1", Some("base"), true),
            lvol("base", None, true),
            lvol("r1-cloning", None, false),
            lvol("r1-cloning-tmp", None, true),
        ];
        assert_eq!(found(&lvols, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_snapshot_marked_as_another_replicas_is_its_users_while_a_head_is_based_on_it() {
        let lvols = [lvol("r1", Some("gone-snap-s1"), false), marked(lvol("gone-snap-s1", None, true), "gone")];
        assert_eq!(found(&lvols, &["r1"]), Vec::<String>::new());
        assert_eq!(found(&lvols[1..], &["r1"]), ["gone-snap-s1"]);
    }

    #[test]
    fn an_owner_is_read_from_the_mark_and_else_from_the_name() {
        let of = |facts: &LvolFacts| owner(facts).map(|name| name.to_string());
        assert_eq!(of(&marked(lvol("x~0123456789abcdef", None, false), "long")).as_deref(), Some("long"));
        for (name, expected) in [
            ("vol-r-0a1b2c3d", Some("vol-r-0a1b2c3d")),
            ("vol-r-0a1b2c3d-snap-daily-snap-1", Some("vol-r-0a1b2c3d")),
            ("vol-r-0a1b2c3d-rebuilding", Some("vol-r-0a1b2c3d")),
            ("vol-r-0a1b2c3d-expired-0000000f", Some("vol-r-0a1b2c3d")),
            ("loose", Some("loose")),
            ("no name!", None),
        ] {
            assert_eq!(
                LvolName::parse(name).ok().and_then(|_| of(&lvol(name, None, false))).as_deref(),
                expected,
                "{name}"
            );
        }
    }
}
