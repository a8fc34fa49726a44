//! A replica that holds nothing becomes a linked clone: its head is exchanged for one that is based on the entry point of
//! the source's snapshot, in the steps of a revert.
//!
//! What a node finds at its start when it ended in between: no entry point yet, or one without a clone, which is removed
//! with what is left of making it; or the exchange of the head, which is finished or undone.

use super::entry_point::{EntryMark, mark_of, temp_head_of};
use super::protect::sweep_or_warn;
use super::types::{CloneMark, CloneOrder};
use crate::faults::{self, Point};
use crate::name::{LvolName, ReplicaName, SnapshotName};
use crate::replica::attributes::{self, key_of, setting, text_value};
use crate::replica::instance::{Replica, Turn};
use crate::replica::store::Store;
use crate::replica::tree::Tree;
use crate::replica::view::ReplicaState;
use crate::{Error, Result};

impl Turn<'_> {
    /// Becomes a linked clone of the order's snapshot of `source`. Durable when this returns.
    pub(super) async fn link(&mut self, source: &Replica, order: &CloneOrder) -> Result<()> {
        let replica = self.replica;
        self.require_usable()?;
        self.refresh().await?;
        if self.work.tree.cloned.as_ref().is_some_and(|mark| mark.is_of(order)) {
            return Ok(());
        }
        self.require_empty()?;
        let _attributes = replica.attributes.lock().await;
        let next = {
            let _entry_points = replica.store.entry_points().await;
            let prepared = self.link_prepare(source, order).await;
            if prepared.is_err() {
                sweep_or_warn(&replica.store).await;
            }
            prepared?
        };
        let linked = async {
            faults::pass(Point::CloneHeadReady).await?;
            self.exchange_head(&next).await
        };
        let linked = linked.await;
        if linked.is_ok() {
            let (source, snapshot) = (&order.source, &order.snapshot);
            tracing::info!(replica = %replica.name, %source, %snapshot, "a replica is a linked clone");
        } else {
            let _entry_points = replica.store.entry_points().await;
            sweep_or_warn(&replica.store).await;
        }
        linked
    }

    /// The lvol that is to be the head, based on the entry point; made now when there is none.
    async fn link_prepare(&mut self, source: &Replica, order: &CloneOrder) -> Result<LvolName> {
        let replica = self.replica;
        let entry = ensure_entry_point(replica, source, &order.snapshot).await?;
        faults::pass(Point::CloneEntryPointReady).await?;
        let next = self.revert_prepare(&entry).await?;
        let mark = CloneMark::of(order).encode();
        let marked = async {
            replica.store.apply(&next, vec![setting(attributes::CLONED, &mark)?]).await?;
            replica.disk.flush().await
        };
        match marked.await {
            Ok(()) => Ok(next),
            Err(error) => {
                if let Err(undo) = replica.store.delete(&next).await {
                    tracing::error!(replica = %replica.name, lvol = %next, %undo, "the head of a clone is left over");
                }
                Err(error)
            }
        }
    }

    /// Nothing was ever written to it, and it has no history.
    pub(super) fn require_empty(&self) -> Result<()> {
        let tree = &self.work.tree;
        let problem = match (&tree.head, &tree.linked) {
            (_, Some(linked)) => {
                format!("it is a linked clone of snapshot {} of replica {}", linked.snapshot, linked.source)
            }
            _ if !tree.snapshots.is_empty() => "it has snapshots".into(),
            (Some(head), None) if head.actual_size > 0 => "it was written to".into(),
            (Some(_), None) => return Ok(()),
            (None, None) => "it has no head".into(),
        };
        Err(Error::precondition(self.replica.object(), format!("{problem}; only an empty replica is cloned into")))
    }
}

/// The entry point of a snapshot of `source`, for `replica`. The caller has the turn of the store's entry points.
pub(in crate::replica) async fn ensure_entry_point(
    replica: &Replica,
    source: &Replica,
    snapshot: &SnapshotName,
) -> Result<LvolName> {
    let object = source.object();
    if source.disk.uuid() != replica.disk.uuid() {
        let problem = format!(
            "it is on disk {} and replica {} on disk {}; a linked clone is on its source's disk",
            source.disk.name(),
            replica.name,
            replica.disk.name()
        );
        return Err(Error::precondition(object, problem));
    }
    let view = source.view();
    match view.state {
        ReplicaState::Running | ReplicaState::Stopped if !view.rebuilding => {}
        state => {
            let problem = format!("it is in state {} and cannot be cloned", state.as_str());
            return Err(Error::precondition(object, problem));
        }
    }
    let store = &replica.store;
    let survey = store.survey().await?;
    let tree = Tree::build(&source.name, &survey);
    let Some(node) = tree.snapshots.get(snapshot) else {
        return Err(Error::not_found("snapshot", format!("{} of replica {}", snapshot, source.name)));
    };
    let size = replica.view().spec_size;
    if node.view.spec_size > size {
        let bytes = node.view.spec_size;
        let problem = format!("it has {size} bytes, less than the {bytes} of snapshot {}", snapshot);
        return Err(Error::precondition(replica.object(), problem));
    }
    let mark = EntryMark { source: source.name.clone(), snapshot: snapshot.clone() };
    // A cut short one has no mark of its own, and is made anew.
    let mut marked = survey.iter().filter(|facts| mark_of(facts).as_ref() == Some(&mark));
    if let Some(found) = marked.clone().find(|facts| facts.parent.as_ref() == Some(&node.lvol)) {
        return Ok(found.lvol.clone());
    }
    let entry = LvolName::entry_point(&mark.source, &mark.snapshot);
    let text = serde_json::to_string(&mark).map_err(|error| Error::internal("entry point", error.to_string()))?;
    if let Some(outdated) = marked.find(|facts| facts.lvol == entry) {
        set_aside(store, &outdated.lvol, &source.name, &text).await?;
    }
    if survey.iter().any(|facts| temp_head_of(facts).as_ref() == Some(&mark)) {
        super::protect::sweep(store).await?;
    }
    let head = LvolName::entry_point_temp_head(&mark.source, &mark.snapshot);
    store.clone_of(&node.lvol, &head).await?;
    store.apply(&head, vec![setting(attributes::ENTRY_POINT, &text)?]).await?;
    faults::pass(Point::CloneEntryPointBegun).await?;
    store.snapshot(&head, &entry, vec![(key_of(attributes::ENTRY_POINT), text_value(&text)?)]).await?;
    faults::pass(Point::CloneEntryPointMade).await?;
    store.delete(&head).await?;
    Ok(entry)
}

/// The source was rebuilt since this entry point was made: it stands on what the source held before. Its clones keep it, under
/// another name, and new ones get one that stands on the source's snapshot of now.
async fn set_aside(store: &Store, entry: &LvolName, source: &ReplicaName, mark: &str) -> Result<()> {
    store.apply(entry, vec![setting(attributes::ENTRY_POINT, mark)?]).await?;
    store.rename(entry, &LvolName::expired(source, rand::random())).await?;
    tracing::info!(replica = %source, lvol = %entry, "the entry point of before a rebuild is set aside");
    Ok(())
}
