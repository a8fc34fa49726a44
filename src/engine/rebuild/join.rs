//! From a replica that has all snapshots to a member in sync: it joins write-only, its head is filled under clients' writes,
//! and it is flushed. Or it leaves again, as there are newer snapshots.

use std::ops::Range;
use std::time::Duration;

use super::Rebuild;
use super::round::Round;
use crate::engine::attach;
use crate::engine::backend::{Attribute, HeadMap};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::ResyncProgress;
use crate::mirror::core::MemberIndex;

/// How long a member that leaves for another round may take: its connection is closed, and the others store a generation.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);

impl Rebuild {
    /// The new head gets every write from here on.
    pub(super) async fn join(&self, round: &Round) -> Result<MemberIndex> {
        let (context, target) = (&self.engine.context, &round.target);
        let mirror = self.engine.mirror()?;
        let member = attach::open(&context.control, target, context.limits.attach).await?;
        let joined = mirror.add_member(member).await;
        match &joined {
            Ok(_) => self.engine.apply(&mirror.status()),
            Err(_) if target.local.is_none() => {
                attach::detach(&context.control, &target.replica, false).await;
            }
            Err(_) => {}
        }
        joined
    }

    /// Gives the new head what it missed. False when a snapshot was taken before it had all.
    pub(super) async fn fill_unless_overtaken(
        &self,
        round: &Round,
        place: MemberIndex,
        progress: &ResyncProgress,
    ) -> Result<bool> {
        tokio::select! {
            filled = self.fill(round, place, progress) => filled.map(|()| true),
            () = self.overtaken(round) => Ok(false),
        }
    }

    async fn fill(&self, round: &Round, place: MemberIndex, progress: &ResyncProgress) -> Result<()> {
        let control = &self.engine.context.control;
        let mirror = self.engine.mirror()?;
        faults::pass(Point::RebuildJoined).await?;
        let missed = self.ask_in_sync(Some(round), |backend| backend.head_map()).await?.answer;
        let ranges = ranges(&missed, self.engine.published().size);
        mirror.resync(control, place, ranges, progress).await?;
        faults::pass(Point::RebuildFilled).await
    }

    /// Waits until there is a snapshot that the round has not copied.
    async fn overtaken(&self, round: &Round) {
        let engine = &self.engine;
        let mut changes = engine.context.changes.watch();
        while engine.published().chain.snapshots.keys().all(|name| round.has(name)) {
            if changes.changed().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The new replica holds everything, durably, and is in sync. The caller holds the operation lock, and has seen that
    /// there is no newer snapshot.
    pub(super) async fn get_in_sync(&self, round: &Round, place: MemberIndex) -> Result<()> {
        let mirror = self.engine.mirror()?;
        mirror.flush_member(&self.engine.context.control, place).await?;
        // What was restored into the volume is in the new replica too.
        let marker = self.ask_in_sync(Some(round), |backend| backend.attribute(Attribute::Restore)).await?.answer;
        if let Some(marker) = marker {
            round.target.backend.set_attribute(Attribute::Restore, marker).await?;
        }
        mirror.member_synced(place).await
    }

    /// Takes the new replica out again. On return nothing has it open, and it can join anew.
    pub(super) async fn leave(&self, round: &Round) -> Result<()> {
        let (mirror, replica) = (self.engine.mirror()?, &round.target.replica);
        let mut status = mirror.watch();
        mirror.remove_member(replica).await?;
        let gone = status.wait_for(|status| status.member(replica).is_none());
        match tokio::time::timeout(LEAVE_LIMIT, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::precondition(self.object(), "the volume's mirror was stopped")),
            Err(_) => {
                let what = format!("the leave of replica {replica} from the mirror, for newer snapshots");
                Err(Error::Timeout { what, limit: LEAVE_LIMIT })
            }
        }
    }
}

/// The bytes of a volume that a head has of its own.
fn ranges(map: &HeadMap, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let bytes = move |cluster: u64| cluster * map.cluster_size..size.min((cluster + 1) * map.cluster_size);
    map.clusters.iter().map(bytes).filter(|range| !range.is_empty())
}
