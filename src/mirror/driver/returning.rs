//! The driver's part in short outages: a member that failed is open again, joins write-only at its own place, and lacks what was
//! written since it left.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::super::core::control::Event;
use super::super::core::{FailureCause, Generation, MemberIndex, MemberOp};
use super::super::member::OpenedMember;
use super::Driver;
use crate::error::{Error, Result};

impl Driver {
    /// Opens the member on every reactor; the core lets it in at the next pause.
    pub(super) async fn return_member(
        &mut self,
        opened: OpenedMember,
        holds: Generation,
        reply: oneshot::Sender<Result<MemberIndex>>,
    ) {
        let open = opened.open.clone();
        match self.place_returned(opened, holds).await {
            Ok(member) => self.joining = Some((member, reply)),
            Err(error) => {
                // Whoever asks again finds nothing attached.
                let closing = self.host.close(open, false);
                self.tokio.spawn(async move {
                    closing.await;
                    let _ = reply.send(Err(error));
                });
            }
        }
    }

    async fn place_returned(&mut self, opened: OpenedMember, holds: Generation) -> Result<MemberIndex> {
        self.may_join()?;
        let replica = &opened.open.replica;
        let member = self.members.find(replica).ok_or_else(|| Error::not_found("replica", replica))?;
        let pending = self.pending(member).await?;
        // Copies to it have it open.
        if pending > 0 || self.closed[member.get()].strong_count() > 0 {
            let problem = format!("I/O to replica {replica} from before it failed is under way still");
            return Err(self.refused(problem));
        }
        self.members.reopen(member, opened.open.clone()).map_err(|error| self.refused(error.to_string()))?;
        self.returned[member.get()] = Some(holds);
        if let Err(refusal) = self.core.handle(Event::MemberBack { member }, &mut self.actions) {
            return Err(self.refused(refusal.to_string()));
        }
        self.open_member(member, opened).await;
        Ok(member)
    }

    /// I/O that a member has not given back: what of it lands late must not come after what it is sent now.
    async fn pending(&self, member: MemberIndex) -> Result<u64> {
        let Some(vdev) = &self.vdev else { return Ok(0) };
        let sum: Arc<AtomicU64> = Arc::default();
        let each = sum.clone();
        let visited = vdev.for_each_channel(move |channel| {
            each.fetch_add(channel.pending(member).into(), Ordering::Relaxed);
        });
        visited.await?;
        Ok(sum.load(Ordering::Relaxed))
    }

    /// Where a member lacks something. Asked when it has joined, so that what was written before is in it.
    pub(super) fn missed(&self, member: MemberIndex) -> Result<Vec<Range<u64>>> {
        let dirty = self.dirty.as_ref();
        let missed =
            dirty.and_then(|dirty| Some(dirty.regions.ranges(dirty.log.missed(member)?, self.geometry.size())));
        missed.map(Iterator::collect).ok_or_else(|| self.refused("what a member has missed is not known".into()))
    }

    /// It leaves, and may come back.
    pub(super) fn fail_member(&mut self, member: MemberIndex) {
        self.event(Event::MemberIoError { member, op: MemberOp::Write, cause: FailureCause::Gone });
    }
}
