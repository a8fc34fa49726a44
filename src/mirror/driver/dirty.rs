//! The driver's part in the log of dirty regions: records are stored with the members, writes that waited go on, and what is
//! quiet is taken off.

use std::pin::pin;

use futures::future::{Either, join_all, select};

use super::super::activity::DirtyState;
use super::super::core::dirty::{DirtyLog, DirtyRecord, RegionSet, Regions, StoreId, Todo};
use super::super::core::{DirtyOrder, Incarnation, IoView, MemberIndex, MemberOp, ReplicaRecords};
use super::super::deadlines::BULK_FACTOR;
use super::super::device::Report;
use super::super::range_gate::BlockRange;
use super::super::resync::flush_member;
use super::sleep::{StoreFailure, blame, give_order, in_time};
use super::{Driver, Event, LockId, LockPurpose, PIECE_BYTES, RangeLock};

/// The log as the driver has it.
pub(super) struct Dirty {
    pub(super) log: DirtyLog,
    pub(super) regions: Regions,
    /// As whom the mirror raises generations.
    pub(super) incarnation: Incarnation,
    /// Disks are being flushed for regions that are to be taken off.
    pub(super) flushing: bool,
}

/// No block: locking it waits for the changes that run, and holds no new one.
const NO_BLOCK: BlockRange = BlockRange { first: 0, count: 0 };

/// The lock that waits for the changes that run. Nobody asks for it, so nobody releases it.
const DRAIN: LockId = LockId(u64::MAX);

impl Dirty {
    pub(super) fn new(
        view: &IoView,
        unequal: RegionSet,
        regions: Regions,
        incarnation: Incarnation,
        first: StoreId,
    ) -> Self {
        Self { log: DirtyLog::new(view, unequal, first), regions, incarnation, flushing: false }
    }

    fn record(&self, store: StoreId, dirty: RegionSet) -> DirtyRecord {
        let (regions, incarnation, sequence) = (self.regions, self.incarnation, store.0);
        DirtyRecord { regions, incarnation, sequence, dirty, released: false }
    }
}

impl Driver {
    /// For status and metrics.
    pub(super) fn dirty_state(&self) -> DirtyState {
        let log = self.dirty.as_ref().map(|dirty| &dirty.log).filter(|log| log.stores());
        let left = self.vdev.as_ref().map_or(0, |vdev| vdev.device().unequal().left());
        DirtyState {
            region_bytes: self.regions.region_bytes(),
            regions: log.map_or(0, |log| log.dirty().count()),
            missed_bytes: std::array::from_fn(|place| {
                let missed = self.dirty.as_ref()?.log.missed(MemberIndex::new(place)?)?;
                Some(self.regions.ranges(missed, self.geometry.size()).map(|range| range.end - range.start).sum())
            }),
            unequal_bytes: (left * PIECE_BYTES).min(self.geometry.size()),
            asleep: self.sleep.is_some(),
        }
    }

    /// Channels hold writes that wait for regions.
    pub(super) fn regions_wanted(&mut self) {
        let (Some(dirty), Some(vdev)) = (&mut self.dirty, &self.vdev) else { return };
        let wanted = vdev.device().take_wanted();
        dirty.log.want(&wanted);
    }

    /// A member has stored its record, or has not.
    pub(super) fn dirty_stored(
        &mut self,
        member: MemberIndex,
        store: StoreId,
        outcome: std::result::Result<(), StoreFailure>,
    ) {
        let Some(dirty) = &mut self.dirty else { return };
        let counts = dirty.log.stored(member, store, outcome.is_ok());
        match outcome {
            Err(StoreFailure::Superseded) => self.event(Event::Superseded),
            Err(StoreFailure::Member(cause)) if counts => {
                self.event(Event::MemberIoError { member, op: MemberOp::Write, cause });
            }
            Err(StoreFailure::Member(_)) | Ok(()) => {}
        }
    }

    /// Takes off what was not written to since the last look but one, and tries again with a member that could not store its
    /// record and is still there.
    pub(super) fn look_for_quiet_regions(&mut self) {
        let (Some(dirty), Some(vdev)) = (&mut self.dirty, &self.vdev) else { return };
        for member in self.core.view().written().iter() {
            dirty.log.retry(member);
        }
        if dirty.log.may_clear() && self.range.is_none() && !dirty.flushing {
            dirty.log.clear(&vdev.device().hot().age());
        }
    }

    /// Does what the log says, until it has nothing more to say.
    pub(super) async fn pump_dirty(&mut self) {
        let mut admitted = false;
        while let Some(todo) = self.dirty.as_mut().and_then(|dirty| dirty.log.next_todo()) {
            let Some(vdev) = &self.vdev else { return };
            match todo {
                Todo::Store { member, store, regions, claims } => self.store_dirty(member, store, regions, claims),
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

    fn store_dirty(&self, member: MemberIndex, store: StoreId, regions: RegionSet, claims: bool) {
        let (Some(dirty), Some(open)) = (&self.dirty, self.members.get(member)) else { return };
        let (record, incarnation) = (dirty.record(store, regions), dirty.incarnation);
        let order = if claims { DirtyOrder::Join(record) } else { DirtyOrder::Replace(record) };
        let (limit, reports) = (self.deadlines.limit, self.reports.0.clone());
        let (mirror, host, open) = (self.name.clone(), self.host.clone(), open.clone());
        self.tokio.spawn(async move {
            let outcome = match in_time(&mirror, &open, limit, give_order(&*host, &open, order)).await {
                Ok(()) => Ok(()),
                Err(cause) => {
                    let is_ours = |found: &ReplicaRecords| !found.is_claimed_by_another(incarnation);
                    Err(blame(&*host, &open, limit, cause, is_ours).await)
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
        if let Some(vdev) = &self.vdev {
            let device = vdev.device().clone();
            device.end_lock();
            self.visited(vdev.for_each_channel(move |channel| channel.unlock_range(&device)).await);
        }
        self.flush_members();
        if let Some(next) = self.next_lock.take() {
            self.lock_range(next.id, next.range, next.target, next.reply).await;
        }
    }

    /// Flushes the members' disks before regions are taken off. Their nodes do so themselves with the record; when it was done
    /// before, without a hurry, that takes no time, and no write waits for it.
    fn flush_members(&mut self) {
        let Some(dirty) = &mut self.dirty else { return };
        dirty.flushing = true;
        let members: Vec<_> =
            self.core.view().written().iter().filter_map(|place| self.opened[place.get()].clone()).collect();
        let (on, reports) = (self.on, self.reports.0.clone());
        let (clock, late) = (self.tokio.clone(), BULK_FACTOR * self.deadlines.limit);
        on.thread().spawn(async move {
            let flushed = join_all(members.iter().map(|member| flush_member(on, member)));
            let limit = async {
                // A runtime that is shutting down ends it at once, which is as good.
                let _ = clock.spawn(async move { tokio::time::sleep(late).await }).await;
            };
            let done = match select(pin!(flushed), pin!(limit)).await {
                Either::Left((results, _)) => results.iter().all(|result| result.is_ok()),
                Either::Right(_) => false,
            };
            let _ = reports.unbounded_send(Report::DirtyFlushed { done });
        });
    }

    /// The members' disks were flushed; where that failed it is for clients' I/O to tell who is to blame.
    pub(super) fn dirty_flushed(&mut self, done: bool) {
        let Some(dirty) = &mut self.dirty else { return };
        dirty.flushing = false;
        match done {
            true => dirty.log.drained(),
            false => {
                tracing::warn!(mirror = %self.name, "not all disks could be flushed; what is dirty stays so for now");
                dirty.log.keep();
            }
        }
    }

    /// The last record of each member, when no write is in flight any more: nothing is dirty but where they differ still, and the
    /// replica is released. While a member is out and that is not durable, the others keep what is dirty, as they differ from that one.
    pub(super) async fn store_last_dirty(&mut self) {
        let view = self.core.view();
        if !view.unfenced.is_empty() || !view.writable {
            return;
        }
        let Some(dirty) = &mut self.dirty else { return };
        let regions = dirty.log.at_stop();
        let last: Vec<_> = view.rw.iter().map(|member| (member, dirty.log.number_store())).collect();
        let storing = last.into_iter().filter_map(|(member, store)| {
            let open = self.members.get(member)?;
            let record = DirtyRecord { released: true, ..self.dirty.as_ref()?.record(store, regions) };
            let stored = self.host.persist_dirty(open, DirtyOrder::Replace(record));
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
        let stored = self.tokio.spawn(join_all(storing.collect::<Vec<_>>()));
        let _ = stored.await;
    }
}
