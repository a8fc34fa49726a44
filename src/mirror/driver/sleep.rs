//! The driver's part in sleeping and waking. A mirror sleeps from its assembly, unless nobody may be using its replicas, and after an
//! orderly rest, until the first I/O of a client or the first command that needs it awake: it has its members open, and changes nothing on them. So another mirror may
//! serve the same replicas until clients come here.
//!
//! Waking asks every member's replica what it holds ([`Waking`]), then raises the generation over those that lack nothing. With the
//! generation each replica is *claimed*: from then on it takes this mirror's orders only. It does both at once, and only
//! while it holds what it was read to hold; if another mirror was quicker, all are asked anew. What the replicas held dirty comes
//! back with the claim, and is where the members may differ. A member that does not answer in time is out, as if it had failed
//! a write, unless it may be the newest of all: then all are asked again for a while, before what waits fails and the next
//! I/O tries again. If another mirror has gone on with other replicas, this one is superseded: it serves no I/O any more.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::super::core::dirty::{FoundDirty, StoreId, unequal};
use super::super::core::{
    DirtyOrder, DirtyRecord, FailureCause, GenerationOrder, GenerationRecord, MAX_MEMBERS, MemberIndex, MemberMask,
    MemberOp, OpenMember, RegionSet, Replaces, ReplicaRecords, Verdict,
};
use super::super::device::Report;
use super::super::handle::MirrorHost;
use super::dirty::Dirty;
use super::{Driver, Event};
use crate::error::{Error, Result};
use crate::name::BdevName;

/// How long what waits for a mirror to wake is held while a member that may be the newest does not answer, or another mirror goes
/// on with them.
const WAKE_LIMIT: Duration = Duration::from_secs(20);
/// Until they are asked again.
const WAKE_AGAIN: Duration = Duration::from_millis(500);

/// Why a mirror is not awake.
pub(super) enum Sleep {
    Asleep,
    /// Members are asked what they hold.
    Asking(Asking),
    /// They are asked again in a moment.
    Waiting(Attempt),
    /// They are claimed.
    Claiming(Box<Claiming>),
}

/// One round of questions.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    question: StoreId,
    /// When the first one began.
    since: Instant,
}

pub(super) struct Asking {
    attempt: Attempt,
    pending: MemberMask,
    found: Vec<(MemberIndex, ReplicaRecords)>,
}

pub(super) struct Claiming {
    attempt: Attempt,
    /// What the members held dirty before.
    found: [Option<DirtyRecord>; MAX_MEMBERS],
    is_started: bool,
}

/// How a claim failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum ClaimFailure {
    /// The replica holds something else than what it was read to hold.
    Refused(String),
    /// It could not do it, or not in time.
    Member(String),
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
        if matches!(self.sleep, Some(Sleep::Asleep)) {
            tracing::debug!(mirror = %self.name, "the mirror wakes");
            self.ask_all(Instant::now());
        }
    }

    /// After its assembly: a mirror whose replicas nobody may be using does not sleep.
    pub(super) fn wake_at_once(&mut self) {
        self.ask_all(Instant::now());
    }

    /// Asks the members that count what they hold, and those that have left since, as far as they answer.
    fn ask_all(&mut self, since: Instant) {
        let question = self.number_order();
        let view = self.core.view();
        let asked = view.written().or(view.unfenced);
        for member in asked.iter() {
            self.ask(member, question);
        }
        self.sleep =
            Some(Sleep::Asking(Asking { attempt: Attempt { question, since }, pending: asked, found: Vec::new() }));
    }

    fn ask(&self, member: MemberIndex, question: StoreId) {
        let Some(open) = self.members.get(member) else { return };
        let (host, open, reports) = (self.host.clone(), open.clone(), self.reports.0.clone());
        let (mirror, limit) = (self.name.clone(), self.deadlines.limit);
        self.tokio.spawn(async move {
            let records = in_time(&mirror, &open, limit, call_again(|| host.records(&open))).await;
            let _ = reports.unbounded_send(Report::Found { member, question, records: records.map(Box::new) });
        });
    }

    pub(super) fn found(
        &mut self,
        member: MemberIndex,
        question: StoreId,
        records: std::result::Result<Box<ReplicaRecords>, FailureCause>,
    ) {
        let Some(Sleep::Asking(asking)) = &mut self.sleep else { return };
        if asking.attempt.question != question {
            return;
        }
        asking.pending = asking.pending.without(member);
        if let Ok(records) = records {
            asking.found.push((member, *records));
        }
    }

    /// The order that has a member hold that record, as part of a claim.
    pub(super) fn claim(&mut self, member: MemberIndex, open: OpenMember, record: GenerationRecord) {
        let store = self.number_order();
        let (regions, incarnation) = (self.regions, self.incarnation);
        let dirty = DirtyRecord { regions, incarnation, sequence: store.0, dirty: RegionSet::EMPTY, released: false };
        let generation = record.generation;
        let replaces = Replaces::Only(self.persisting[member.get()].held);
        let order = DirtyOrder::Claim(dirty, GenerationOrder { record, replaces });
        let (host, reports) = (self.host.clone(), self.reports.0.clone());
        let (mirror, limit) = (self.name.clone(), self.deadlines.limit);
        self.tokio.spawn(async move {
            let claim = async {
                give_order(&*host, &open, order).await?;
                let records = call_again(|| host.records(&open)).await?;
                match (records.held(), records.dirty) {
                    (held, FoundDirty::Known(found))
                        if held == Some(generation) && found.incarnation == incarnation =>
                    {
                        Ok(found)
                    }
                    _ => Err(Error::overtaken(format!("replica {}", open.replica), "its claim is gone again")),
                }
            };
            let replica = &open.replica;
            let outcome = match tokio::time::timeout(limit, claim).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error @ Error::Overtaken { .. })) => {
                    tracing::info!(%mirror, %replica, %error, "a replica has changed since it was asked");
                    Err(ClaimFailure::Refused(error.to_string()))
                }
                Ok(Err(error)) => {
                    tracing::warn!(%mirror, %replica, %error, "a replica could not be claimed");
                    Err(ClaimFailure::Member(error.to_string()))
                }
                Err(_) => {
                    tracing::warn!(%mirror, %replica, ?limit, "a replica was not claimed in time");
                    let what = format!("claiming replica {replica}");
                    Err(ClaimFailure::Member(Error::Timeout { what, limit }.to_string()))
                }
            };
            let _ = reports.unbounded_send(Report::Claimed { member, generation, outcome });
        });
    }

    pub(super) fn claimed(
        &mut self,
        member: MemberIndex,
        generation: super::Generation,
        outcome: std::result::Result<Box<DirtyRecord>, ClaimFailure>,
    ) {
        if let (Some(Sleep::Claiming(claiming)), Ok(found)) = (&mut self.sleep, &outcome) {
            claiming.found[member.get()] = Some(**found);
        }
        let event = match outcome {
            Ok(_) => Event::FencePersisted { member, generation },
            Err(ClaimFailure::Refused(problem)) => {
                self.claim_problem = problem;
                Event::FenceRefused { member, generation }
            }
            Err(ClaimFailure::Member(problem)) => {
                self.claim_problem = problem;
                Event::FenceFailed { member, generation }
            }
        };
        self.event(event);
    }

    /// The members are claimed and hold the generation.
    pub(super) fn is_claimed(&mut self) {
        if let Some(Sleep::Claiming(claiming)) = &mut self.sleep {
            claiming.is_started = true;
        }
    }

    /// Another mirror was quicker with a member, or one failed that may be the newest: all are asked anew.
    pub(super) fn ask_anew(&mut self) {
        if let Some(Sleep::Claiming(claiming)) = &self.sleep {
            let Attempt { since, .. } = claiming.attempt;
            match since.elapsed() < WAKE_LIMIT {
                true => self.ask_all(since),
                false => self.could_not_wake = Some(format!("its replicas change meanwhile: {}", self.claim_problem)),
            }
        }
    }

    pub(super) fn ask_again(&mut self, question: StoreId) {
        if let Some(Sleep::Waiting(attempt)) = self.sleep
            && attempt.question == question
        {
            self.ask_all(attempt.since);
        }
    }

    /// Goes on when no member owes an answer.
    pub(super) async fn pump_waking(&mut self) {
        if let Some(problem) = self.could_not_wake.take() {
            return self.sleep_on(&problem).await;
        }
        if self.sleep.is_some() && self.is_superseded() {
            return self.wake(&[]).await;
        }
        match &self.sleep {
            Some(Sleep::Asking(asking)) if asking.pending.is_empty() => self.judge().await,
            Some(Sleep::Claiming(claiming)) if claiming.is_started => {
                let rw = self.core.view().rw;
                let found: Vec<_> = rw.iter().filter_map(|member| claiming.found[member.get()]).collect();
                assert_eq!(found.len(), rw.count() as usize, "each member that counts was claimed");
                self.wake(&found).await;
            }
            _ => {}
        }
    }

    /// All members have answered, or have not in time.
    async fn judge(&mut self) {
        let Some(Sleep::Asking(asking)) = &mut self.sleep else { return };
        let (attempt, found) = (asking.attempt, std::mem::take(&mut asking.found));
        let named: Vec<_> = found
            .into_iter()
            .filter_map(|(member, records)| Some((member, self.members.get(member)?.replica.clone(), records)))
            .collect();
        let rw = self.core.view().rw;
        if !self.is_wanted_awake() && !self.waking.may_wake_at_once(&named, rw) {
            return self.sleep_until_asked();
        }
        let members = &self.members;
        let verdict = self.waking.judge(&named, rw, |replica| members.find(replica).is_some());
        match verdict {
            Verdict::Wakes(standing) => {
                for (member, _, records) in &named {
                    self.persisting[member.get()].held = records.held();
                }
                let claiming = Claiming { attempt, found: [None; MAX_MEMBERS], is_started: false };
                self.sleep = Some(Sleep::Claiming(Box::new(claiming)));
                let answered: MemberMask = named.iter().map(|(member, ..)| *member).collect();
                for member in rw.minus(answered).iter() {
                    let cause = FailureCause::Deadline;
                    self.event(Event::MemberIoError { member, op: MemberOp::Write, cause });
                }
                self.event(Event::Wakes(standing));
            }
            Verdict::Superseded => self.event(Event::Superseded),
            Verdict::Unsure(_) if !self.is_wanted_awake() => self.sleep_until_asked(),
            Verdict::Unsure(_) if attempt.since.elapsed() < WAKE_LIMIT => self.wait(attempt),
            Verdict::Unsure(lost) if lost.is_empty() => self.sleep_on("no replica in sync answers").await,
            Verdict::Unsure(lost) => {
                let lost: Vec<_> = lost.iter().map(|replica| replica.as_str()).collect();
                let problem = format!(
                    "replica {} does not answer, and the engine before this one may have gone on with it; bring it \
                     back, or create the engine anew without it",
                    lost.join(", ")
                );
                self.sleep_on(&problem).await;
            }
        }
    }

    /// All members are claimed, or the mirror is superseded and has nothing to serve: I/O goes on.
    async fn wake(&mut self, found: &[DirtyRecord]) {
        let Some(vdev) = &self.vdev else { return };
        let device = vdev.device().clone();
        let view = self.core.view();
        let found: Vec<_> = found.iter().map(|found| FoundDirty::Known(Box::new(*found))).collect();
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
        self.is_assembled();
    }

    /// Another mirror may be using the volume. I/O that came meanwhile wakes this one in any case.
    fn sleep_until_asked(&mut self) {
        self.sleep = Some(Sleep::Asleep);
        self.is_assembled();
        if self.is_wanted_awake() {
            self.begin_to_wake();
        }
    }

    /// Whether I/O or a command waits.
    fn is_wanted_awake(&self) -> bool {
        self.vdev.as_ref().is_some_and(|vdev| vdev.device().is_asked_to_wake()) || !self.waiting.is_empty()
    }

    fn wait(&mut self, attempt: Attempt) {
        tracing::warn!(mirror = %self.name, "the mirror cannot wake yet: a replica does not answer that may be the newest");
        self.sleep = Some(Sleep::Waiting(attempt));
        let reports = self.reports.0.clone();
        self.tokio.spawn(async move {
            tokio::time::sleep(WAKE_AGAIN).await;
            let _ = reports.unbounded_send(Report::AskAgain(attempt.question));
        });
    }

    fn is_assembled(&mut self) {
        if let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        }
    }

    /// Does what waited until the mirror was awake.
    pub(super) async fn pump_waiting(&mut self) {
        if self.waiting.is_empty() || self.sleep.is_some() {
            return;
        }
        for command in std::mem::take(&mut self.waiting) {
            // None of them is a stop.
            let _ = Box::pin(self.command(command)).await;
        }
    }

    /// The mirror could not wake: what waits fails.
    pub(super) async fn sleep_on(&mut self, problem: &str) {
        let Some(vdev) = &self.vdev else { return };
        tracing::error!(mirror = %self.name, problem, "the mirror cannot wake; I/O fails, and the next one tries again");
        self.sleep = Some(Sleep::Asleep);
        let device = vdev.device().clone();
        device.sleep();
        self.visited(vdev.for_each_channel(move |channel| channel.fail_held(&device)).await);
        for command in std::mem::take(&mut self.waiting) {
            command.refuse(|| self.refused(format!("it cannot wake: {problem}")));
        }
        self.event(Event::Slept);
        self.is_assembled();
    }

    fn number_order(&mut self) -> StoreId {
        let order = StoreId(self.stores);
        self.stores = self.stores.saturating_add(1);
        order
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
        if let Some(lost) = self.core.status().lost.first().and_then(|member| self.members.get(member)) {
            let problem = format!("replica {} cannot be reached, and what it was sent may come late", lost.replica);
            return Err(self.refused(problem));
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
/// How long they are made. Clients' writes may wait for it.
const UNREACHED_LIMIT: Duration = Duration::from_secs(2);

/// Gives an order to a replica. One that it has carried out already is the same again.
pub(super) async fn give_order(host: &dyn MirrorHost, open: &OpenMember, order: DirtyOrder) -> Result<()> {
    call_again(|| host.persist_dirty(open, order.clone())).await
}

/// Makes a call that did not reach the node again for a while, as a connection may have ended without a fault of the node. Limited by
/// the caller.
async fn call_again<T>(call: impl Fn() -> BoxFuture<'static, Result<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match call().await {
            Err(Error::Peer { .. }) if begun.elapsed() < UNREACHED_LIMIT => tokio::time::sleep(CALL_AGAIN).await,
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
            tracing::warn!(%mirror, %replica, %error, "a replica did not do what the mirror asked for");
            Err(FailureCause::Medium)
        }
        Err(_) => {
            tracing::warn!(%mirror, %replica, ?limit, "a replica did not answer the mirror in time");
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
