//! A replica's start, stop and deletion.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::attributes::{self, now_text, setting};
use super::base::Base;
use super::clone;
use super::discover::interrupted;
use super::instance::{Replica, Turn};
use super::record::ReplicaRecord;
use super::serving::Serving;
use super::tree::LvolFacts;
use super::view::{ReplicaPorts, ReplicaState};
use super::{ReplicaRequest, Replicas};
use crate::backing_image::Outcome;
use crate::faults::{self, Point};
use crate::name::{BackingImageName, LvolName};
use crate::ports::PortRangeGuard;
use crate::{Error, Result};

impl Replicas {
    /// Makes the head what `spec_size` asks for, and exports it. A failure of the node leaves state error; what the
    /// caller did wrong is an error, and changes nothing.
    pub(super) async fn start(&self, turn: &mut Turn<'_>, spec_size: u64, request: &ReplicaRequest) -> Result<()> {
        match turn.state() {
            ReplicaState::Running => return Err(Error::exists("replica", &turn.replica.name)),
            ReplicaState::Pending | ReplicaState::Stopped => {}
            // It waits to be rebuilt, and needs its ports for that.
            ReplicaState::Error if turn.replica.view().rebuilding => {}
            state => {
                return Err(Error::precondition(
                    turn.replica.object(),
                    format!("it is in state {}; delete it before it is created again", state.as_str()),
                ));
            }
        }
        let survey = turn.replica.store.survey().await?;
        turn.take(&survey);
        let base = base_for(turn, &survey, spec_size, request.backing_image.as_ref())?;
        let tree = &turn.work.tree;
        let size = tree.head.as_ref().map(|head| head.spec_size).or(tree.rebuild.as_ref().map(|facts| facts.size));
        if let Some(size) = size.filter(|size| *size > spec_size) {
            let problem = format!("its head has {size} bytes, more than the {spec_size} asked for");
            return Err(Error::precondition(turn.replica.object(), format!("{problem}; it is kept as it is")));
        }
        if let Err(error) = self.start_new(turn, spec_size, request.port_count, &base).await {
            turn.fail(&error);
        }
        Ok(())
    }

    async fn start_new(&self, turn: &mut Turn<'_>, spec_size: u64, port_count: NonZeroU16, base: &Base) -> Result<()> {
        let replica = turn.replica;
        match turn.work.tree.rebuild.is_some() {
            // Its head is to be made by a rebuild.
            true => replica.store.grow(&replica.head(), spec_size).await?,
            false => ensure_head(turn, spec_size, base).await?,
        }
        replica.disk.flush().await?;
        let serving = match turn.work.serving.take() {
            // A rebuild that failed has kept them.
            Some(kept) => kept,
            None => self.serving(replica, self.ports().allocate(port_count)?)?,
        };
        let ReplicaPorts { first: port, last, .. } = serving.address();
        self.bring_up(turn, serving).await?;
        let (name, disk, port_count) =
            (replica.name.clone(), replica.disk.uuid(), NonZeroU16::MIN.saturating_add(last - port));
        self.records().write(|| Some(ReplicaRecord { name, disk, port, port_count })).await
    }

    /// Starts a replica of the last run again, on the ports it had. A failure leaves state error.
    pub(super) async fn start_again(&self, turn: &mut Turn<'_>, record: &ReplicaRecord) {
        let replica = turn.replica;
        if turn.work.tree.head.is_none() {
            // Its owner has to say what is to become of it.
            if turn.state() == ReplicaState::Stopped {
                turn.note(&Error::precondition(replica.object(), "it ran, and its head is lost; create it again"));
            }
            return;
        }
        let started = async {
            replica.disk.flush().await?;
            let serving = self.serving(replica, self.ports().reserve(record.port, record.port_count)?)?;
            self.bring_up(turn, serving).await
        };
        if let Err(error) = started.await {
            turn.fail(&error);
        }
    }

    fn serving(&self, replica: &Replica, ports: PortRangeGuard) -> Result<Serving> {
        let alias = replica.store.alias(&replica.head());
        Serving::new(replica.store.control(), &replica.name, &replica.disk, alias, self.data_ip(), ports)
    }

    /// Exports the head, if there is one yet.
    async fn bring_up(&self, turn: &mut Turn<'_>, serving: Serving) -> Result<()> {
        let replica = turn.replica;
        let waits = turn.work.tree.rebuild.is_some();
        if !waits {
            serving.start().await?;
        }
        turn.work.serving = Some(serving);
        turn.set_state(ReplicaState::Running);
        if waits {
            turn.note(&interrupted(replica));
        }
        turn.refresh().await
    }

    /// Ends what the replica does in rebuilds and clones, as destination and as source.
    async fn leave_copies(&self, turn: &mut Turn<'_>) -> Result<()> {
        turn.replica.copies.end_all().await?;
        if turn.work.clone.is_some() {
            turn.copy_break_off().await?;
        }
        turn.source_end().await?;
        let is_running = turn.work.rebuild.as_ref().map(|rebuild| rebuild.is_running());
        if let Some(is_running) = is_running {
            turn.rebuild_break_off().await?;
            if is_running {
                let what = format!("the rebuild of {}", turn.replica.object());
                turn.replica.board.fail(&Error::Canceled { what });
            }
            turn.work.rebuild = None;
        }
        Ok(())
    }

    /// Stops the export and gives the ports back; the data stays, and nothing starts it again.
    pub(super) async fn stop(&self, turn: &mut Turn<'_>) -> Result<()> {
        self.halt(turn).await?;
        self.records().remove(turn.replica.name.as_str()).await
    }

    /// As [`Self::stop`], until the next start of the node.
    pub(super) async fn halt(&self, turn: &mut Turn<'_>) -> Result<()> {
        if let Err(error) = self.leave_copies(turn).await {
            turn.fail(&error);
            return Err(error);
        }
        if let Some(serving) = turn.work.serving.take() {
            let stopped = serving.stop().await;
            if let Err(error) = stopped {
                turn.work.serving = Some(serving);
                turn.fail(&error);
                return Err(error);
            }
        }
        if turn.state() != ReplicaState::Pending {
            turn.refresh().await?;
            turn.set_state(ReplicaState::Stopped);
        }
        Ok(())
    }

    /// Leaves a replica whose disk has left the machine: nothing of it is exported any more, and it is not known. That it
    /// ran stays recorded, for when the disk comes back.
    pub(super) async fn give_up(&self, replica: &Arc<Replica>) {
        self.backups().cancel(Some(&replica.name));
        replica.hashes.cancel_all();
        let Ok(mut turn) = replica.turn().await else { return };
        match self.abandon(&mut turn).await {
            Ok(()) => {
                turn.work.gone = true;
                tracing::warn!(replica = %replica.name, disk = %replica.disk.name(), "a replica is gone with its disk");
                self.forget(replica);
            }
            Err(error) => turn.fail(&error),
        }
    }

    async fn abandon(&self, turn: &mut Turn<'_>) -> Result<()> {
        turn.replica.copies.end_all().await?;
        turn.source_end().await?;
        turn.rebuild_abandon().await?;
        if let Some(serving) = turn.work.serving.take()
            && let Err(error) = serving.stop().await
        {
            turn.work.serving = Some(serving);
            return Err(error);
        }
        Ok(())
    }

    /// Stops the replica and deletes its head and all its snapshots, and the entry point that it alone was based on. The
    /// caller has seen that nothing stands on it ([`Turn::begin_removal`]).
    pub(super) async fn remove(&self, turn: &mut Turn<'_>) -> Result<()> {
        let removed = self.try_remove(turn).await;
        if let Err(error) = &removed {
            turn.fail(error);
        }
        removed
    }

    async fn try_remove(&self, turn: &mut Turn<'_>) -> Result<()> {
        turn.replica.hashes.cancel_all();
        self.leave_copies(turn).await?;
        if let Some(serving) = turn.work.serving.take() {
            let stopped = serving.stop().await;
            if let Err(error) = stopped {
                turn.work.serving = Some(serving);
                return Err(error);
            }
        }
        turn.refresh().await?;
        let replica = turn.replica;
        let was_linked = turn.work.tree.linked.is_some();
        if turn.work.tree.head.is_some() {
            replica.store.delete(&replica.head()).await?;
        }
        let tree = &turn.work.tree;
        let leftovers: Vec<_> =
            tree.rebuilding.iter().chain(&tree.cloning).cloned().chain(tree.expired_leaves_first()).collect();
        for leftover in leftovers {
            match replica.store.delete(&leftover).await {
                // They may be deleted in the background at the same time.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            turn.refresh().await?;
            let leaf = turn.work.tree.snapshots.values().find(|node| node.children == 0);
            match leaf.map(|node| node.lvol.clone()) {
                Some(leaf) => replica.store.delete(&leaf).await?,
                None if turn.work.tree.snapshots.is_empty() => break,
                None => {
                    let problem = "something that is not the replica's (a clone) is based on one of its snapshots";
                    return Err(Error::precondition(replica.object(), problem));
                }
            }
        }
        // Last, so that an interrupted deletion leaves a replica that can be deleted again.
        if turn.work.tree.rebuild.is_some() {
            replica.store.delete(&replica.head()).await?;
        }
        if was_linked {
            faults::pass(Point::CloneDeleted).await?;
            clone::sweep_in_turn(&replica.store).await;
        }
        replica.disk.flush().await?;
        self.records().remove(replica.name.as_str()).await?;
        turn.work.gone = true;
        Ok(())
    }
}

/// What the replica stands on, or is to stand on when there is nothing of it yet.
fn base_for(turn: &Turn<'_>, survey: &[LvolFacts], spec_size: u64, asked: Option<&BackingImageName>) -> Result<Base> {
    let (replica, tree) = (turn.replica, &turn.work.tree);
    let Some(asked) = asked else { return Ok(tree.base.clone()) };
    if tree.base.backing_image() == Some(asked) {
        return Ok(tree.base.clone());
    }
    if tree.head.is_some() || tree.rebuild.is_some() || !tree.snapshots.is_empty() {
        let stands_on = tree.base.backing_image().map_or("no backing image".to_owned(), |name| format!("{name}"));
        return Err(Error::precondition(replica.object(), format!("it stands on {stands_on}, not on {asked}")));
    }
    let disk = replica.disk.name();
    let images = survey.iter().filter(|facts| facts.is_snapshot);
    let found = images.filter_map(|facts| Some((facts, facts.attributes.image.as_ref()?)));
    let Some((facts, image)) = found.into_iter().find(|(_, image)| image.name == *asked) else {
        return Err(Error::not_found("backing image", format!("{asked} on disk {disk}")));
    };
    if image.outcome != Some(Outcome::Ready) {
        let problem = format!("it is not ready, so replica {} cannot stand on it", replica.name);
        return Err(Error::precondition(format!("backing image {asked} on disk {disk}"), problem));
    }
    if facts.size > spec_size {
        let problem = format!("{spec_size} is less than the {} bytes of backing image {asked}", facts.size);
        return Err(Error::invalid("spec_size", problem));
    }
    Ok(Base::BackingImage { name: asked.clone(), lvol: facts.lvol.clone() })
}

/// The head as it is to be: found and grown, continued from the newest snapshot, or new above `base`.
async fn ensure_head(turn: &mut Turn<'_>, spec_size: u64, base: &Base) -> Result<()> {
    let replica = turn.replica;
    let head = replica.head();
    if turn.work.tree.is_partial() {
        let problem = "it has no head, and parts of a rebuild that did not come to its end; delete it";
        return Err(Error::precondition(replica.object(), problem));
    }
    let size = match (&turn.work.tree.head, turn.work.tree.newest_leaf()) {
        (Some(found), _) => found.spec_size,
        (None, Some(newest)) => {
            let (newest, size) = (newest.lvol.clone(), newest.view.spec_size);
            tracing::warn!(replica = %replica.name, snapshot = %newest, "a lost head is made anew from a snapshot");
            replica.store.clone_of(&newest, &head).await?;
            mark(replica, &head).await?;
            size
        }
        (None, None) => {
            replica.store.create_on(base, &head, spec_size).await?;
            mark(replica, &head).await?;
            spec_size
        }
    };
    if size < spec_size {
        replica.store.grow(&head, spec_size).await?;
    }
    Ok(())
}

/// Notes on a new head whose it is, and since when.
pub(super) async fn mark(replica: &Replica, lvol: &LvolName) -> Result<()> {
    let changes =
        vec![setting(attributes::REPLICA, replica.name.as_str())?, setting(attributes::CREATED, &now_text())?];
    replica.store.apply(lvol, changes).await
}
