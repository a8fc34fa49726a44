//! Which lvols of a store are a replica's, and how they hang together. Pure: facts in, tree out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::attributes::Attributes;
use super::base::Base;
use super::clone::{CloneMark, EntryMark, clones_of, mark_of};
use super::view::{Child, LvolView};
use crate::name::{LvolName, ReplicaName, SnapshotName};

/// What is known of one lvol of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LvolFacts {
    pub(super) lvol: LvolName,
    pub(super) uuid: Uuid,
    pub(super) size: u64,
    pub(super) actual_size: u64,
    pub(super) parent: Option<LvolName>,
    pub(super) children: usize,
    pub(super) is_snapshot: bool,
    pub(super) open: bool,
    pub(super) attributes: Attributes,
}

/// One snapshot of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) lvol: LvolName,
    /// All lvols based on it, also those that are not the replica's.
    pub(super) children: usize,
    /// Its checksum when it was hashed first.
    pub(super) checksum: Option<u64>,
    pub(super) view: LvolView,
}

/// The lvols of one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) head: Option<LvolView>,
    pub(super) snapshots: BTreeMap<SnapshotName, Node>,
    /// The lvol in the head's place while the replica is rebuilt. There is no head then.
    pub(super) rebuild: Option<LvolFacts>,
    /// What a rebuild is being written to.
    pub(super) rebuilding: Option<LvolName>,
    /// What the replica was before a rebuild of it.
    pub(super) expired: Vec<LvolFacts>,
    /// Snapshots that a rebuild made, and that are not told from others yet.
    pub(super) rebuilt: Vec<LvolName>,
    /// What a full copy is being written to.
    pub(super) cloning: Option<LvolName>,
    /// What the chain stands on.
    pub(super) base: Base,
    /// The source's snapshot, when that is an entry point.
    pub(super) linked: Option<EntryMark>,
    /// What it was cloned from.
    pub(super) cloned: Option<CloneMark>,
    /// There is no head, as a full copy into it is not complete: what of.
    pub(super) interrupted: Option<CloneMark>,
    /// Its own snapshots with an entry point, and the linked clones based on each.
    pub(super) clones: BTreeMap<SnapshotName, BTreeSet<String>>,
}

/// What finds a replica's lvols among those of a store.
struct Finder<'a> {
    replica: &'a ReplicaName,
    head: LvolName,
    rebuilding: LvolName,
    by_name: HashMap<&'a LvolName, &'a LvolFacts>,
}

impl Tree {
    /// The tree of `replica` among all lvols of its store.
    pub(super) fn build(replica: &ReplicaName, lvols: &[LvolFacts]) -> Self {
        let by_name = lvols.iter().map(|facts| (&facts.lvol, facts)).collect();
        let (head, rebuilding) = (LvolName::head(replica), LvolName::rebuilding(replica));
        let finder = Finder { replica, head, rebuilding, by_name };
        let names = finder.snapshot_names(lvols);
        let in_place = finder.by_name.get(&finder.head).copied().filter(|facts| !facts.is_snapshot);
        let head = in_place.filter(|facts| facts.attributes.rebuild.is_none());
        // Our own snapshots always carry the mark; one that lost it in a crash is the system's, so that a purge takes
        // it. A foreign one without it is a user's (`engine-behaviour` §1.7).
        let unmarked_is_users = head.is_none_or(|facts| facts.attributes.replica.is_none());
        let base = finder.base(in_place, &names);
        let cloning = LvolName::cloning(replica);
        let mut tree = Self {
            cloning: lvols.iter().map(|facts| &facts.lvol).find(|lvol| **lvol == cloning).cloned(),
            linked: base.lvol().and_then(|lvol| mark_of(finder.by_name.get(lvol)?)),
            base,
            cloned: head.and_then(|facts| facts.attributes.cloned.clone()),
            interrupted: in_place.and_then(|facts| CloneMark::of_record(facts.attributes.rebuild.as_deref()?)),
            clones: clones_of(replica, lvols),
            rebuild: in_place.filter(|facts| facts.attributes.rebuild.is_some()).cloned(),
            rebuilding: lvols.iter().map(|facts| &facts.lvol).find(|lvol| **lvol == finder.rebuilding).cloned(),
            expired: lvols.iter().filter(|facts| finder.is_expired(facts)).cloned().collect(),
            ..Self::default()
        };
        for (lvol, name) in &names {
            let facts = finder.by_name[lvol];
            tree.rebuilt.extend(facts.attributes.rebuilt.map(|_| facts.lvol.clone()));
            let view = finder.view(facts, &names, lvols, unmarked_is_users);
            let (lvol, children, checksum) = (facts.lvol.clone(), facts.children, facts.attributes.checksum);
            tree.snapshots.insert(name.clone(), Node { lvol, children, checksum, view });
        }
        tree.head = head.map(|facts| finder.view(facts, &names, lvols, false));
        tree
    }

    /// The snapshots from `snapshot` down to the oldest, itself first.
    pub(super) fn chain(&self, snapshot: &SnapshotName) -> Vec<SnapshotName> {
        let mut chain = Vec::new();
        let mut next = self.snapshots.contains_key(snapshot).then(|| snapshot.clone());
        while let Some(name) = next {
            next = self.snapshots.get(&name).and_then(|node| node.view.parent.clone());
            chain.push(name);
        }
        chain
    }

    /// The newest snapshot that nothing is based on: what a lost head continued.
    pub(super) fn newest_leaf(&self) -> Option<&Node> {
        let leaves =
            self.snapshots.iter().filter(|(name, node)| node.children == usize::from(self.clones.contains_key(*name)));
        let newest =
            leaves.max_by(|(_, left), (_, right)| left.view.snapshot_timestamp.cmp(&right.view.snapshot_timestamp));
        newest.map(|(_, node)| node)
    }

    /// A rebuild was begun and not completed, or left traces that make its end doubtful: what there is of snapshots may
    /// be a part of a chain only.
    pub(super) fn is_partial(&self) -> bool {
        let left_over = self.rebuilding.is_some() || !self.expired.is_empty() || !self.rebuilt.is_empty();
        self.rebuild.is_some() || (self.head.is_none() && left_over)
    }

    /// The lvols left over from before a rebuild, none before those that are based on it.
    pub(super) fn expired_leaves_first(&self) -> Vec<LvolName> {
        let mut left: Vec<_> = self.expired.iter().collect();
        let mut order = Vec::with_capacity(left.len());
        // A chain has no cycle, so each round finds a leaf.
        while let Some(place) =
            left.iter().position(|facts| !left.iter().any(|other| other.parent.as_ref() == Some(&facts.lvol)))
        {
            order.push(left.swap_remove(place).lvol.clone());
        }
        order
    }

    /// The views of all snapshots.
    pub(super) fn snapshot_views(&self) -> BTreeMap<SnapshotName, LvolView> {
        self.snapshots.iter().map(|(name, node)| (name.clone(), node.view.clone())).collect()
    }
}

impl<'a> Finder<'a> {
    /// The replica's snapshots: marked as its own, named as its own, or an ancestor of its head that is nobody else's.
    fn snapshot_names(&self, lvols: &'a [LvolFacts]) -> BTreeMap<&'a LvolName, SnapshotName> {
        let ancestors = self.ancestors();
        let prefix = format!("{}-snap-", self.replica);
        let own = lvols.iter().filter(|facts| {
            facts.is_snapshot
                && !facts.attributes.expired
                && match &facts.attributes.replica {
                    Some(replica) => replica == self.replica,
                    None => facts.lvol.as_str().starts_with(&prefix) || ancestors.contains(&facts.lvol),
                }
        });
        let mut taken = BTreeSet::new();
        let named = own.map(|facts| {
            let name = self.name_of(facts, &prefix).filter(|name| taken.insert(name.clone()));
            (&facts.lvol, name.unwrap_or_else(|| anonymous(facts.uuid)))
        });
        named.collect()
    }

    /// Kept from before a rebuild. The mark alone is not enough: a rebuild that was broken off in its first step has left
    /// it on the head.
    fn is_expired(&self, facts: &LvolFacts) -> bool {
        let attributes = &facts.attributes;
        attributes.expired && attributes.replica.as_ref() == Some(self.replica) && facts.lvol != self.head
    }

    fn ancestors(&self) -> BTreeSet<&'a LvolName> {
        let mut ancestors = BTreeSet::new();
        let mut next = self.by_name.get(&self.head).and_then(|head| head.parent.as_ref());
        while let Some(facts) = next.and_then(|name| self.by_name.get(name)) {
            if as_base(facts).is_some() || !ancestors.insert(&facts.lvol) {
                break;
            }
            next = facts.parent.as_ref();
        }
        ancestors
    }

    /// What the oldest lvols, or the one in the head's place, are based on.
    fn base(&self, in_place: Option<&LvolFacts>, names: &BTreeMap<&LvolName, SnapshotName>) -> Base {
        let own = in_place.into_iter().chain(names.keys().filter_map(|lvol| self.by_name.get(*lvol).copied()));
        let parents = own.filter_map(|facts| facts.parent.as_ref()).filter(|parent| !names.contains_key(parent));
        let mut found = parents.filter_map(|parent| self.by_name.get(parent)).filter_map(|facts| as_base(facts));
        found.next().unwrap_or_default()
    }

    fn name_of(&self, facts: &LvolFacts, prefix: &str) -> Option<SnapshotName> {
        let stored = facts.attributes.snapshot.clone();
        stored.or_else(|| SnapshotName::parse(facts.lvol.as_str().strip_prefix(prefix)?).ok())
    }

    fn view(
        &self,
        facts: &LvolFacts,
        names: &BTreeMap<&LvolName, SnapshotName>,
        lvols: &[LvolFacts],
        unmarked_is_users: bool,
    ) -> LvolView {
        let children = lvols.iter().filter(|child| child.parent.as_ref() == Some(&facts.lvol));
        let child_of = |child: &LvolFacts| match names.get(&child.lvol) {
            Some(name) => Some(Child::Snapshot(name.clone())),
            None => (child.lvol == self.head).then_some(Child::Head),
        };
        let attributes = &facts.attributes;
        let timestamp = attributes.timestamp.clone().unwrap_or_default();
        LvolView {
            uuid: facts.uuid,
            spec_size: facts.size,
            actual_size: facts.actual_size,
            parent: facts.parent.as_ref().and_then(|parent| names.get(parent).cloned()),
            children: children.filter_map(child_of).collect(),
            creation_time: attributes.created.clone().unwrap_or_else(|| timestamp.clone()),
            user_created: facts.is_snapshot && attributes.user_created.unwrap_or(unmarked_is_users),
            snapshot_timestamp: timestamp,
            labels: attributes.labels.clone().unwrap_or_default(),
            silently_corrupted: attributes.checksum_found.is_some(),
            checksum: attributes.checksum_found.or(attributes.checksum).map_or_else(String::new, |sum| sum.to_string()),
        }
    }
}

/// A backing image, and the entry point of a linked clone, are below a replica, not of it.
fn as_base(facts: &LvolFacts) -> Option<Base> {
    let lvol = facts.lvol.clone();
    match &facts.attributes.image {
        Some(image) => Some(Base::BackingImage { name: image.name.clone(), lvol }),
        None => mark_of(facts).map(|_| Base::EntryPoint { lvol }),
    }
}

/// A snapshot whose name is lost still has to be seen and deleted by one.
fn anonymous(uuid: Uuid) -> SnapshotName {
    SnapshotName::parse(&format!("lvol-{uuid}")).expect("hexadecimal digits and dashes make a name")
}

/// Replicas whose head is among these lvols: marked as ours, or named as Longhorn's manager names its replicas
/// (`engine-behaviour` §1.2).
pub(super) fn replicas_in(lvols: &[LvolFacts]) -> Vec<ReplicaName> {
    let heads = lvols.iter().filter(|facts| !facts.is_snapshot);
    let found = heads.filter_map(|facts| {
        let name = match &facts.attributes.replica {
            Some(name) => name.clone(),
            None if is_managers_name(facts.lvol.as_str()) => ReplicaName::parse(facts.lvol.as_str()).ok()?,
            None => return None,
        };
        (LvolName::head(&name) == facts.lvol).then_some(name)
    });
    found.collect()
}

/// `^.+-r-[a-zA-Z0-9]{8}$`
fn is_managers_name(text: &str) -> bool {
    let Some((volume, suffix)) = text.rsplit_once("-r-") else { return false };
    !volume.is_empty() && suffix.len() == 8 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
pub(super) mod example;
#[cfg(test)]
mod tests;
