//! The driver's part in the log of dirty regions: records are stored with the members, writes that waited go on, and what is
//! quiet is taken off.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::core::dirty::{DirtyLog, DirtyRecord, RegionSet, Regions, StoreId, Todo};
use super::super::core::{FailureCause, HotMap, Incarnation, IoView, MemberIndex, MemberOp};
use super::super::device::Report;
use super::super::range_gate::BlockRange;
use super::{Driver, LockId, LockPurpose, RangeLock};
use crate::error::Error;

/// The log as the driver has it.
pub(super) struct Dirty {
    pub(super) log: DirtyLog,
    pub(super) regions: Regions,
    /// As whom the mirror raises generations.
    pub(super) incarnation: Incarnation,
}

/// No block: locking it waits for the changes that run, and holds no new one.
const NO_BLOCK: BlockRange = BlockRange { first: 0, count: 0 };

/// The lock that waits for the changes that run. Nobody asks for it, so nobody releases it.
const DRAIN: LockId = LockId(u64::MAX);

impl Dirty {
    pub(super) fn new(view: &IoView, unequal: RegionSet, regions: Regions, incarnation: Incarnation) -> Self {
        Self { log: DirtyLog::new(view, unequal), regions, incarnation }
    }

    /// The map that the I/O path asks.
    pub(super) fn hot_map(&self, block_bytes: u32) -> HotMap {
        HotMap::new(self.regions, block_bytes)
    }

    fn record(&self, store: StoreId, dirty: RegionSet) -> DirtyRecord {
        DirtyRecord { regions: self.regions, incarnation: self.incarnation, sequence: store.0, dirty }
    }
}

impl Driver {
    /// The moments to look for quiet regions. At most one waits.
    pub(super) fn ask_for_quiet_regions(&self, period: Duration) -> mpsc::Receiver<()> {
        let (ask, questions) = mpsc::channel(1);
        self.tokio.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                if let Err(mpsc::error::TrySendError::Closed(())) = ask.try_send(()) {
                    return;
                }
            }
        });
        questions
    }

    /// Channels hold writes that wait for regions.
    pub(super) fn regions_wanted(&mut self) {
        let (Some(dirty), Some(vdev)) = (&mut self.dirty, &self.vdev) else { return };
        let wanted = vdev.device().take_wanted();
        dirty.log.want(&wanted);
    }

    /// A member has stored its record, or has not.
    pub(super) fn dirty_stored(&mut self, member: MemberIndex, store: StoreId, outcome: Result<(), FailureCause>) {
        let Some(dirty) = &mut self.dirty else { return };
        let counts = dirty.log.stored(member, store, outcome.is_ok());
        if let (true, Err(cause)) = (counts, outcome) {
            self.event(super::Event::MemberIoError { member, op: MemberOp::Write, cause });
        }
    }

    /// Takes off what was not written to since the last look but one, and tries again with a member that could not store its
    /// record and is still there.
    pub(super) fn look_for_quiet_regions(&mut self) {
        let (Some(dirty), Some(vdev)) = (&mut self.dirty, &self.vdev) else { return };
        for member in self.core.view().written().iter() {
            dirty.log.retry(member);
        }
        if dirty.log.may_clear() && self.range.is_none() {
            dirty.log.clear(&vdev.device().hot().age());
        }
    }

    /// Does what the log says, until it has nothing more to say.
    pub(super) async fn pump_dirty(&mut self) {
        let mut admitted = false;
        while let Some(todo) = self.dirty.as_mut().and_then(|dirty| dirty.log.next()) {
            let Some(vdev) = &self.vdev else { return };
            match todo {
                Todo::Store { member, store, regions } => self.store_dirty(member, store, regions),
                Todo::Admit(regions) => {
                    vdev.device().hot().admit(&regions);
                    admitted = true;
                }
                Todo::AdmitAll => {
                    vdev.device().hot().set_all(true);
                    admitted = true;
                }
                Todo::AdmitNone => vdev.device().hot().set_all(false),
                Todo::Drain => self.drain().await,
            }
        }
        if admitted && let Some(vdev) = &self.vdev {
            let device = vdev.device().clone();
            self.visited(vdev.for_each_channel(move |channel| channel.release_logged(&device)).await);
        }
    }

    fn store_dirty(&self, member: MemberIndex, store: StoreId, regions: RegionSet) {
        let (Some(dirty), Some(open)) = (&self.dirty, self.members.get(member)) else { return };
        let storing = self.host.persist_dirty(open, dirty.record(store, regions));
        let (limit, reports) = (self.deadlines.limit, self.reports.0.clone());
        let (mirror, replica) = (self.name.clone(), open.replica.clone());
        self.tokio.spawn(async move {
            let outcome = match tokio::time::timeout(limit, storing).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    tracing::warn!(%mirror, %replica, %error, "the dirty regions could not be stored");
                    Err(if matches!(error, Error::Peer { .. }) { FailureCause::Gone } else { FailureCause::Medium })
                }
                Err(_) => {
                    tracing::warn!(%mirror, %replica, ?limit, "the dirty regions were not stored in time");
                    Err(FailureCause::Deadline)
                }
            };
            let _ = reports.unbounded_send(Report::DirtyStored { member, store, outcome });
        });
    }

    /// Waits for the changes that run, as before a range is copied.
    async fn drain(&mut self) {
        let Some(vdev) = &self.vdev else { return };
        // Only asked for while no range is locked.
        assert!(self.range.is_none(), "one range at a time");
        let device = vdev.device().clone();
        device.begin_lock(NO_BLOCK);
        let each = device.clone();
        self.visited(vdev.for_each_channel(move |channel| channel.lock_range(&each, NO_BLOCK)).await);
        self.range = Some(RangeLock { id: DRAIN, purpose: LockPurpose::Drain, drained: false, released: false });
        device.lock_announced();
    }

    /// The changes that ran when regions were taken off have ended.
    pub(super) async fn dirty_drained(&mut self) {
        if let Some(dirty) = &mut self.dirty {
            dirty.log.drained();
        }
        if let Some(vdev) = &self.vdev {
            let device = vdev.device().clone();
            device.end_lock();
            self.visited(vdev.for_each_channel(move |channel| channel.unlock_range(&device)).await);
        }
        if let Some(next) = self.next_lock.take() {
            self.lock_range(next.id, next.range, next.target, next.reply).await;
        }
    }

    /// The last record of each member, when no write is in flight any more: nothing is dirty but where they differ still. While a
    /// member is out and that is not durable, the others keep what is dirty, as they differ from that one.
    pub(super) async fn store_last_dirty(&mut self) {
        let view = self.core.view();
        if !view.unfenced.is_empty() {
            return;
        }
        let Some(dirty) = &mut self.dirty else { return };
        let regions = dirty.log.at_stop();
        let last: Vec<_> = view.rw.iter().filter_map(|member| Some((member, dirty.log.last_store(member)?))).collect();
        let storing = last.into_iter().filter_map(|(member, store)| {
            let open = self.members.get(member)?;
            let stored = self.host.persist_dirty(open, self.dirty.as_ref()?.record(store, regions));
            let (limit, mirror, replica) = (self.deadlines.limit, self.name.clone(), open.replica.clone());
            Some(async move {
                match tokio::time::timeout(limit, stored).await {
                    Ok(Ok(())) => {}
                    // Found again at the next start, which then compares what is equal.
                    Ok(Err(error)) => {
                        tracing::warn!(%mirror, %replica, %error, "the dirty regions could not be cleared")
                    }
                    Err(_) => tracing::warn!(%mirror, %replica, ?limit, "the dirty regions were not cleared in time"),
                }
            })
        });
        let stored = self.tokio.spawn(futures::future::join_all(storing.collect::<Vec<_>>()));
        let _ = stored.await;
    }
}
