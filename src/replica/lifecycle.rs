//! A replica's start, stop and deletion.

use std::num::NonZeroU16;

use super::Replicas;
use super::attributes::{self, key_of, now_text, text_value};
use super::instance::{Replica, Turn};
use super::record::ReplicaRecord;
use super::serving::Serving;
use super::view::ReplicaState;
use crate::name::LvolName;
use crate::ports::PortRangeGuard;
use crate::spdk::xattr::XattrChange;
use crate::{Error, Result};

impl Replicas {
    /// Makes the head what `spec_size` asks for, and exports it. A failure of the node leaves state error; what the
    /// caller did wrong is an error, and changes nothing.
    pub(super) async fn start(&self, turn: &mut Turn<'_>, spec_size: u64, ports: NonZeroU16) -> Result<()> {
        match turn.state() {
            ReplicaState::Running => return Err(Error::exists("replica", &turn.replica.name)),
            ReplicaState::Pending | ReplicaState::Stopped => {}
            state => {
                return Err(Error::precondition(
                    turn.replica.object(),
                    format!("it is in state {}; delete it before it is created again", state.as_str()),
                ));
            }
        }
        turn.refresh().await?;
        if let Some(head) = &turn.work.tree.head
            && head.spec_size > spec_size
        {
            let problem = format!("its head has {} bytes, more than the {spec_size} asked for", head.spec_size);
            return Err(Error::precondition(turn.replica.object(), format!("{problem}; it is kept as it is")));
        }
        if let Err(error) = self.start_new(turn, spec_size, ports).await {
            turn.fail(&error);
        }
        Ok(())
    }

    async fn start_new(&self, turn: &mut Turn<'_>, spec_size: u64, port_count: NonZeroU16) -> Result<()> {
        let replica = turn.replica;
        ensure_head(turn, spec_size).await?;
        let ports = self.ports().allocate(port_count)?;
        let (name, disk, port) = (replica.name.clone(), replica.disk.uuid(), ports.first());
        self.bring_up(turn, ports).await?;
        self.records().write(|| Some(ReplicaRecord { name, disk, port, port_count })).await
    }

    /// Starts a replica of the last run again, on the ports it had. A failure leaves state error.
    pub(super) async fn start_again(&self, turn: &mut Turn<'_>, record: &ReplicaRecord) {
        let started = async {
            if turn.work.tree.head.is_none() {
                return Err(Error::precondition(turn.replica.object(), "its head is lost; create it again"));
            }
            let ports = self.ports().reserve(record.port, record.port_count)?;
            self.bring_up(turn, ports).await
        };
        if let Err(error) = started.await {
            turn.fail(&error);
        }
    }

    /// Exports the head.
    async fn bring_up(&self, turn: &mut Turn<'_>, ports: PortRangeGuard) -> Result<()> {
        let replica = turn.replica;
        replica.disk.flush().await?;
        let alias = replica.store.alias(&replica.head());
        let serving =
            Serving::new(replica.store.control(), &replica.name, &replica.disk, alias, self.data_ip(), ports)?;
        serving.start().await?;
        turn.work.serving = Some(serving);
        turn.set_state(ReplicaState::Running);
        turn.refresh().await
    }

    /// Stops the export and gives the ports back; the data stays, and nothing starts it again.
    pub(super) async fn stop(&self, turn: &mut Turn<'_>) -> Result<()> {
        self.halt(turn).await?;
        self.records().remove(turn.replica.name.as_str()).await
    }

    /// As [`Self::stop`], until the next start of the node.
    pub(super) async fn halt(&self, turn: &mut Turn<'_>) -> Result<()> {
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

    /// Stops the replica and deletes its head and all its snapshots.
    pub(super) async fn remove(&self, turn: &mut Turn<'_>) -> Result<()> {
        turn.set_state(ReplicaState::Terminating);
        let removed = self.try_remove(turn).await;
        if let Err(error) = &removed {
            turn.fail(error);
        }
        removed
    }

    async fn try_remove(&self, turn: &mut Turn<'_>) -> Result<()> {
        if let Some(serving) = turn.work.serving.take() {
            let stopped = serving.stop().await;
            if let Err(error) = stopped {
                turn.work.serving = Some(serving);
                return Err(error);
            }
        }
        turn.refresh().await?;
        let replica = turn.replica;
        if turn.work.tree.head.is_some() {
            replica.store.delete(&replica.head()).await?;
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
        replica.disk.flush().await?;
        self.records().remove(replica.name.as_str()).await?;
        turn.work.gone = true;
        Ok(())
    }
}

/// The head as it is to be: found and grown, continued from the newest snapshot, or new.
async fn ensure_head(turn: &mut Turn<'_>, spec_size: u64) -> Result<()> {
    let replica = turn.replica;
    let head = replica.head();
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
            replica.store.create(&head, spec_size).await?;
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
    let changes = vec![
        XattrChange::set(key_of(attributes::REPLICA), text_value(replica.name.as_str())?),
        XattrChange::set(key_of(attributes::CREATED), text_value(&now_text())?),
    ];
    replica.store.apply(lvol, changes).await
}
