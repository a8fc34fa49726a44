//! One round of a rebuild: all snapshots that the source had when it began, copied to the new replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Rebuild;
use super::source::Asked;
use crate::engine::attach::ReplicaPath;
use crate::engine::backend::{Backend, Layer, ReplicaDescription, SnapshotOptions};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::name::{SnapshotLabels, SnapshotName};
use crate::replica::rebuild::{CopyState, RebuildOrder, RebuildSnapshot};

/// How often the copy of a snapshot is asked about.
const CHECK_STEP: Duration = Duration::from_millis(250);

/// What a round has once it has begun.
pub(super) struct Round {
    pub(super) source: Arc<ReplicaPath>,
    pub(super) target: Arc<ReplicaPath>,
    /// Oldest first, a parent before its children.
    snapshots: Vec<(SnapshotName, Layer)>,
    /// The one that the head is based on.
    newest: SnapshotName,
    /// Of those that have any.
    labels: BTreeMap<SnapshotName, SnapshotLabels>,
}

impl Round {
    /// Whether its snapshots are those of a replica in sync.
    pub(super) fn has_all_of(&self, now: &ReplicaDescription) -> bool {
        let facts = |layer: &Layer| (layer.parent.clone(), layer.timestamp.clone(), layer.spec_size);
        let is_same = |(name, layer): &(SnapshotName, Layer)| now.snapshots.get(name).map(facts) == Some(facts(layer));
        now.snapshots.len() == self.snapshots.len()
            && self.snapshots.iter().all(is_same)
            && newest(now) == Some(&self.newest)
    }

    /// Whether a snapshot is among its own.
    pub(super) fn has(&self, name: &SnapshotName) -> bool {
        self.snapshots.iter().any(|(own, _)| own == name)
    }
}

impl Rebuild {
    /// Makes a replica in sync the source, and readies the new one for copies of all its snapshots. What was copied before of
    /// the same source is not copied again.
    pub(super) async fn begin_round(&self, target: Arc<ReplicaPath>, now: Asked<ReplicaDescription>) -> Result<Round> {
        let (engine, source) = (&self.engine, now.path);
        let wrong = |problem: &str| Error::internal(format!("replica {}", source.replica), problem);
        let newest = newest(&now.answer).cloned().ok_or_else(|| wrong("its head is based on no snapshot"))?;
        let snapshots = oldest_first(now.answer.snapshots).map_err(wrong)?;
        let labels = source.backend.snapshot_labels().await?;
        let exposed = source.backend.rebuild_source_start(&target.replica, target.address, &newest).await?;
        let order = RebuildOrder {
            source: source.replica.clone(),
            source_address: source.address,
            exposed_snapshot: newest.clone(),
            exposed_address: exposed,
            snapshots: snapshots.iter().map(as_ordered).collect(),
            linked: self.addition.linked.clone(),
        };
        if let Err(error) = target.backend.rebuild_start(order).await {
            self.finish_source(&source).await;
            return Err(error);
        }
        tracing::info!(engine = %engine.name, volume = %engine.volume, replica = %target.replica, source = %source.replica,
            snapshots = snapshots.len(), "a rebuild copies snapshots");
        Ok(Round { source, target, snapshots, newest, labels })
    }

    /// Goes on with what a replica in sync has now.
    pub(super) async fn next_round(&self, round: &mut Round, now: Asked<ReplicaDescription>) -> Result<()> {
        self.unless_canceled(faults::pass(Point::RebuildGoesOn)).await?;
        if now.path.replica != round.source.replica {
            self.finish_source(&round.source).await;
        }
        *round = self.begin_round(round.target.clone(), now).await?;
        Ok(())
    }

    /// Has all snapshots copied, each after the one that it is based on.
    pub(super) async fn copy_snapshots(&self, round: &Round) -> Result<()> {
        let target = &round.target.backend;
        for (snapshot, layer) in &round.snapshots {
            faults::pass(Point::RebuildCopies).await?;
            target.rebuild_copy_start(snapshot, self.addition.fast_sync).await?;
            self.copied(&**target, snapshot).await?;
            let options = SnapshotOptions {
                user_created: layer.user_created,
                timestamp: layer.timestamp.clone(),
                labels: round.labels.get(snapshot).cloned().unwrap_or_default(),
            };
            target.rebuild_snapshot_create(snapshot, options).await?;
        }
        faults::pass(Point::RebuildCopied).await
    }

    /// Waits until the copy of a snapshot is complete; one that stands still for too long has failed.
    async fn copied(&self, target: &dyn Backend, snapshot: &SnapshotName) -> Result<()> {
        let limit = self.engine.context.limits.rebuild_stall;
        let (mut last, mut since) = (None, tokio::time::Instant::now());
        loop {
            let copy = target.rebuild_progress().await?;
            match copy.state {
                CopyState::Complete => return Ok(()),
                CopyState::Error => {
                    return Err(Error::peer(format!("replica {}", self.addition.replica), copy.error));
                }
                CopyState::Idle | CopyState::Starting | CopyState::InProgress => {}
            }
            let now = (copy.state, copy.percent);
            if last != Some(now) {
                (last, since) = (Some(now), tokio::time::Instant::now());
            } else if since.elapsed() > limit {
                return Err(Error::Timeout {
                    what: format!("copying snapshot {snapshot} in {}", self.object()),
                    limit,
                });
            }
            tokio::time::sleep(CHECK_STEP).await;
        }
    }
}

/// The snapshot that the head is based on.
fn newest(replica: &ReplicaDescription) -> Option<&SnapshotName> {
    replica.head.as_ref()?.parent.as_ref()
}

fn as_ordered((name, layer): &(SnapshotName, Layer)) -> RebuildSnapshot {
    RebuildSnapshot {
        name: name.clone(),
        uuid: layer.uuid.parse().ok(),
        spec_size: layer.spec_size,
        actual_size: layer.actual_size,
        parent: layer.parent.clone(),
        user_created: layer.user_created,
        timestamp: layer.timestamp.clone(),
        checksum: layer.checksum.clone(),
    }
}

/// A parent before its children.
fn oldest_first(
    mut snapshots: BTreeMap<SnapshotName, Layer>,
) -> std::result::Result<Vec<(SnapshotName, Layer)>, &'static str> {
    let mut ordered: Vec<(SnapshotName, Layer)> = Vec::with_capacity(snapshots.len());
    while !snapshots.is_empty() {
        let next = snapshots.iter().find_map(|(name, layer)| match &layer.parent {
            Some(parent) if snapshots.contains_key(parent) => None,
            _ => Some(name.clone()),
        });
        let taken = next.and_then(|name| snapshots.remove_entry(&name));
        ordered.push(taken.ok_or("its snapshots are a circle, not a tree")?);
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edges: &[(&str, Option<&str>)]) -> BTreeMap<SnapshotName, Layer> {
        let name = |text: &str| SnapshotName::parse(text).expect("a name");
        let layer = |parent: &Option<&str>| Layer {
            uuid: String::new(),
            spec_size: 1,
            actual_size: 0,
            parent: parent.map(name),
            children: Vec::new(),
            creation_time: String::new(),
            user_created: true,
            timestamp: String::new(),
            checksum: String::new(),
        };
        edges.iter().map(|(child, parent)| (name(child), layer(parent))).collect()
    }

    #[test]
    fn parents_come_before_their_children_whatever_their_names() {
        let ordered = oldest_first(tree(&[("a", Some("c")), ("b", Some("c")), ("c", Some("d")), ("d", None)]));
        let names: Vec<_> = ordered.expect("a tree").into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["d", "c", "a", "b"]);
    }

    #[test]
    fn a_circle_is_refused() {
        assert!(oldest_first(tree(&[("a", Some("b")), ("b", Some("a"))])).is_err());
    }
}
