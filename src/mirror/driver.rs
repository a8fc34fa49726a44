//! Runs one mirror's control core on the control thread: reports and commands in, its actions carried out in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tokio::sync::{mpsc, oneshot, watch};

use super::activity::{self, Activity};
use super::core::control::{Action, Actions, Event, MemberMode, MirrorCore, Notice, OutReason, PauseId};
use super::core::dirty::Regions;
use super::core::{
    Assembly, Equalizer, FailureCause, Generation, HotMap, Incarnation, MAX_MEMBERS, MemberIndex, MemberOp, Members,
    ReadPolicy, UnequalMap, Waking,
};
use super::deadlines::DeadlineSettings;
use super::device::{MirrorDevice, Report};
use super::handle::{MirrorHost, MirrorStatus};
use super::member::OpenedMember;
use super::range_gate::BlockRange;
use crate::error::{Error, Result};
use crate::name::BdevName;
use crate::spdk::OnControl;
use crate::spdk::bdev::Geometry;
use crate::spdk::vdev::VdevHandle;
use dirty::Dirty;
use equalize::PieceCopy;
use persist::Persisting;
use sleep::Sleep;

mod command;
mod dirty;
mod equalize;
mod join;
mod persist;
mod returning;
mod sleep;

pub(super) use command::Command;
pub(super) use equalize::PieceOutcome;
pub(super) use sleep::{ClaimFailure, StoreFailure};

/// What is locked or held, and copied, at once: long enough that this is a small part of it, short enough that a client's I/O
/// there waits for milliseconds.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Pausing for a new member.
const JOIN_PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Everything a mirror starts from.
pub(super) struct Parts {
    pub(super) name: BdevName,
    pub(super) assembly: Assembly,
    pub(super) opened: [Option<Arc<OpenedMember>>; MAX_MEMBERS],
    pub(super) policy: ReadPolicy,
    pub(super) geometry: Geometry,
    pub(super) host: Arc<dyn MirrorHost>,
    pub(super) tokio: tokio::runtime::Handle,
    pub(super) deadlines: DeadlineSettings,
    pub(super) regions: Regions,
    /// A region without writes for so long is taken off the dirty log, or twice as long.
    pub(super) quiet: Option<Duration>,
    /// Members that fail may come back for what they missed.
    pub(super) awaits_returns: bool,
}

/// What a new member is copied from, best first, and where to.
pub(super) struct CopyPaths {
    pub(super) sources: Vec<Arc<OpenedMember>>,
    pub(super) target: Arc<OpenedMember>,
}

/// One lock of a range: a late unlock of an earlier one is recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockId(pub(super) u64);

/// The range that is locked, or was and still has changes from before it in flight.
struct RangeLock {
    id: LockId,
    purpose: LockPurpose,
    drained: bool,
    released: bool,
}

/// What a range is locked for.
enum LockPurpose {
    /// A copy to the target.
    Copy { target: MemberIndex, waiting: Option<oneshot::Sender<Result<CopyPaths>>> },
    /// Only to know that all changes from before have ended: no block is locked.
    Drain,
}

/// A range that is to be locked after the one that is.
struct NextLock {
    id: LockId,
    range: BlockRange,
    target: MemberIndex,
    reply: oneshot::Sender<Result<CopyPaths>>,
}

pub(super) struct Driver {
    on: OnControl,
    name: BdevName,
    core: MirrorCore,
    actions: Actions,
    members: Members,
    opened: [Option<Arc<OpenedMember>>; MAX_MEMBERS],
    /// What was open before and may have I/O under way still.
    closed: [Weak<OpenedMember>; MAX_MEMBERS],
    persisting: [Persisting; MAX_MEMBERS],
    /// Taken out for a failure that the core knows nothing of: their nodes may not answer either.
    failed: [bool; MAX_MEMBERS],
    policy: ReadPolicy,
    geometry: Geometry,
    vdev: Option<VdevHandle<MirrorDevice>>,
    host: Arc<dyn MirrorHost>,
    tokio: tokio::runtime::Handle,
    deadlines: DeadlineSettings,
    reports: (UnboundedSender<Report>, UnboundedReceiver<Report>),
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    status: watch::Sender<MirrorStatus>,
    started: Option<oneshot::Sender<Result<()>>>,
    pause_limit: Duration,
    pausing: Option<oneshot::Sender<Result<PauseId>>>,
    joining: Option<(MemberIndex, oneshot::Sender<Result<MemberIndex>>)>,
    /// Of the members that have returned, what their replicas were read to hold: nothing else may be declared void.
    returned: [Option<Generation>; MAX_MEMBERS],
    syncing: Option<(MemberIndex, oneshot::Sender<Result<()>>)>,
    range: Option<RangeLock>,
    next_lock: Option<NextLock>,
    paused_at: Option<Instant>,
    dirty: Option<Dirty>,
    equalizer: Equalizer,
    copies: Vec<PieceCopy>,
    /// How often a piece could be read from no member.
    unreadable: BTreeMap<u64, u32>,
    stopping: bool,
    sleep: Option<Sleep>,
    waking: Waking,
    /// Why what waits for the mirror to wake is to fail.
    could_not_wake: Option<String>,
    /// Why the last claim failed.
    claim_problem: String,
    /// Commands that wait until the mirror is awake.
    waiting: Vec<Command>,
    /// The number of the next order to a replica, while the mirror sleeps.
    stores: u32,
    incarnation: Incarnation,
    regions: Regions,
    quiet: Option<Duration>,
}

impl Driver {
    pub(super) fn new(
        on: OnControl,
        parts: Parts,
        status: watch::Sender<MirrorStatus>,
        started: oneshot::Sender<Result<()>>,
    ) -> Self {
        let mut actions = Actions::new();
        let core = match parts.quiet {
            Some(_) => MirrorCore::asleep(&parts.assembly).awaiting_returns(parts.awaits_returns),
            // Without a log there is nothing to claim.
            None => MirrorCore::start(&parts.assembly, &mut actions),
        };
        let waking = Waking::new(&parts.assembly);
        Self {
            on,
            name: parts.name,
            core,
            actions,
            members: parts.assembly.members,
            opened: parts.opened,
            closed: Default::default(),
            persisting: parts.assembly.holds.map(Persisting::after),
            failed: Default::default(),
            policy: parts.policy,
            geometry: parts.geometry,
            vdev: None,
            host: parts.host,
            tokio: parts.tokio,
            deadlines: parts.deadlines,
            reports: unbounded(),
            events: unbounded(),
            status,
            started: Some(started),
            pause_limit: Duration::ZERO,
            pausing: None,
            joining: None,
            returned: [None; MAX_MEMBERS],
            syncing: None,
            range: None,
            next_lock: None,
            paused_at: None,
            dirty: None,
            equalizer: Equalizer::default(),
            copies: Vec::new(),
            unreadable: BTreeMap::new(),
            stopping: false,
            sleep: parts.quiet.map(|_| Sleep::Asleep),
            waking,
            could_not_wake: None,
            claim_problem: String::new(),
            waiting: Vec::new(),
            stores: 0,
            incarnation: parts.assembly.incarnation,
            regions: parts.regions,
            quiet: parts.quiet,
        }
    }

    /// Serves until stopped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        if self.sleep.is_some() {
            self.register();
        }
        self.carry_out().await;
        for member in MemberIndex::all() {
            if let Some(opened) = &self.opened[member.get()] {
                self.watch_removal(member, opened);
            }
        }
        let mut questions = self.moments(Some(self.deadlines.period()));
        let mut quiet = self.moments(self.quiet);
        loop {
            let stop = tokio::select! {
                Some(()) = questions.recv() => { self.check_deadlines().await; None }
                Some(()) = quiet.recv() => { self.look_for_quiet_regions(); None }
                Some(report) = self.reports.1.next() => { self.report(report).await; None }
                Some(event) = self.events.1.next() => { self.event(event); None }
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    // The owner is gone without a stop, so nobody waits for the answer.
                    None => Some(oneshot::channel().0),
                },
            };
            self.carry_out().await;
            if let Some(reply) = stop {
                let result = self.stop().await;
                let _ = reply.send(result);
                return;
            }
        }
    }

    /// The moments to look at something, for as long as somebody listens. At most one waits: a late look is as good as two.
    fn moments(&self, period: Option<Duration>) -> mpsc::Receiver<()> {
        let (ask, moments) = mpsc::channel(1);
        let Some(period) = period else { return moments };
        self.tokio.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                if let Err(mpsc::error::TrySendError::Closed(())) = ask.try_send(()) {
                    return;
                }
            }
        });
        moments
    }

    async fn check_deadlines(&self) {
        if let Some(vdev) = self.vdev.as_ref().filter(|vdev| vdev.device().take_active()) {
            let device = vdev.device().clone();
            self.visited(vdev.for_each_channel(move |channel| channel.check_deadlines(&device)).await);
        }
    }

    async fn report(&mut self, report: Report) {
        match report {
            Report::MemberError { member, op, cause, error } => {
                let replica = self.members.get(member).map(|open| open.replica.to_string()).unwrap_or_default();
                self.host.member_error();
                tracing::warn!(mirror = %self.name, replica, ?op, ?cause, ?error, "I/O to a member failed");
                if let (MemberOp::Read, FailureCause::Medium, Some(vdev)) = (op, cause, &self.vdev) {
                    vdev.device().read_error_taken();
                }
                self.event(Event::MemberIoError { member, op, cause })
            }
            Report::MemberRemoved(member) => self.member_removed(member),
            Report::Quiesced(pause) => self.event(Event::ChannelsQuiesced { pause }),
            Report::RangeDrained => self.range_drained().await,
            Report::WakeWanted => self.begin_to_wake(),
            Report::Found { member, question, records } => self.found(member, question, records),
            Report::AskAgain(question) => self.ask_again(question),
            Report::Claimed { member, generation, outcome } => self.claimed(member, generation, outcome),
            Report::RegionsWanted => self.regions_wanted(),
            Report::DirtyStored { member, store, outcome } => self.dirty_stored(member, store, outcome),
            Report::DirtyFlushed { done } => self.dirty_flushed(done),
            Report::PieceWanted(piece) => self.piece_wanted(piece).await,
            Report::PieceLate { piece, times } => self.piece_late(piece, times),
            Report::PieceEnded { piece, outcome } => self.piece_ended(piece, outcome).await,
        }
    }

    /// Reports the removal of a member's device, for as long as it is open.
    fn watch_removal(&self, member: MemberIndex, opened: &OpenedMember) {
        let (mut removed, reports) = (opened.removed.clone(), self.reports.0.clone());
        self.tokio.spawn(async move {
            // An error means that it was closed, and then a mirror that has stopped listens no more.
            if removed.wait_for(|removed| *removed).await.is_ok() {
                let _ = reports.unbounded_send(Report::MemberRemoved(member));
            }
        });
    }

    fn member_removed(&mut self, member: MemberIndex) {
        // Another member may have its place by now.
        let Some(opened) = self.opened[member.get()].as_ref().filter(|opened| *opened.removed.borrow()) else { return };
        tracing::warn!(mirror = %self.name, replica = %opened.open.replica, bdev = %opened.open.bdev,
            "a member's bdev is going away");
        self.event(Event::MemberIoError { member, op: MemberOp::Write, cause: FailureCause::Gone });
    }

    fn event(&mut self, event: Event) {
        if let Event::FencePersisted { member, .. }
        | Event::FenceFailed { member, .. }
        | Event::FenceRefused { member, .. } = event
        {
            let persisting = &mut self.persisting[member.get()];
            persisting.running = false;
            if let Event::FencePersisted { generation, .. } = event {
                persisting.held = Some(generation);
            }
            self.persist_next(member);
        }
        if let Err(refusal) = self.core.handle(event, &mut self.actions) {
            tracing::warn!(mirror = %self.name, ?event, %refusal, "an event came too late");
        }
    }

    /// Returns the reply of a stop; everything else is answered here or by a later action.
    async fn command(&mut self, command: Command) -> Option<oneshot::Sender<Result<()>>> {
        if command.wakes() && !matches!(command, Command::Pause { rest: true, .. }) && self.is_superseded() {
            command.refuse(|| self.refused("another engine has gone on with its replicas".into()));
            return None;
        }
        if command.wakes() && self.sleep.is_some() {
            self.waiting.push(command);
            self.begin_to_wake();
            return None;
        }
        match command {
            Command::Wake { reply } => {
                let _ = reply.send(Ok(()));
            }
            Command::IsAsleep { reply } => {
                let asked = self.vdev.as_ref().is_some_and(|vdev| vdev.device().is_asked_to_wake());
                let _ = reply.send(Ok(matches!(self.sleep, Some(Sleep::Asleep)) && !asked));
            }
            Command::Sleep { reply } => {
                let result = self.fall_asleep().await;
                let _ = reply.send(result);
            }
            Command::Pause { limit, reply, .. } => match self.core.handle(Event::PauseRequested, &mut self.actions) {
                Ok(()) => {
                    self.pausing = Some(reply);
                    self.pause_limit = limit;
                }
                Err(refusal) => {
                    let _ = reply.send(Err(self.refused(refusal.to_string())));
                }
            },
            Command::Resume { pause, reply } => {
                let result = self.core.handle(Event::Resume { pause }, &mut self.actions);
                if let Some(reply) = reply {
                    let _ = reply.send(result.map_err(|refusal| self.refused(refusal.to_string())));
                }
            }
            Command::RemoveMember { member, failed, reply } => {
                let result = self.core.handle(Event::RemoveMember { member }, &mut self.actions);
                self.failed[member.get()] |= failed && result.is_ok();
                // Whoever asked looks at the status next.
                self.publish();
                let _ = reply.send(result.map_err(|refusal| self.refused(refusal.to_string())));
            }
            Command::AddMember { opened, reply } => self.add_member(opened, reply).await,
            Command::ReturnMember { opened, holds, reply } => self.return_member(opened, holds, reply).await,
            Command::Missed { member, reply } => drop(reply.send(self.missed(member))),
            Command::FailMember { member, reply } => {
                self.fail_member(member);
                let _ = reply.send(Ok(()));
            }
            Command::ForgetMember { member, reply } => {
                self.event(Event::MemberForgotten { member });
                let _ = reply.send(Ok(()));
            }
            Command::MemberSynced { member, reply } => {
                match self.core.handle(Event::MemberSynced { member }, &mut self.actions) {
                    Ok(()) => self.syncing = Some((member, reply)),
                    Err(refusal) => {
                        let _ = reply.send(Err(self.refused(refusal.to_string())));
                    }
                }
            }
            Command::CopyPaths { target, reply } => {
                let _ = reply.send(self.copy_paths(target));
            }
            Command::LockRange { lock, range, target, reply } => self.lock_range(lock, range, target, reply).await,
            Command::UnlockRange { lock, reply } => {
                self.unlock_range(lock).await;
                let _ = reply.send(());
            }
            Command::Resize { block_count, reply } => {
                let result = match &self.vdev {
                    Some(vdev) => vdev.resize(block_count).map_err(Error::from),
                    None => Err(self.refused("the mirror has not started".into())),
                };
                if result.is_ok() {
                    self.geometry.block_count = block_count;
                    self.members.resize(block_count * u64::from(self.geometry.block_size));
                }
                let _ = reply.send(result);
            }
            Command::Activity { reply } => {
                let activity = match &self.vdev {
                    Some(vdev) => activity::look(self.on, vdev, self.dirty_state()).await,
                    None => Ok(Activity::default()),
                };
                let _ = reply.send(activity);
            }
            Command::Stop { reply } => return Some(reply),
        }
        None
    }

    fn refused(&self, problem: String) -> Error {
        Error::precondition(format!("mirror {}", self.name), problem)
    }

    /// Whether another mirror has gone on with the replicas.
    fn is_superseded(&self) -> bool {
        self.core.status().superseded
    }

    async fn carry_out(&mut self) {
        loop {
            while !self.actions.is_empty() {
                for action in self.actions.drain() {
                    self.act(action).await;
                }
            }
            self.pump_waking().await;
            self.pump_waiting().await;
            if self.actions.is_empty() && self.could_not_wake.is_none() {
                break;
            }
        }
        self.pump_dirty().await;
        self.pump_pieces().await;
        self.publish();
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::SetIoView(view) => {
                // Before any channel can write by it.
                if let Some(dirty) = &mut self.dirty {
                    dirty.log.set_view(&view);
                }
                self.pump_dirty().await;
                if let Some(vdev) = &self.vdev {
                    vdev.device().set_view(view);
                    let device = vdev.device().clone();
                    self.visited(vdev.for_each_channel(move |channel| channel.apply(&device, view)).await);
                }
                if let Some(dirty) = &mut self.dirty {
                    dirty.log.view_in_force();
                }
                self.event(Event::ChannelsUpdated { epoch: view.epoch });
            }
            Action::PersistGeneration { member, generation, base, in_sync } => {
                let record = self.members.record(generation, base, in_sync);
                self.persisting[member.get()].next = Some(record);
                self.persist_next(member);
            }
            Action::CloseMember(member) => self.close(member).await,
            Action::PauseChannels(pause) => {
                self.paused_at = Some(Instant::now());
                if let Some(vdev) = &self.vdev {
                    let device = vdev.device().clone();
                    device.begin_pause(pause);
                    let each = device.clone();
                    self.visited(vdev.for_each_channel(move |channel| channel.pause(&each)).await);
                    device.pause_announced();
                }
                self.expire_later(pause);
            }
            Action::PauseGranted(pause) => {
                match self.pausing.take() {
                    Some(reply) => {
                        let _ = reply.send(Ok(pause));
                    }
                    // A pause for a new member: it has joined.
                    None => self.event(Event::Resume { pause }),
                }
            }
            Action::ResumeChannels(_) => {
                if let Some(paused_at) = self.paused_at.take() {
                    self.host.paused(paused_at.elapsed());
                }
                // Else channels stay paused until the mirror is awake.
                if let Some(vdev) = self.vdev.as_ref().filter(|_| self.sleep.is_none()) {
                    vdev.device().end_pause();
                    let device = vdev.device().clone();
                    self.visited(vdev.for_each_channel(move |channel| channel.resume(&device)).await);
                }
            }
            Action::Notify(notice) => self.notice(notice),
        }
    }

    /// A walk over channels fails only for want of memory for its own few bytes.
    fn visited(&self, result: std::result::Result<(), crate::spdk::SpdkError>) {
        if let Err(error) = result {
            tracing::error!(mirror = %self.name, %error, "channels could not be visited");
        }
    }

    async fn close(&mut self, member: MemberIndex) {
        if let Some(vdev) = &self.vdev {
            vdev.device().forget_member(member);
            self.visited(vdev.for_each_channel(move |channel| channel.close_member(member)).await);
        }
        let opened = self.opened[member.get()].take();
        self.closed[member.get()] = opened.as_ref().map(Arc::downgrade).unwrap_or_default();
        let open = opened.map(|opened| opened.open.clone());
        let mode = self.core.status().members[member.get()];
        let reported = std::mem::take(&mut self.failed[member.get()]);
        let failed = reported || !matches!(mode, Some(MemberMode::Err(OutReason::Removed)));
        let events = self.events.0.clone();
        let closing = open.map(|open| self.host.close(open, failed));
        self.tokio.spawn(async move {
            if let Some(closing) = closing {
                closing.await;
            }
            let _ = events.unbounded_send(Event::MemberClosed { member });
        });
    }

    fn expire_later(&self, pause: PauseId) {
        let (limit, events) = (self.pause_limit, self.events.0.clone());
        self.tokio.spawn(async move {
            tokio::time::sleep(limit).await;
            let _ = events.unbounded_send(Event::PauseTimedOut { pause });
        });
    }

    fn notice(&mut self, notice: Notice) {
        let replica = |member: MemberIndex| match self.members.get(member) {
            Some(open) => open.replica.to_string(),
            None => format!("place {}", member.get()),
        };
        let mirror = &self.name;
        match notice {
            Notice::Started(generation) => {
                tracing::info!(%mirror, %generation, "mirror started");
                match self.vdev {
                    Some(_) => self.is_claimed(),
                    None => self.register(),
                }
            }
            Notice::MemberOut(member, reason) => {
                self.host.member_out(reason);
                let replica = replica(member);
                tracing::warn!(%mirror, replica, ?reason, "a member is out of the mirror");
                self.tell_waiting(member, &format!("replica {replica} left the mirror: {reason:?}"));
            }
            Notice::ReadError(member) => {
                tracing::warn!(%mirror, replica = replica(member), "a read was served by another member");
            }
            Notice::LastMemberError(member) => {
                tracing::error!(%mirror, replica = replica(member), "the last member failed an I/O; the client was told");
            }
            Notice::LastMemberLate(member) => {
                tracing::error!(%mirror, replica = replica(member),
                    "the last member does not answer; client I/O waits for it for a while: look at its disk, its node \
                     and the network");
            }
            Notice::LastMemberLost(member, cause) => {
                tracing::error!(%mirror, replica = replica(member), ?cause, "the last member cannot be reached");
            }
            Notice::FenceStuck(member) => {
                tracing::error!(%mirror, replica = replica(member), "the last survivor could not store its generation");
                let problem = "no member could store its generation";
                if matches!(self.sleep, Some(Sleep::Claiming(_))) {
                    self.could_not_wake = Some(format!("{problem}: {}", self.claim_problem));
                } else if let Some(started) = self.started.take() {
                    let _ = started.send(Err(self.refused(problem.into())));
                }
            }
            Notice::StartRefused(member) => {
                let replica = replica(member);
                tracing::warn!(%mirror, replica, "a mirror does not start: another engine has gone on with a replica");
                if self.sleep.is_some() {
                    self.ask_anew();
                } else if let Some(started) = self.started.take() {
                    let problem = format!("another engine has gone on with replica {replica} meanwhile");
                    let _ = started.send(Err(self.refused(problem)));
                }
            }
            Notice::PauseExpired(pause) => {
                tracing::warn!(%mirror, ?pause, limit = ?self.pause_limit, "a pause was broken by its limit");
                if let Some(reply) = self.pausing.take() {
                    let what = format!("draining the I/O of mirror {mirror}");
                    let _ = reply.send(Err(Error::Timeout { what, limit: self.pause_limit }));
                } else if let Some((member, _)) = &self.joining {
                    let member = *member;
                    self.event(match self.returned[member.get()] {
                        // As if its node had not taken the order: it may come back once more.
                        Some(_) => Event::FenceFailed { member, generation: Generation::NONE },
                        None => Event::RemoveMember { member },
                    });
                }
            }
            Notice::Prepared(_) => self.pause_to_join(),
            Notice::Joined(member) => {
                tracing::info!(%mirror, replica = replica(member), "a new member takes writes");
                if let Some((_, reply)) = self.joining.take_if(|(joining, _)| *joining == member)
                    && reply.send(Ok(member)).is_err()
                {
                    // Whoever asked has given up, and nobody else would rebuild it.
                    self.event(Event::RemoveMember { member });
                }
            }
            Notice::Synced(member) => {
                tracing::info!(%mirror, replica = replica(member), "a member is in sync");
                if let Some((_, reply)) = self.syncing.take_if(|(syncing, _)| *syncing == member) {
                    let _ = reply.send(Ok(()));
                }
            }
            Notice::Superseded => {
                tracing::error!(%mirror, "another engine has gone on with its replicas; no I/O is served here any more");
            }
            Notice::Freed(member) => {
                let _ = self.members.remove(member);
            }
            other => tracing::info!(%mirror, notice = ?other, "mirror"),
        }
    }

    /// The generation is durable, or will be before any I/O: the mirror becomes a bdev.
    fn register(&mut self) {
        let block_bytes = self.geometry.block_size;
        let shift = (PIECE_BYTES / u64::from(block_bytes)).trailing_zeros();
        let unequal = UnequalMap::new([], self.geometry.block_count, shift);
        let hot = HotMap::new(self.regions, block_bytes);
        hot.set_all(self.sleep.is_none());
        let device = MirrorDevice::new(
            self.policy,
            self.deadlines,
            self.core.view(),
            self.opened.clone(),
            self.reports.0.clone(),
            hot,
            unequal,
        );
        if self.sleep.is_some() {
            device.sleep();
        }
        let uuid = uuid::Uuid::new_v4();
        let made = VdevHandle::create(self.on, &self.name, uuid, self.geometry, Arc::new(device));
        match made.map(|vdev| self.vdev = Some(vdev)) {
            Ok(()) if self.sleep.is_some() => self.wake_at_once(),
            result => {
                if let Some(started) = self.started.take() {
                    let _ = started.send(result.map_err(Error::from));
                }
            }
        }
    }

    fn publish(&self) {
        let status = MirrorStatus::of(&self.core.status(), &self.members, self.is_unequal());
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            if changed {
                *old = status;
            }
            changed
        });
    }

    async fn stop(mut self) -> Result<()> {
        if let Some(lock) = self.range.as_ref().map(|lock| lock.id) {
            self.unlock_range(lock).await;
        }
        self.end_copies().await;
        let result = match self.vdev.take() {
            Some(vdev) => vdev.destroy().await.map_err(Error::from),
            None => Ok(()),
        };
        if result.is_ok() {
            self.store_last_dirty().await;
        }
        let closing: Vec<_> = self
            .opened
            .iter_mut()
            .filter_map(Option::take)
            .map(|opened| self.host.close(opened.open.clone(), false))
            .collect();
        let closed = self.tokio.spawn(futures::future::join_all(closing));
        let _ = closed.await;
        result
    }
}
