//! After a restore that was cut short: the one point that all replicas have in common, and going back to it. Done before
//! any of them is opened, so that a mixture is never served and never taken for an image.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;

use super::marker::{RestoreMarker, Restored};
use super::point::{delete_others, is_of_restore};
use crate::engine::attach::ReplicaPath;
use crate::engine::backend::{Attribute, Layer, ReplicaDescription};
use crate::error::Result;
use crate::name::SnapshotName;

/// A replica as it was found: what it has, and what it durably knows.
pub(in crate::engine) struct Standing {
    pub(in crate::engine) path: Arc<ReplicaPath>,
    pub(in crate::engine) description: ReplicaDescription,
    pub(in crate::engine) marker: RestoreMarker,
}

impl Standing {
    /// Whether the head is that point, and none of another restore is left.
    pub(in crate::engine) fn holds_exactly(&self, point: &Restored) -> bool {
        self.marker.in_progress.is_none()
            && self.marker.restored.as_ref() == Some(point)
            && self.description.snapshots.contains_key(&point.snapshot)
            && !self.description.snapshots.keys().any(|name| *name != point.snapshot && is_of_restore(name))
    }
}

/// What is to be done before the replicas are used.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum Recovery {
    /// Nothing: no restore was cut short.
    None,
    /// The last restore was complete, but snapshots of earlier ones are left.
    CleanUp(Restored),
    /// The heads are a mixture; they go back to this point, which all have.
    RollBack(Restored),
    /// The heads are a mixture, and there is no point that all have.
    NoPoint,
}

/// What a replica knows and has.
type Knowledge<'a> = (&'a RestoreMarker, &'a BTreeMap<SnapshotName, Layer>);

/// Decides for all replicas that are up to date. A marker that says "complete" on one of them is the newest: it is
/// written when every replica has the snapshot.
fn decide(replicas: &[Knowledge<'_>]) -> Recovery {
    let have_all = |point: &&Restored| replicas.iter().all(|(_, snapshots)| snapshots.contains_key(&point.snapshot));
    let points = |finished: bool| {
        let wanted = replicas.iter().filter(move |(marker, _)| marker.in_progress.is_none() == finished);
        wanted.filter_map(|(marker, _)| marker.restored.as_ref())
    };
    let newest = points(true).chain(points(false)).find(have_all);
    let cut_short = replicas.iter().any(|(marker, _)| marker.in_progress.is_some());
    match newest {
        Some(point) if cut_short => Recovery::RollBack(point.clone()),
        None if cut_short => Recovery::NoPoint,
        None => Recovery::None,
        Some(point) => {
            let is_left = |name: &SnapshotName| *name != point.snapshot && is_of_restore(name);
            let alike = replicas.iter().all(|(marker, _)| marker.restored.as_ref() == Some(point));
            let left = replicas.iter().any(|(_, snapshots)| snapshots.keys().any(is_left));
            if alike && left { Recovery::CleanUp(point.clone()) } else { Recovery::None }
        }
    }
}

/// Decides what the replicas, all up to date, need.
pub(in crate::engine) fn needed(replicas: &[Standing]) -> Recovery {
    let known: Vec<_> = replicas.iter().map(|found| (&found.marker, &found.description.snapshots)).collect();
    decide(&known)
}

/// Carries it out, on all replicas in parallel. Each comes back as it is then, or with the reason why it cannot be used.
pub(in crate::engine) async fn carry_out(
    recovery: &Recovery,
    replicas: Vec<Standing>,
) -> Vec<(Arc<ReplicaPath>, Result<Standing>)> {
    let each = replicas.into_iter().map(|found| async move {
        let path = found.path.clone();
        let result = match recovery {
            Recovery::None | Recovery::NoPoint => Ok(found),
            Recovery::CleanUp(point) => Ok(clean_up(found, point).await),
            Recovery::RollBack(point) => roll_back(found, point).await,
        };
        (path, result)
    });
    join_all(each).await
}

async fn roll_back(found: Standing, point: &Restored) -> Result<Standing> {
    let path = found.path;
    tracing::info!(replica = %path.replica, backup = %point.backup, snapshot = %point.snapshot,
        "an interrupted restore is rolled back");
    path.backend.snapshot_revert(&point.snapshot).await?;
    let description = delete_others(&path, Some(&point.snapshot)).await?;
    let marker = RestoreMarker { restored: Some(point.clone()), in_progress: None };
    path.backend.set_attribute(Attribute::Restore, marker.encode()).await?;
    Ok(Standing { path, description, marker })
}

/// What cannot be deleted stays: the replica's content is good, and the next restore tries again.
async fn clean_up(mut found: Standing, point: &Restored) -> Standing {
    match delete_others(&found.path, Some(&point.snapshot)).await {
        Ok(description) => found.description = description,
        Err(error) => {
            tracing::warn!(replica = %found.path.replica, %error, "the snapshot of an earlier restore could not be deleted")
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::marker::tests::{begun, restored};
    use super::*;

    struct Replica(RestoreMarker, BTreeMap<SnapshotName, Layer>);

    fn replica(last: &str, in_progress: Option<&str>, snapshots: &[&str]) -> Replica {
        let layer = Layer {
            uuid: String::new(),
            spec_size: 0,
            actual_size: 0,
            parent: None,
            children: Vec::new(),
            creation_time: String::new(),
            user_created: true,
            timestamp: String::new(),
            checksum: String::new(),
        };
        let name = |text: &&str| SnapshotName::parse(text).expect("a snapshot name");
        let marker = RestoreMarker {
            restored: if last.is_empty() { None } else { restored(last) },
            in_progress: in_progress.and_then(|backup| begun(backup, true)),
        };
        Replica(marker, snapshots.iter().map(|text| (name(text), layer.clone())).collect())
    }

    fn decided(replicas: &[Replica]) -> Recovery {
        let known: Vec<_> = replicas.iter().map(|Replica(marker, snapshots)| (marker, snapshots)).collect();
        decide(&known)
    }

    fn roll_back_to(backup: &str) -> Recovery {
        Recovery::RollBack(restored(backup).expect("a point"))
    }

    #[test]
    fn nothing_is_done_where_nothing_was_cut_short() {
        let fresh = || replica("", None, &[]);
        assert_eq!(decided(&[fresh(), fresh()]), Recovery::None);
        let whole = || replica("b1", None, &["restore-b1"]);
        assert_eq!(decided(&[whole(), whole()]), Recovery::None);
        assert_eq!(decided(&[replica("", None, &["restore-mine"]), fresh()]), Recovery::None);
    }

    #[test]
    fn a_mixture_goes_back_to_the_point_that_all_have() {
        let cut = || replica("b1", Some("b2"), &["restore-b1"]);
        assert_eq!(decided(&[cut(), cut()]), roll_back_to("b1"));
        let not_marked_yet = replica("b1", None, &["restore-b1"]);
        assert_eq!(decided(&[cut(), not_marked_yet]), roll_back_to("b1"));
        let snapshot_taken = replica("b1", Some("b2"), &["restore-b1", "restore-b2"]);
        assert_eq!(decided(&[snapshot_taken, cut()]), roll_back_to("b1"));
    }

    #[test]
    fn a_restore_that_one_replica_knows_as_complete_is_complete() {
        let both = ["restore-b1", "restore-b2"];
        for order in [[0, 1], [1, 0]] {
            let all = [("b2", None), ("b1", Some("b2"))];
            let found = order.map(|index: usize| replica(all[index].0, all[index].1, &both));
            assert_eq!(decided(&found), roll_back_to("b2"));
        }
    }

    #[test]
    fn without_a_common_point_there_is_none() {
        let first = || replica("", Some("b1"), &[]);
        assert_eq!(decided(&[first(), first()]), Recovery::NoPoint);
        let lost = replica("b1", Some("b2"), &[]);
        assert_eq!(decided(&[lost, replica("b1", Some("b2"), &["restore-b1"])]), Recovery::NoPoint);
    }

    #[test]
    fn what_an_interrupted_cleanup_left_is_deleted() {
        let left = replica("b2", None, &["restore-b1", "restore-b2"]);
        let done = replica("b2", None, &["restore-b2"]);
        assert_eq!(decided(&[done, left]), Recovery::CleanUp(restored("b2").expect("a point")));
    }
}
