//! The point in time that a restore leaves: its snapshot on every replica in sync, alone and directly below the head.

use std::collections::BTreeSet;

use crate::engine::attach::ReplicaPath;
use crate::engine::backend::{Child, ReplicaDescription};
use crate::engine::instance::Engine;
use crate::engine::state::Chain;
use crate::error::{Error, Result};
use crate::name::SnapshotName;

/// What the names of all snapshots of restores start with (`engine-behaviour` §1.6).
const PREFIX: &str = "restore-";

/// Whether a snapshot is one that a restore left.
pub(super) fn is_of_restore(snapshot: &SnapshotName) -> bool {
    snapshot.as_str().starts_with(PREFIX)
}

/// `restore-<snapshot of the backup>`; a few characters more when that name is taken, something unique when the backup
/// has no name for its snapshot or one that is too long to be prefixed.
fn choose_name(snapshot: Option<&SnapshotName>, taken: &BTreeSet<SnapshotName>) -> Result<SnapshotName> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let own = snapshot.map(|snapshot| format!("{PREFIX}{snapshot}"));
    let suffixed = own.as_ref().map(|own| format!("{own}-{}", &unique[..5]));
    let candidates = [own, suffixed, Some(format!("{PREFIX}{unique}"))];
    let mut free = candidates.into_iter().flatten().filter_map(|name| SnapshotName::parse(&name).ok());
    free.find(|name| !taken.contains(name)).ok_or_else(|| Error::internal("restore snapshot", "no name is free for it"))
}

/// Deletes all snapshots of restores on a replica but `kept`, and returns what it has then. One that several others are
/// based on stays, as it cannot be merged into them.
pub(super) async fn delete_others(path: &ReplicaPath, kept: Option<&SnapshotName>) -> Result<ReplicaDescription> {
    let mut description = path.backend.describe().await?;
    for _ in 0..description.snapshots.len() {
        let other = description
            .snapshots
            .iter()
            .find(|(name, layer)| Some(*name) != kept && is_of_restore(name) && layer.children.len() <= 1);
        let Some((other, _)) = other else { break };
        path.backend.snapshot_delete(other).await?;
        description = path.backend.describe().await?;
    }
    Ok(description)
}

/// Whether a replica shows the snapshot, directly below its head, and no other restore's.
fn check(path: &ReplicaPath, description: &ReplicaDescription, snapshot: &SnapshotName) -> Result<()> {
    let wrong = |problem: String| Err(Error::internal(format!("replica {}", path.replica), problem));
    let Some(layer) = description.snapshots.get(snapshot) else {
        return wrong(format!("it lacks snapshot {snapshot} after the restore"));
    };
    if layer.children != [Child::Head] {
        return wrong(format!("snapshot {snapshot} is not directly below the head"));
    }
    match description.snapshots.keys().find(|name| *name != snapshot && is_of_restore(name)) {
        Some(other) => wrong(format!("it still has snapshot {other} of an earlier restore")),
        None => Ok(()),
    }
}

impl Engine {
    /// Takes the snapshot of a restore on every replica in sync.
    pub(super) async fn take_restore_snapshot(&self, backed_up: Option<&SnapshotName>) -> Result<SnapshotName> {
        let described = self.describe_in_sync().await?;
        let taken = described.into_iter().flat_map(|(_, description)| description.snapshots.into_keys()).collect();
        let name = choose_name(backed_up, &taken)?;
        let answers = self.take_snapshot(&name, true, Default::default()).await?;
        // That it is there does not mean that it is durable: what a replica answered counts.
        self.settle_restore("restore snapshot", answers).await?;
        Ok(name)
    }

    /// Deletes the snapshots of all restores but one on every replica in sync: what failed attempts have left, and what
    /// was the last good point before that one.
    pub(super) async fn delete_other_restores(&self, kept: Option<&SnapshotName>) -> Result<()> {
        let answers = self.on_all(|path| async move { delete_others(&path, kept).await.map(drop) }).await;
        self.settle_restore("deletion of another restore's snapshot", answers).await
    }

    /// Reads every replica in sync again: each must have exactly the restore's point. One that has not leaves the
    /// mirror, if another has.
    pub(super) async fn prove_restore(&self, snapshot: &SnapshotName) -> Result<Chain> {
        let mut proven = None;
        let mut answers = Vec::new();
        for (path, description) in self.describe_in_sync().await? {
            let checked = check(&path, &description, snapshot);
            if checked.is_ok() {
                proven.get_or_insert(Chain { snapshots: description.snapshots, head: description.head });
            }
            answers.push((path, checked));
        }
        self.settle_restore("proof of the restore", answers).await?;
        proven.ok_or_else(|| Error::precondition(self.object(), "no replica is in sync any more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SnapshotName {
        SnapshotName::parse(text).expect("a snapshot name")
    }

    #[test]
    fn a_restores_snapshot_is_named_after_that_of_the_backup() {
        let none = BTreeSet::new();
        assert_eq!(choose_name(Some(&name("s1")), &none).unwrap(), name("restore-s1"));
        let again = choose_name(Some(&name("s1")), &[name("restore-s1")].into()).unwrap();
        assert!(
            again.as_str().starts_with("restore-s1-") && again.as_str().len() == "restore-s1-".len() + 5,
            "{again}"
        );
        for odd in [None, Some(name(&"s".repeat(253)))] {
            let made_up = choose_name(odd.as_ref(), &none).unwrap();
            assert!(is_of_restore(&made_up) && made_up.as_str().len() == PREFIX.len() + 32, "{made_up}");
        }
    }
}
