//! Operations on a replica's snapshots, and on its size.

use uuid::Uuid;

use super::attributes::{self, key_of, now_text, text_value};
use super::instance::Turn;
use super::serving::Serving;
use crate::faults::{self, Point};
use crate::name::{LvolName, SnapshotLabels, SnapshotName};
use crate::spdk::xattr::XattrChange;
use crate::{Error, Result};

/// What a new snapshot carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// A user asked for it, so that only a user deletes it.
    pub user_created: bool,
    /// Its time, the same on all replicas; RFC 3339.
    pub timestamp: String,
    /// What its user noted with it.
    pub labels: SnapshotLabels,
}

/// What the lvol is called that will be in the head's place after a revert or a step of a rebuild, until the old one is
/// gone from there.
const REVERT_PREFIX: &str = "revert-";

impl Turn<'_> {
    /// Takes a snapshot of the head; durable when this returns, with all that was written before.
    pub(super) async fn snapshot_create(&mut self, snapshot: &SnapshotName, options: &SnapshotOptions) -> Result<()> {
        self.require_usable()?;
        self.refresh().await?;
        let replica = self.replica;
        if self.work.tree.snapshots.contains_key(snapshot) {
            return Err(Error::exists("snapshot", format!("{snapshot} of replica {}", replica.name)));
        }
        let user_created = if options.user_created { "true" } else { "false" };
        let mut carried = vec![
            (key_of(attributes::USER_CREATED), text_value(user_created)?),
            (key_of(attributes::SNAPSHOT_TIMESTAMP), text_value(&options.timestamp)?),
            (key_of(attributes::REPLICA), text_value(replica.name.as_str())?),
            (key_of(attributes::SNAPSHOT), text_value(snapshot.as_str())?),
            (key_of(attributes::CREATED), text_value(&now_text())?),
        ];
        if !options.labels.is_empty() {
            carried.push((key_of(attributes::LABELS), text_value(&options.labels.encode())?));
        }
        let lvol = LvolName::snapshot(&replica.name, snapshot);
        let taken = {
            // A snapshot and a change of attributes are both changes of the head's metadata.
            let _attributes = replica.attributes.lock().await;
            replica.store.snapshot(&replica.head(), &lvol, carried).await
        };
        let flushed = match taken {
            Ok(()) => replica.disk.flush().await,
            Err(error) => Err(error),
        };
        self.settle(flushed).await
    }

    /// Deletes a snapshot; its data goes to the one that is based on it. One that is not there is no error.
    pub(super) async fn snapshot_delete(&mut self, snapshot: &SnapshotName) -> Result<()> {
        self.require_usable()?;
        self.refresh().await?;
        let replica = self.replica;
        let _entry_points = replica.store.entry_points().await;
        self.remove_unused_entry_points().await?;
        let Some(node) = self.work.tree.snapshots.get(snapshot) else { return Ok(()) };
        if let Some(problem) = self.kept_because(snapshot) {
            return Err(Error::precondition(format!("snapshot {snapshot} of replica {}", replica.name), problem));
        }
        let lvol = node.lvol.clone();
        let deleted = match self.forget_hashes(snapshot).await {
            Ok(()) => replica.store.delete(&lvol).await,
            Err(error) => Err(error),
        };
        self.settle(deleted).await
    }

    /// Deletes each snapshot that no user asked for and nothing keeps.
    pub(super) async fn snapshot_purge(&mut self) -> Result<()> {
        self.require_usable()?;
        self.refresh().await?;
        let replica = self.replica;
        let _entry_points = replica.store.entry_points().await;
        self.remove_unused_entry_points().await?;
        let snapshots = self.work.tree.snapshots.iter();
        let system = snapshots.filter(|(name, node)| !node.view.user_created && self.kept_because(name).is_none());
        let system: Vec<_> = system.map(|(name, node)| (name.clone(), node.lvol.clone())).collect();
        let mut purged = Ok(());
        for (name, lvol) in system {
            purged = match self.forget_hashes(&name).await {
                Ok(()) => self.replica.store.delete(&lvol).await,
                Err(error) => Err(error),
            };
            if purged.is_err() {
                break;
            }
        }
        self.settle(purged).await
    }

    /// Makes the head what the snapshot is; exported on the same ports as before, with the attributes it had.
    ///
    /// The new head is complete before the old one goes, so an end of the process at any point loses neither; see
    /// [`super::discover`].
    pub(super) async fn snapshot_revert(&mut self, snapshot: &SnapshotName) -> Result<()> {
        self.require_usable()?;
        self.refresh().await?;
        let lvol = self.lvol_of(snapshot)?;
        let replica = self.replica;
        let _attributes = replica.attributes.lock().await;
        let next = self.revert_prepare(&lvol).await?;
        self.exchange_head(&next).await
    }

    /// Puts `next` in the head's place, in service if the head was. The caller holds the attributes.
    pub(super) async fn exchange_head(&mut self, next: &LvolName) -> Result<()> {
        let replica = self.replica;
        if let Some(serving) = &self.work.serving
            && let Err(error) = serving.stop().await
        {
            if let Err(undo) = replica.store.delete(next).await {
                tracing::error!(replica = %replica.name, lvol = %next, %undo, "the head of a revert is left over");
            }
            self.fail(&error);
            return Err(error);
        }
        let reverted = self.revert_replace(next).await;
        if let Err(error) = &reverted {
            self.fail(error);
            return reverted;
        }
        self.settle(reverted).await
    }

    /// The lvol that is to be the head: the snapshot's content, the head's size and attributes.
    pub(super) async fn revert_prepare(&mut self, snapshot: &LvolName) -> Result<LvolName> {
        let replica = self.replica;
        let head = replica.head();
        let next = next_head_name()?;
        replica.store.clone_of(snapshot, &next).await?;
        let prepared = async {
            let mut attributes = match &self.work.tree.head {
                Some(_) => replica.store.carried_attributes(&head).await?,
                None => Vec::new(),
            };
            attributes.push(XattrChange::set(key_of(attributes::REPLICA), text_value(replica.name.as_str())?));
            attributes.push(XattrChange::set(key_of(attributes::CREATED), text_value(&now_text())?));
            replica.store.apply(&next, attributes).await?;
            if let Some(found) = &self.work.tree.head {
                replica.store.grow(&next, found.spec_size).await?;
            }
            replica.disk.flush().await
        };
        match prepared.await {
            Ok(()) => Ok(next),
            Err(error) => {
                if let Err(undo) = replica.store.delete(&next).await {
                    tracing::error!(replica = %replica.name, lvol = %next, %undo, "the head of a revert is left over");
                }
                Err(error)
            }
        }
    }

    async fn revert_replace(&mut self, next: &LvolName) -> Result<()> {
        let replica = self.replica;
        let head = replica.head();
        if self.work.tree.head.is_some() {
            replica.store.delete(&head).await?;
        }
        replica.store.rename(next, &head).await?;
        replica.disk.flush().await?;
        match &self.work.serving {
            Some(serving) => serving.start().await,
            None => Ok(()),
        }
    }

    /// Grows the head under I/O; the export and who is connected stay. Snapshots keep their size.
    pub(super) async fn expand(&mut self, size: u64) -> Result<()> {
        self.require_usable()?;
        self.refresh().await?;
        let replica = self.replica;
        let cluster = replica.disk.cluster_size();
        if !size.is_multiple_of(cluster) {
            return Err(Error::invalid("size", format!("{size} is not a multiple of the cluster size, {cluster}")));
        }
        let now = replica.view().spec_size;
        if size < now {
            return Err(Error::invalid(
                "size",
                format!("{size} is less than the {now} bytes it has; it never shrinks"),
            ));
        }
        let grown = self.grow_head(size).await;
        self.settle(grown).await
    }

    /// Durable before anybody is told: what is written to the new range must not lie beyond the end after a crash.
    async fn grow_head(&self, size: u64) -> Result<()> {
        let replica = self.replica;
        faults::pass(Point::ReplicaGrows).await?;
        replica.store.grow(&replica.head(), size).await?;
        faults::pass(Point::ReplicaGrown).await?;
        replica.disk.flush().await?;
        match &self.work.serving {
            Some(serving) => Serving::resize(serving).await,
            None => Ok(()),
        }
    }

    /// After an operation: what is on the disk is shown whatever came of it, and an error is the caller's to know. The
    /// replica is in state error only when its disk cannot tell any more what it has.
    async fn settle(&mut self, result: Result<()>) -> Result<()> {
        let result = result.map_err(|error| match error {
            Error::NoSpace { object, problem } => {
                Error::NoSpace { object: format!("{object} of replica {}", self.replica.name), problem }
            }
            other => other,
        });
        if let Err(error) = &result {
            tracing::warn!(replica = %self.replica.name, %error, "an operation on a replica failed");
        }
        if let Err(unknown) = self.refresh().await {
            self.fail(&unknown);
            return result.and(Err(unknown));
        }
        result
    }
}

/// A name for an lvol that is to take the head's place: what a start of the node finds of it, it finishes or undoes.
pub(super) fn next_head_name() -> Result<LvolName> {
    let digits = Uuid::new_v4().simple().to_string();
    LvolName::parse(&format!("{REVERT_PREFIX}{}", &digits[..16]))
        .map_err(|error| Error::internal("name of a new head", error.to_string()))
}

/// Whether an lvol is the next head of a revert that did not come to its end.
pub(super) fn is_reverts(lvol: &LvolName) -> bool {
    lvol.as_str().starts_with(REVERT_PREFIX)
}
