//! Who reads a replica's snapshots: such a snapshot is kept, and the refusal to delete it names them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Replicas;
use super::clone::list;
use super::instance::Turn;
use crate::Result;
use crate::name::{ReplicaName, SnapshotName};

/// The readers of one replica's snapshots.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    readers: BTreeMap<u64, (SnapshotName, String)>,
}

/// One reader of one snapshot; it is none any more when this is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    readers: Readers,
    number: u64,
}

impl Readers {
    /// Adds a reader, as a message names it. Only in the replica's turn, so that no deletion has begun.
    pub(super) fn add(&self, snapshot: &SnapshotName, what: String) -> Reader {
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        entries.readers.insert(number, (snapshot.clone(), what));
        Reader { readers: self.clone(), number }
    }

    fn of(&self, snapshot: &SnapshotName) -> Vec<String> {
        let entries = self.entries();
        entries.readers.values().filter(|(read, _)| read == snapshot).map(|(_, what)| what.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // No code between two changes of it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.entries().readers.remove(&self.number);
    }
}

impl Turn<'_> {
    /// Why a snapshot cannot be deleted now. As of the last survey.
    pub(super) fn kept_because(&self, snapshot: &SnapshotName) -> Option<String> {
        let tree = &self.work.tree;
        let node = tree.snapshots.get(snapshot)?;
        let readers = self.replica.readers.of(snapshot);
        match tree.clones.get(snapshot) {
            Some(clones) => Some(format!("linked clones are based on it: {}; delete them first", list(clones))),
            None if node.children > 1 => {
                Some(format!("{} lvols are based on it; delete all but one of them first", node.children))
            }
            None if readers.is_empty() => None,
            None => Some(format!("it is being read by {}; wait for the end of that", readers.join(", "))),
        }
    }
}

impl Replicas {
    /// The snapshots of a replica that cannot be deleted now, and why.
    pub async fn kept_snapshots(&self, name: &ReplicaName) -> Result<BTreeMap<SnapshotName, String>> {
        let replica = self.known(name)?;
        let mut turn = replica.turn().await?;
        let _entry_points = replica.store.entry_points().await;
        turn.refresh().await?;
        turn.remove_unused_entry_points().await?;
        let names = turn.work.tree.snapshots.keys();
        Ok(names.filter_map(|name| Some((name.clone(), turn.kept_because(name)?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_named_until_it_is_dropped() {
        let (readers, snapshot) = (Readers::default(), SnapshotName::parse("s1").unwrap());
        let other = readers.add(&SnapshotName::parse("s2").unwrap(), "c".into());
        let (first, second) = (readers.add(&snapshot, "a".into()), readers.add(&snapshot, "b".into()));
        assert_eq!(readers.of(&snapshot), ["a", "b"]);
        drop(first);
        assert_eq!(readers.of(&snapshot), ["b"]);
        drop((second, other));
        assert!(readers.of(&snapshot).is_empty() && readers.entries().readers.is_empty());
    }
}
