//! The driver's part in a rebuild: a new member joins write-only, ranges are locked while they are copied to it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::core::control::{Event, MemberMode};
use super::super::core::{Locality, MemberIndex};
use super::super::member::OpenedMember;
use super::super::range_gate::BlockRange;
use super::{CopyPaths, Driver, JOIN_PAUSE_LIMIT, LockId, LockPurpose, NextLock, RangeLock};
use crate::error::{Error, Result};

impl Driver {
    /// Opens the member on every reactor; the core lets it in at the next pause.
    pub(super) async fn add_member(&mut self, opened: OpenedMember, reply: oneshot::Sender<Result<MemberIndex>>) {
        match self.place_member(opened).await {
            Ok(member) => self.joining = Some((member, reply)),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn place_member(&mut self, opened: OpenedMember) -> Result<MemberIndex> {
        self.may_join()?;
        let member = self.members.add(opened.open.clone()).map_err(|error| self.refused(error.to_string()))?;
        let local = opened.open.locality == Locality::Local;
        if let Err(refusal) = self.core.handle(Event::AddMember { member, local }, &mut self.actions) {
            // It was added a moment ago, so it is not the only one.
            let _ = self.members.remove(member);
            return Err(self.refused(refusal.to_string()));
        }
        self.returned[member.get()] = None;
        self.open_member(member, opened).await;
        Ok(member)
    }

    /// One at a time, and none while members may differ.
    pub(super) fn may_join(&self) -> Result<()> {
        if self.joining.is_some() || self.core.status().members.contains(&Some(MemberMode::Wo)) {
            return Err(self.refused("another member is being rebuilt".into()));
        }
        if self.is_unequal() {
            return Err(
                self.refused("its members are being made equal after a crash; a new one must wait for that".into())
            );
        }
        Ok(())
    }

    /// Has all reactors open a member.
    pub(super) async fn open_member(&mut self, member: MemberIndex, opened: OpenedMember) {
        let opened = Arc::new(opened);
        self.opened[member.get()] = Some(opened.clone());
        self.watch_removal(member, &opened);
        if let Some(vdev) = &self.vdev {
            vdev.device().add_member(member, opened.clone());
            self.visited(vdev.for_each_channel(move |channel| channel.open_member(member, &opened)).await);
        }
    }

    /// Asks for the pause in which the new member joins. One that is on already does as well.
    pub(super) fn pause_to_join(&mut self) {
        if self.core.handle(Event::PauseRequested, &mut self.actions).is_ok() {
            self.pause_limit = JOIN_PAUSE_LIMIT;
        }
    }

    /// Whoever waits for this member to join or to become in sync learns that it will not.
    pub(super) fn tell_waiting(&mut self, member: MemberIndex, problem: &str) {
        if let Some((_, reply)) = self.joining.take_if(|(joining, _)| *joining == member) {
            let _ = reply.send(Err(self.refused(problem.to_owned())));
        }
        if let Some((_, reply)) = self.syncing.take_if(|(syncing, _)| *syncing == member) {
            let _ = reply.send(Err(self.refused(problem.to_owned())));
        }
        let waiting = match &mut self.range {
            Some(RangeLock { purpose: LockPurpose::Copy { target, waiting }, .. }) if *target == member => {
                waiting.take()
            }
            _ => None,
        };
        let next = self.next_lock.take_if(|next| next.target == member).map(|next| next.reply);
        for waiting in waiting.into_iter().chain(next) {
            let _ = waiting.send(Err(self.refused(problem.to_owned())));
        }
    }

    /// Locks a range for a copy to `target`; the reply comes when no change from before is in flight. Refused while the
    /// range before it is locked or has not been drained, as channels tell only two generations of changes apart.
    pub(super) async fn lock_range(
        &mut self,
        id: LockId,
        range: BlockRange,
        target: MemberIndex,
        reply: oneshot::Sender<Result<CopyPaths>>,
    ) {
        let draining = matches!(self.range, Some(RangeLock { purpose: LockPurpose::Drain, .. }));
        if draining && self.next_lock.is_none() {
            self.next_lock = Some(NextLock { id, range, target, reply });
            return;
        }
        let Some(vdev) = self.vdev.as_ref().filter(|_| self.range.is_none()) else {
            let _ = reply.send(Err(self.refused("another range is being copied; repeat the rebuild later".into())));
            return;
        };
        let device = vdev.device().clone();
        device.begin_lock(range);
        let each = device.clone();
        self.visited(vdev.for_each_channel(move |channel| channel.lock_range(&each, range)).await);
        let purpose = LockPurpose::Copy { target, waiting: Some(reply) };
        self.range = Some(RangeLock { id, purpose, drained: false, released: false });
        device.lock_announced();
    }

    /// No change from before the lock is in flight: whoever asked may copy.
    pub(super) async fn range_drained(&mut self) {
        let Some(lock) = &mut self.range else { return };
        lock.drained = true;
        if lock.released {
            self.range = None;
            return;
        }
        match &mut lock.purpose {
            LockPurpose::Copy { target, waiting } => {
                let (target, waiting) = (*target, waiting.take());
                if let Some(reply) = waiting {
                    let _ = reply.send(self.copy_paths(target));
                }
            }
            LockPurpose::Drain => {
                self.range = None;
                self.dirty_drained().await;
            }
        }
    }

    /// The readable members, those of this node first, and the target, which must be write-only still.
    pub(super) fn copy_paths(&self, target: MemberIndex) -> Result<CopyPaths> {
        let status = self.core.status();
        let in_mode = |mode| {
            let places = MemberIndex::all().filter(move |place| status.members[place.get()] == Some(mode));
            places.filter_map(|place| Some((place, self.opened[place.get()].clone()?)))
        };
        let written = in_mode(MemberMode::Wo).find(|(place, _)| *place == target);
        let (_, target) = written.ok_or_else(|| self.refused("the member is not being rebuilt any more".into()))?;
        let mut sources: Vec<_> = in_mode(MemberMode::Rw).map(|(_, opened)| opened).collect();
        sources.sort_by_key(|source| source.open.locality != Locality::Local);
        if sources.is_empty() {
            return Err(Error::precondition(format!("mirror {}", self.name), "no member can be read"));
        }
        Ok(CopyPaths { sources, target })
    }

    /// Lets changes of the range go on. Another lock than the one that is on is none of ours.
    pub(super) async fn unlock_range(&mut self, id: LockId) {
        if self.next_lock.take_if(|next| next.id == id).is_some() {
            return;
        }
        let Some(lock) = self.range.as_mut().filter(|lock| lock.id == id) else { return };
        lock.released = true;
        if lock.drained {
            self.range = None;
        }
        if let Some(vdev) = &self.vdev {
            let device = vdev.device().clone();
            device.end_lock();
            self.visited(vdev.for_each_channel(move |channel| channel.unlock_range(&device)).await);
        }
    }
}
