//! A further round of a rebuild at its destination: the source has got newer snapshots, and what is made of the others stays
//! as it is.
//!
//! The head may be there already, when the snapshots came while an engine was filling it. It lacks then what those
//! snapshots hold and the fill had not reached, so it is set aside, and its clusters are copied as the snapshots'.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::destination::{Destination, Phase};
use super::plan::{Plan, is_unchanged};
use crate::name::{LvolName, SnapshotName};
use crate::replica::attribute::was_in_sync;
use crate::replica::attributes::{self, setting};
use crate::replica::base::Base;
use crate::replica::instance::Turn;
use crate::replica::tree::Tree;
use crate::{Error, Result};

impl Turn<'_> {
    /// What is made of the plan, if it goes on from the rebuild before: of the same source, all that is made is among its
    /// snapshots and as it was made. The tree is the newest.
    pub(super) async fn made_before(&self, plan: &Plan) -> Result<Option<BTreeMap<SnapshotName, Uuid>>> {
        let Some(rebuild) = self.work.rebuild.as_ref().filter(|rebuild| !rebuild.made.is_empty()) else {
            return Ok(None);
        };
        let goes_on = goes_on(rebuild, plan) && all_are_there(rebuild, &self.work.tree);
        // A head that was in sync is what the volume held, and no half of a rebuild: all is set aside with it.
        if !goes_on || (rebuild.phase == Phase::Finished && was_in_sync(self.replica).await?) {
            return Ok(None);
        }
        Ok(Some(rebuild.made.clone()))
    }

    /// Puts an empty lvol in place of the head, if there is one. Its snapshots are known again as copies of the source's, for
    /// a start of the node in between. Returns what the head is from now on: what is of use in it comes with the copies.
    pub(super) async fn head_taken_out(&mut self, plan: &Plan, record: &str, base: &Base) -> Result<Option<LvolName>> {
        if self.work.tree.rebuild.is_some() {
            return Ok(None);
        }
        let replica = self.replica;
        let left = self.replace_head(record, base, Vec::new()).await?;
        for (name, node) in &self.work.tree.snapshots {
            let Some(uuid) = plan.find(name)?.uuid else { continue };
            replica.store.apply(&node.lvol, vec![setting(attributes::REBUILT, &uuid.to_string())?]).await?;
        }
        replica.disk.flush().await?;
        self.refresh().await?;
        match self.work.tree.rebuild {
            Some(_) => Ok(left),
            None => Err(Error::internal(replica.object(), "its head is there still after it was set aside")),
        }
    }
}

/// Whether the plan has all that is made, as it was made.
fn goes_on(rebuild: &Destination, plan: &Plan) -> bool {
    let (before, next) = (&rebuild.plan.order, &plan.order);
    let is_kept = |name: &SnapshotName| match (rebuild.plan.find(name), plan.find(name)) {
        (Ok(made), Ok(next)) => is_unchanged(made, next),
        _ => false,
    };
    rebuild.phase != Phase::Failed
        && rebuild.current.is_none()
        && (&before.source, before.source_address, &before.linked) == (&next.source, next.source_address, &next.linked)
        && rebuild.made.keys().all(is_kept)
}

/// Whether the replica has what was made, unchanged and nothing else.
fn all_are_there(rebuild: &Destination, tree: &Tree) -> bool {
    let is_there = |(name, uuid): (&SnapshotName, &Uuid)| {
        let (made, found) = (rebuild.plan.find(name), tree.snapshots.get(name));
        made.is_ok_and(|made| {
            found.is_some_and(|node| {
                let view = &node.view;
                (view.uuid, &view.parent, view.actual_size) == (*uuid, &made.parent, made.actual_size)
            })
        })
    };
    tree.rebuilding.is_none()
        && tree.head.is_some() == (rebuild.phase == Phase::Finished)
        && tree.snapshots.len() == rebuild.made.len()
        && rebuild.made.iter().all(is_there)
}
