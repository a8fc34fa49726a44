//! The driver's part in sleeping and waking. A mirror sleeps from its start, and after an orderly rest, until the first I/O of a
//! client or the first command that needs it awake: it has its members open and their generation raised, and stores and copies
//! nothing. So another mirror may go on with the same replicas until clients come here.
//!
//! Waking claims every member's replica: from then on the replica takes this mirror's records of dirty regions only. What the
//! replicas held dirty comes back with that, and is where the members may differ. A member that does not answer in time is out,
//! as if it had failed a write. If the last one does not, what waits fails, and the next I/O tries again. If another mirror has
//! gone on with any of them, this one is superseded: it serves no I/O any more.

use std::time::Duration;

use futures::future::BoxFuture;

use super::super::core::dirty::{FoundDirty, StoreId, unequal};
use super::super::core::{
    DirtyOrder, DirtyRecord, FailureCause, Generation, GenerationOrder, Incarnation, MemberIndex, MemberMask, MemberOp,
    OpenMember, RegionSet, ReplicaRecords, Replaces,
};
use super::super::device::Report;
use super::super::handle::MirrorHost;
use super::dirty::Dirty;
use super::{Driver, Event};
use crate::error::{Error, Result};
use crate::name::BdevName;

/// Why a mirror is not awake.
pub(super) enum Sleep {
    Asleep,
    Waking(Waking),
}

/// The claims of a mirror that wakes.
pub(super) struct Waking {
    store: StoreId,
    pending: MemberMask,
    claimed: Vec<(MemberIndex, Claimed)>,
}

/// What a replica answers to its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Claimed {
    found: DirtyRecord,
    /// No other mirror was assembled over it since this one.
    is_newest: bool,
}

/// How an order to a replica failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum StoreFailure {
    /// The member is to blame.
    Member(FailureCause),
    /// Another mirror has gone on with it.
    Superseded,
}

impl Driver {
    /// A client's I/O, or a command, waits until the mirror is awake.
    pub(super) fn begin_to_wake(&mut self) {
        if !matches!(self.sleep, Some(Sleep::Asleep)) {
            return;
        }
        let store = StoreId(self.stores);
        self.stores = self.stores.saturating_add(1);
        let members = self.core.view().written();
        for member in members.iter() {
            self.claim(member, store);
        }
        tracing::debug!(mirror = %self.name, "the mirror wakes");
        self.sleep = Some(Sleep::Waking(Waking { store, pending: members, claimed: Vec::new() }));
    }

    fn claim(&self, member: MemberIndex, store: StoreId) {
        let Some(open) = self.members.get(member) else { return };
        let (regions, incarnation) = (self.regions, self.incarnation);
        let record = DirtyRecord { regions, incarnation, sequence: store.0, dirty: RegionSet::EMPTY };
        let (host, open, reports) = (self.host.clone(), open.clone(), self.reports.0.clone());
        let (mirror, limit) = (self.name.clone(), self.deadlines.limit);
        self.tokio.spawn(async move {
            let claim = async {
                give_order(&*host, &open, DirtyOrder::Claim(record)).await?;
                let records = ask_again(|| host.records(&open)).await?;
                let is_newest = records.is_newest(incarnation);
                match records.dirty {
                    FoundDirty::Known(found) if found.incarnation == incarnation => {
                        Ok(Claimed { found: *found, is_newest })
                    }
                    _ => Err(Error::precondition(format!("replica {}", open.replica), "its claim is gone again")),
                }
            };
            let outcome = in_time(&mirror, &open, limit, claim).await;
            let outcome = match outcome {
                Err(cause) => {
                    Err(blame(&*host, &open, limit, cause, |found| found.may_be_claimed_by(incarnation)).await)
                }
                Ok(found) => Ok(Box::new(found)),
            };
            let _ = reports.unbounded_send(Report::Claimed { member, store, outcome });
        });
    }

    pub(super) fn claimed(
        &mut self,
        member: MemberIndex,
        store: StoreId,
        outcome: std::result::Result<Box<Claimed>, StoreFailure>,
    ) {
        let Some(Sleep::Waking(waking)) = &mut self.sleep else { return };
        if waking.store != store {
            return;
        }
        waking.pending = waking.pending.without(member);
        match outcome {
            Ok(found) => waking.claimed.push((member, *found)),
            Err(StoreFailure::Member(cause)) => {
                self.event(Event::MemberIoError { member, op: MemberOp::Write, cause });
            }
            Err(StoreFailure::Superseded) => self.event(Event::Superseded),
        }
    }

    /// Goes on when no member that counts owes an answer to its claim.
    pub(super) async fn pump_waking(&mut self) {
        let Some(Sleep::Waking(waking)) = &self.sleep else { return };
        if self.is_superseded() {
            return self.wake(&[]).await;
        }
        let view = self.core.view();
        let written = view.written();
        if !waking.pending.and(written).is_empty() {
            return;
        }
        let found: Vec<_> = waking.claimed.iter().filter(|(member, _)| written.contains(*member)).copied().collect();
        if !view.unfenced.is_empty() && found.iter().any(|(_, claimed)| !claimed.is_newest) {
            // Another mirror was assembled meanwhile, and may have gone on with the member that does not answer, and without these.
            return self.event(Event::Superseded);
        }
        match !found.is_empty() && found.len() == written.count() as usize {
            true => self.wake(&found).await,
            false => self.sleep_on().await,
        }
    }

    /// All members are claimed, or the mirror is superseded and has nothing to serve: I/O goes on.
    async fn wake(&mut self, found: &[(MemberIndex, Claimed)]) {
        let Some(vdev) = &self.vdev else { return };
        let device = vdev.device().clone();
        let view = self.core.view();
        let found: Vec<_> = found.iter().map(|(_, claimed)| FoundDirty::Known(Box::new(claimed.found))).collect();
        let regions = unequal(&found, self.regions, self.geometry.size());
        let block = u64::from(self.geometry.block_size);
        let ranges = self.regions.ranges(&regions, self.geometry.size());
        let ranges = ranges.map(|range| range.start / block..range.end.div_ceil(block));
        device.unequal().set(ranges, self.geometry.block_count);
        if device.unequal().left() > 0 {
            tracing::warn!(mirror = %self.name, pieces = device.unequal().left(), regions = regions.count(),
                "members may differ since the end of the last mirror; they are made equal");
        }
        device.hot().set_all(false);
        self.dirty = Some(Dirty::new(&view, regions, self.regions, self.incarnation, StoreId(self.stores)));
        self.sleep = None;
        device.wake();
        self.visited(vdev.for_each_channel(move |channel| channel.resume(&device)).await);
        self.event(Event::Woke);
    }

    /// Does what waited until the mirror was awake, and whoever left while it slept is durably out.
    pub(super) async fn pump_waiting(&mut self) {
        let view = self.core.view();
        let settled = view.unfenced.is_empty() || !view.writable;
        if self.waiting.is_empty() || self.sleep.is_some() || !settled {
            return;
        }
        for command in std::mem::take(&mut self.waiting) {
            // None of them is a stop.
            let _ = Box::pin(self.command(command)).await;
        }
    }

    /// The last member could not be claimed: what waits fails.
    async fn sleep_on(&mut self) {
        let Some(vdev) = &self.vdev else { return };
        tracing::error!(mirror = %self.name, "no member can be claimed; I/O fails, and the next one tries again");
        self.sleep = Some(Sleep::Asleep);
        let device = vdev.device().clone();
        device.sleep();
        self.visited(vdev.for_each_channel(move |channel| channel.fail_held(&device)).await);
        for command in std::mem::take(&mut self.waiting) {
            command.refuse(|| self.refused("no member can be claimed; repeat later".into()));
        }
    }

    /// In a pause, when no client's I/O runs: clears the records of the members and goes to sleep. What is being rebuilt keeps the
    /// mirror awake. An error when a member is out and the others do not know so durably: another mirror may count it, and what
    /// this one has sent to it may come late.
    pub(super) async fn fall_asleep(&mut self) -> Result<()> {
        let view = self.core.view();
        if self.sleep.is_some() || self.quiet.is_none() || self.is_superseded() {
            return Ok(());
        }
        if let Some(out) = view.unfenced.first().and_then(|member| self.members.get(member)) {
            let problem = format!(
                "replica {} failed and could not be put out durably, and another engine may count it; delete it there and this \
                 engine here",
                out.replica
            );
            return Err(self.refused(problem));
        }
        if !view.writable {
            return Err(self.refused("its last generation could not be stored".into()));
        }
        if !view.wo.is_empty() || self.joining.is_some() || self.range.is_some() {
            return Ok(());
        }
        self.end_copies().await;
        self.stopping = false;
        self.store_last_dirty().await;
        let (Some(dirty), Some(vdev)) = (self.dirty.take(), &self.vdev) else { return Ok(()) };
        self.stores = dirty.log.next_number().0;
        let device = vdev.device().clone();
        device.hot().set_all(false);
        device.unequal().set([], self.geometry.block_count);
        self.equalizer = Default::default();
        self.unreadable.clear();
        self.sleep = Some(Sleep::Asleep);
        device.sleep();
        tracing::info!(mirror = %self.name, "the mirror sleeps until the next I/O");
        self.visited(vdev.for_each_channel(move |channel| channel.ask_if_held(&device)).await);
        self.event(Event::Slept);
        Ok(())
    }
}

/// Between two attempts to reach a node that did not take the call.
const CALL_AGAIN: Duration = Duration::from_millis(100);

/// Gives an order to a replica. One that it has carried out already is the same again.
pub(super) async fn give_order(host: &dyn MirrorHost, open: &OpenMember, order: DirtyOrder) -> Result<()> {
    ask_again(|| host.persist_dirty(open, order.clone())).await
}

/// Makes a call that did not reach the node again, as a connection may have ended without a fault of the node. Limited by the caller.
async fn ask_again<T>(call: impl Fn() -> BoxFuture<'static, Result<T>>) -> Result<T> {
    loop {
        match call().await {
            Err(Error::Peer { .. }) => tokio::time::sleep(CALL_AGAIN).await,
            result => return result,
        }
    }
}

/// Waits for what was asked of a member's replica.
pub(super) async fn in_time<T>(
    mirror: &BdevName,
    open: &OpenMember,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> std::result::Result<T, FailureCause> {
    let replica = &open.replica;
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(%mirror, %replica, %error, "the dirty regions could not be stored");
            Err(FailureCause::Medium)
        }
        Err(_) => {
            tracing::warn!(%mirror, %replica, ?limit, "the dirty regions were not stored in time");
            Err(FailureCause::Deadline)
        }
    }
}

/// Why an order failed: the replica is asked whether it is this mirror's still.
pub(super) async fn blame(
    host: &dyn MirrorHost,
    open: &OpenMember,
    limit: Duration,
    cause: FailureCause,
    is_ours: impl FnOnce(&ReplicaRecords) -> bool,
) -> StoreFailure {
    match cause {
        FailureCause::Medium => match tokio::time::timeout(limit, host.records(open)).await {
            Ok(Ok(records)) if !is_ours(&records) => StoreFailure::Superseded,
            _ => StoreFailure::Member(cause),
        },
        FailureCause::Deadline | FailureCause::Gone => StoreFailure::Member(cause),
    }
}

/// The generation of another mirror that a member holds, which refused one of this one's: of one that sleeps, at a member that is
/// this one's still; or of any, while this one starts.
pub(super) async fn overtaken_by(
    host: &dyn MirrorHost,
    open: &OpenMember,
    limit: Duration,
    refused: &GenerationOrder,
    incarnation: Incarnation,
) -> Option<Generation> {
    let records = tokio::time::timeout(limit, host.records(open)).await.ok()?.ok()?;
    let is_ours = records.dirty.claimed_by() == Some(incarnation) && records.may_be_claimed_by(incarnation);
    let found = records.generation?.generation;
    let is_starting = matches!(refused.replaces, Replaces::Only(_)) && !refused.may_replace(Some(found));
    ((is_ours || is_starting) && found.incarnation() != incarnation).then_some(found)
}
