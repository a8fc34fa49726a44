//! What a replica was before a rebuild: set aside when it begins, used again where it can be, deleted when it is complete.
//!
//! At each moment the store tells by itself what is going on. A lvol in the head's place that carries
//! [`attributes::REBUILD`] says that there is no head and no whole chain. It comes there, and the new head takes its
//! place, in the steps of a revert, which a node that starts finishes or undoes (see [`crate::replica::discover`]).

use crate::name::LvolName;
use crate::replica::attributes::{self, now_text, removal, setting};
use crate::replica::base::Base;
use crate::replica::clone;
use crate::replica::instance::{Replica, Turn};
use crate::replica::snapshot::next_head_name;
use crate::spdk::xattr::XattrChange;
use crate::{Error, Result};

/// How often the deletion of a leftover is tried, each time after a pause.
const TRIES: u32 = 5;
const TRY_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

impl Turn<'_> {
    /// Takes the head out of service and sets all that the replica has aside. `record` is kept in the head's place, on an lvol
    /// that stands on `base`, as the new chain will.
    pub(super) async fn set_aside(&mut self, record: &str, base: &Base) -> Result<()> {
        let replica = self.replica;
        match &self.work.tree.rebuild {
            Some(placeholder) if placeholder.parent.as_ref() == base.lvol() => {
                replica.store.apply(&placeholder.lvol, vec![setting(attributes::REBUILD, record)?]).await?;
            }
            _ => drop(self.replace_head(record, base, Vec::new()).await?),
        }
        self.refresh().await?;
        if let Some(left) = self.work.tree.rebuilding.clone() {
            replica.store.delete(&left).await?;
        }
        let snapshots: Vec<_> =
            self.work.tree.snapshots.iter().map(|(name, node)| (name.clone(), node.lvol.clone())).collect();
        for (name, lvol) in snapshots {
            let marks = vec![
                setting(attributes::REPLICA, replica.name.as_str())?,
                setting(attributes::SNAPSHOT, name.as_str())?,
                setting(attributes::EXPIRED, "true")?,
            ];
            replica.store.apply(&lvol, marks).await?;
            replica.store.rename(&lvol, &LvolName::expired(&replica.name, rand::random())).await?;
        }
        replica.disk.flush().await?;
        self.refresh().await
    }

    /// Puts an empty lvol in the head's place that says that a rebuild is going on, and keeps what is `carried`. Returns what
    /// the head is from now on, unless it held nothing.
    pub(in crate::replica) async fn replace_head(
        &mut self,
        record: &str,
        base: &Base,
        carried: Vec<XattrChange>,
    ) -> Result<Option<LvolName>> {
        let replica = self.replica;
        let _attributes = replica.attributes.lock().await;
        if let Some(serving) = &self.work.serving {
            serving.stop().await?;
        }
        let next = next_head_name()?;
        replica.store.create_on(base, &next, replica.view().spec_size).await?;
        let mut marks = carried;
        marks.extend([
            setting(attributes::REPLICA, replica.name.as_str())?,
            setting(attributes::CREATED, &now_text())?,
            setting(attributes::REBUILD, record)?,
        ]);
        replica.store.apply(&next, marks).await?;
        replica.disk.flush().await?;
        let head = replica.head();
        let mut left = None;
        match &self.work.tree.head {
            Some(found) if self.work.tree.snapshots.is_empty() && found.actual_size == 0 => {
                replica.store.delete(&head).await?;
            }
            Some(_) => {
                let marks =
                    vec![setting(attributes::REPLICA, replica.name.as_str())?, setting(attributes::EXPIRED, "true")?];
                let expired = LvolName::expired(&replica.name, rand::random());
                replica.store.apply(&head, marks).await?;
                replica.store.rename(&head, &expired).await?;
                left = Some(expired);
            }
            None if self.work.tree.rebuild.is_some() => replica.store.delete(&head).await?,
            None => {}
        }
        replica.store.rename(&next, &head).await?;
        replica.disk.flush().await?;
        Ok(left)
    }

    /// Puts a new head above `newest` in place of the empty lvol: the end of the rebuild, durable.
    pub(super) async fn put_head(&mut self, newest: &LvolName) -> Result<()> {
        let replica = self.replica;
        let _attributes = replica.attributes.lock().await;
        let next = next_head_name()?;
        replica.store.clone_of(newest, &next).await?;
        let prepared = async {
            let marks =
                vec![setting(attributes::REPLICA, replica.name.as_str())?, setting(attributes::CREATED, &now_text())?];
            replica.store.apply(&next, marks).await?;
            replica.store.grow(&next, replica.view().spec_size).await?;
            replica.disk.flush().await
        };
        if let Err(error) = prepared.await {
            if let Err(undo) = replica.store.delete(&next).await {
                tracing::error!(replica = %replica.name, lvol = %next, %undo, "a head that was not used is left over");
            }
            return Err(error);
        }
        replica.store.delete(&replica.head()).await?;
        replica.store.rename(&next, &replica.head()).await?;
        replica.disk.flush().await
    }
}

/// What makes an lvol of before a snapshot of the rebuilt replica.
pub(super) fn no_longer_expired() -> XattrChange {
    removal(attributes::EXPIRED)
}

/// Deletes what a complete rebuild has left over. What cannot be deleted is tried again when the disk is loaded next.
pub(in crate::replica) async fn clear(replica: &Replica, is_stopping: impl Fn() -> bool) {
    let (_hold, leftovers) = {
        // Kept while marks are taken away: a further round of the rebuild puts them there again.
        let Ok(mut turn) = replica.turn().await else { return };
        if turn.refresh().await.is_err() || turn.work.tree.head.is_none() {
            return;
        }
        let tree = &turn.work.tree;
        let leftovers: Vec<_> = tree.rebuilding.iter().cloned().chain(tree.expired_leaves_first()).collect();
        if leftovers.is_empty() && tree.rebuilt.is_empty() {
            return;
        }
        let Ok(hold) = replica.disk.hold(format!("leftovers of replica {} are being deleted", replica.name)) else {
            return;
        };
        for lvol in &tree.rebuilt {
            if let Err(error) = replica.store.apply(lvol, vec![removal(attributes::REBUILT)]).await {
                tracing::warn!(replica = %replica.name, %lvol, %error, "a rebuilt snapshot keeps its mark");
            }
        }
        (hold, leftovers)
    };
    for lvol in leftovers {
        if is_stopping() {
            return;
        }
        match delete(replica, &lvol).await {
            Ok(()) => tracing::info!(replica = %replica.name, %lvol, "a leftover of before a rebuild is deleted"),
            Err(error) => tracing::warn!(replica = %replica.name, %lvol, %error, "a leftover could not be deleted"),
        }
    }
    // The replica may have been a linked clone before, and be none any more.
    clone::sweep_in_turn(&replica.store).await;
    if let Ok(mut turn) = replica.turn().await
        && let Err(error) = turn.refresh().await
    {
        turn.fail(&error);
    }
}

/// Deletes a head that an engine had begun to fill and that was set aside for a further round. What cannot be deleted now goes
/// with the other leftovers.
pub(super) async fn clear_unfinished(replica: &Replica, head: &LvolName) {
    let Ok(_hold) = replica.disk.hold(format!("leftovers of replica {} are being deleted", replica.name)) else {
        return;
    };
    match delete(replica, head).await {
        Ok(()) => {
            tracing::info!(replica = %replica.name, lvol = %head, "a head that was not filled to its end is deleted")
        }
        Err(error) => tracing::warn!(replica = %replica.name, lvol = %head, %error, "a leftover could not be deleted"),
    }
}

async fn delete(replica: &Replica, lvol: &LvolName) -> Result<()> {
    let mut tries = 1;
    loop {
        match replica.store.delete(lvol).await {
            Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(_) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(TRY_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}
