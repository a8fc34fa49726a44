//! A full copy, at the replica that is cloned into. While it runs there is no head: an empty lvol in its place says so, as in
//! a rebuild, so that nothing takes half a copy for a volume whatever happens to the process. The copy is written to an lvol
//! beside it, which takes the head's place when it is whole, in the steps of a revert.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::node::SourceSnapshot;
use super::types::{CloneMark, CloneOrder};
use crate::faults::{self, Point};
use crate::name::{HostPort, LvolName};
use crate::replica::Replicas;
use crate::replica::attributes::{self, now_text, setting};
use crate::replica::base::Base;
use crate::replica::export::ServedLvol;
use crate::replica::instance::{Replica, Turn};
use crate::replica::rebuild::{Followed, SourceNode};
use crate::replica::snapshot::next_head_name;
use crate::replica::view::ReplicaState;
use crate::{Error, Result};

/// A full copy into a replica that runs.
pub(in crate::replica) struct CloneDestination {
    copy: FullCopy,
    served: ServedLvol,
    follower: Option<AbortHandle>,
}

/// A copy that the source is to be asked for.
#[derive(Clone)]
pub(super) struct FullCopy {
    /// Tells it from every other copy of this process.
    number: u64,
    order: CloneOrder,
    source: SourceNode,
    address: HostPort,
}

impl Drop for CloneDestination {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

impl Replicas {
    /// Begins a full copy into a replica.
    pub(super) async fn copy_start(&self, replica: &Arc<Replica>, order: CloneOrder) -> Result<()> {
        if order.source == replica.name {
            return Err(Error::invalid("src_replica_name", "a replica cannot be a clone of itself"));
        }
        let source = match order.source_address.ip() == self.data_ip() {
            true => SourceNode::Own(self.clone()),
            false => SourceNode::Other(self.peers().node_of(order.source_address)?),
        };
        let snapshot = source.snapshot(&order).await?;
        let mut turn = replica.turn().await?;
        if let Some(copy) = turn.copy_begin(order, snapshot, source).await? {
            let number = copy.number;
            let follower = tokio::spawn(self.clone().copy_to_its_end(replica.clone(), copy));
            turn.copy_followed_by(number, follower.abort_handle());
        }
        Ok(())
    }

    async fn copy_to_its_end(self, replica: Arc<Replica>, copy: FullCopy) {
        let followed = follow(&replica, &copy, self.copy_limits().stall).await;
        // Not in this task, which ends with the copy.
        tokio::spawn(async move {
            let Ok(mut turn) = replica.turn().await else { return };
            match followed {
                Ok(()) => turn.copy_finish(copy.number).await,
                Err(error) => {
                    let what = format!("the copy of snapshot {} of replica {}", copy.order.snapshot, copy.order.source);
                    turn.copy_failed(copy.number, &replica.disk.explain(error, &what).await).await;
                }
            }
        });
    }
}

/// Asks the source for the copy and returns when it is complete and durable.
async fn follow(replica: &Replica, copy: &FullCopy, stall: Duration) -> Result<()> {
    let (order, source) = (&copy.order, &copy.source);
    source.clone_start(order, &replica.name, copy.address).await?;
    let followed = Followed { source: &order.source, source_address: order.source_address, snapshot: &order.snapshot };
    let ask = || source.clone_progress(order, &replica.name);
    followed.to_its_end(stall, ask, |progress| replica.clone_board.copied(progress)).await
}

impl Turn<'_> {
    /// Prepares the copy of a snapshot. `None` when it goes on, or is done already.
    async fn copy_begin(
        &mut self,
        order: CloneOrder,
        snapshot: SourceSnapshot,
        source: SourceNode,
    ) -> Result<Option<FullCopy>> {
        let replica = self.replica;
        let mark = CloneMark::of(&order);
        if let Some(copy) = &self.work.clone {
            if mark.is_of(&copy.copy.order) {
                return Ok(None);
            }
            let running = &copy.copy.order;
            let problem =
                format!("snapshot {} of replica {} is being copied into it", running.snapshot, running.source);
            return Err(Error::precondition(replica.object(), problem));
        }
        self.refresh().await?;
        if self.work.tree.cloned.as_ref().is_some_and(|cloned| cloned.is_of(&order)) {
            return Ok(None);
        }
        let goes_on = self.work.tree.interrupted.is_some();
        if !goes_on {
            self.require_usable()?;
            self.require_empty()?;
        }
        let size = replica.view().spec_size;
        if snapshot.bytes > size {
            let problem =
                format!("it has {size} bytes, less than the {} of snapshot {}", snapshot.bytes, order.snapshot);
            return Err(Error::precondition(replica.object(), problem));
        }
        // What the copy does not write shows the source's image, or nothing.
        let base = match &self.work.tree.base {
            base if base.backing_image().is_some() && base.backing_image() == snapshot.backing_image.as_ref() => base,
            _ => &Base::Nothing,
        };
        let base = base.clone();
        let Some(serving) = self.work.serving.as_ref().filter(|_| self.work.source.is_none()) else {
            let state = self.state();
            let problem = format!("it is in state {}; it must be running, and no rebuild's source", state.as_str());
            return Err(Error::precondition(replica.object(), problem));
        };
        serving.second_address()?;
        let begun = self.copy_prepare(&mark, &base, goes_on).await;
        let served = match begun {
            Ok(served) => served,
            Err(error) => {
                self.fail(&error);
                return Err(error);
            }
        };
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copy = FullCopy { number, order, source, address: served.listen() };
        tracing::info!(replica = %replica.name, source = %mark.source, snapshot = %mark.snapshot, "a full copy begins");
        replica.clone_board.begin(mark);
        self.work.clone = Some(CloneDestination { copy: copy.clone(), served, follower: None });
        self.set_state(ReplicaState::Running);
        self.refresh().await?;
        Ok(Some(copy))
    }

    /// Takes the head out, and serves what the copy is written to.
    async fn copy_prepare(&mut self, mark: &CloneMark, base: &Base, goes_on: bool) -> Result<ServedLvol> {
        let replica = self.replica;
        self.copy_break_off().await?;
        let record = serde_json::json!({ "clone": mark, "begun": now_text() }).to_string();
        match goes_on {
            true => replica.store.apply(&replica.head(), vec![setting(attributes::REBUILD, &record)?]).await?,
            false => {
                let carried = replica.store.carried_attributes(&replica.head()).await?;
                // What it was is deleted with the other leftovers.
                let _left = self.replace_head(&record, base, carried).await?;
            }
        }
        faults::pass(Point::CloneCopyBegun).await?;
        let lvol = LvolName::cloning(&replica.name);
        replica.store.create_on(base, &lvol, replica.view().spec_size).await?;
        let marks =
            vec![setting(attributes::REPLICA, replica.name.as_str())?, setting(attributes::CREATED, &now_text())?];
        replica.store.apply(&lvol, marks).await?;
        let Some(serving) = &self.work.serving else {
            return Err(Error::internal(replica.object(), "a copy begins though its ports are given back"));
        };
        let served = serving.second(replica.store.alias(&lvol), replica.pace.clone())?;
        served.start().await?;
        Ok(served)
    }

    fn copy_followed_by(&mut self, number: u64, follower: AbortHandle) {
        match self.work.clone.as_mut().filter(|clone| clone.copy.number == number) {
            Some(clone) => clone.follower = Some(follower),
            None => follower.abort(),
        }
    }

    /// The copy of that number is complete: it takes the head's place.
    async fn copy_finish(&mut self, number: u64) {
        let Some(mut clone) = self.work.clone.take_if(|clone| clone.copy.number == number) else { return };
        // It is the follower that tells.
        clone.follower = None;
        let finished = self.copy_to_head(&clone).await;
        match finished {
            Ok(()) => {
                let order = &clone.copy.order;
                tracing::info!(replica = %self.replica.name, source = %order.source, snapshot = %order.snapshot,
                    "a full copy is complete");
                self.replica.clone_board.complete();
            }
            Err(error) => {
                self.work.clone = Some(clone);
                self.copy_fail(&error).await;
            }
        }
    }

    async fn copy_to_head(&mut self, clone: &CloneDestination) -> Result<()> {
        let replica = self.replica;
        release(replica, &clone.copy).await;
        clone.served.stop().await?;
        replica.disk.flush().await?;
        faults::pass(Point::CloneCopied).await?;
        let _attributes = replica.attributes.lock().await;
        let (lvol, head, next) = (LvolName::cloning(&replica.name), replica.head(), next_head_name()?);
        let mut marks = replica.store.carried_attributes(&head).await?;
        marks.push(setting(attributes::CLONED, &CloneMark::of(&clone.copy.order).encode())?);
        marks.push(setting(attributes::CREATED, &now_text())?);
        replica.store.apply(&lvol, marks).await?;
        replica.store.rename(&lvol, &next).await?;
        replica.disk.flush().await?;
        faults::pass(Point::CloneHeadReady).await?;
        replica.store.delete(&head).await?;
        faults::pass(Point::CloneHeadExchanged).await?;
        replica.store.rename(&next, &head).await?;
        replica.disk.flush().await?;
        self.refresh().await?;
        match &self.work.serving {
            Some(serving) => serving.start().await,
            None => Ok(()),
        }
    }

    /// The copy of that number failed.
    async fn copy_failed(&mut self, number: u64, error: &Error) {
        if let Some(clone) = self.work.clone.as_mut().filter(|clone| clone.copy.number == number) {
            clone.follower = None;
            self.copy_fail(error).await;
        }
    }

    /// The replica is in state error with the reason, and has no head until it is cloned into again.
    async fn copy_fail(&mut self, error: &Error) {
        tracing::error!(replica = %self.replica.name, %error, "a full copy failed");
        self.replica.clone_board.fail(error);
        if let Err(undo) = self.copy_break_off().await {
            tracing::error!(replica = %self.replica.name, %undo, "what a failed copy had begun is left over");
        }
        self.fail(error);
    }

    /// Ends a copy that goes on, and deletes what it has written.
    pub(in crate::replica) async fn copy_break_off(&mut self) -> Result<()> {
        if let Some(clone) = self.work.clone.take() {
            if let Some(follower) = &clone.follower {
                follower.abort();
            }
            // First the source: it must not lose the target that it is writing to (docs/ARCHITECTURE.md).
            release(self.replica, &clone.copy).await;
            clone.served.stop().await?;
            self.replica
                .clone_board
                .fail(&Error::Canceled { what: format!("the copy into {}", self.replica.object()) });
        }
        self.refresh().await?;
        match self.work.tree.cloning.clone() {
            Some(left) => self.replica.store.delete(&left).await,
            None => Ok(()),
        }
    }
}

/// Ends the source's part. One that cannot be reached ends it by itself, when it cannot write any more.
async fn release(replica: &Replica, copy: &FullCopy) {
    if let Err(error) = copy.source.clone_finish(&copy.order, &replica.name).await {
        tracing::warn!(replica = %replica.name, source = %copy.order.source, %error, "a copy's source was not released");
    }
}

/// Deletes what the last run of the node has left of a copy.
pub(in crate::replica) async fn clear(replica: &Replica) {
    let Ok(mut turn) = replica.turn().await else { return };
    if turn.work.clone.is_none()
        && turn.work.tree.cloning.is_some()
        && let Err(error) = turn.copy_break_off().await
    {
        tracing::warn!(replica = %replica.name, %error, "what is left of a copy could not be deleted");
    }
}
