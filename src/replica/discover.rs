//! What a disk that was just loaded has: its replicas, found again, and what an interrupted revert or rebuild
//! left, set right.

use std::sync::Arc;

use futures::future::join_all;

use super::Replicas;
use super::clone;
use super::instance::Replica;
use super::record::ReplicaRecord;
use super::snapshot::is_reverts;
use super::store::{Store, Survey};
use super::tree::replicas_in;
use super::view::ReplicaState;
use crate::disk::Disk;
use crate::name::LvolName;
use crate::{Error, Result};

impl Replicas {
    /// Adds the replicas of a disk. Those that ran when the node ended are started again, the others are stopped.
    pub(super) async fn discover(&self, disk: &Disk) -> Result<()> {
        let store = self.store(disk);
        let mut survey = store.survey().await?;
        if finish_reverts(&store, &survey).await? {
            survey = store.survey().await?;
        }
        if clone::has_unused_entry_points(&survey) {
            clone::sweep_in_turn(&store).await;
            survey = store.survey().await?;
        }
        let running = self.records().read_all().await.unwrap_or_else(|error| {
            tracing::error!(disk = %disk.name(), %error, "which replicas ran cannot be read; none is started");
            Vec::new()
        });
        let mut starts = Vec::new();
        for name in replicas_in(&survey) {
            let (changes, events) = (self.changes().clone(), self.telemetry().events.clone());
            let found = Replica::new(name.clone(), disk.clone(), store.clone(), changes, events);
            if let Some(mut turn) = found.try_turn() {
                turn.take(&survey);
                turn.set_state(ReplicaState::Stopped);
                if turn.work.tree.rebuild.is_some() {
                    turn.fail(&interrupted(&found));
                }
            }
            if !self.add_found(found.clone()) {
                tracing::error!(
                    replica = %name, disk = %disk.name(),
                    "a replica of this name is on another disk; this copy is left alone"
                );
                continue;
            }
            tracing::info!(replica = %name, disk = %disk.name(), "replica found");
            let record = running.iter().find(|record| record.name == name && record.disk == disk.uuid());
            starts.push(self.take_up(found, record));
        }
        // At the same time, as each waits for the disk's flush.
        join_all(starts).await.into_iter().collect()
    }

    async fn take_up(&self, found: Arc<Replica>, record: Option<&ReplicaRecord>) -> Result<()> {
        if let Some(record) = record {
            self.start_again(&mut found.turn().await?, record).await;
        }
        self.clear_leftovers(&found);
        tokio::spawn(async move { clone::clear(&found).await });
        Ok(())
    }
}

/// Why a replica whose rebuild the last run of the node did not complete cannot be used.
pub(super) fn interrupted(replica: &Replica) -> Error {
    let problem = match &replica.view().interrupted {
        Some(mark) => format!(
            "the copy of snapshot {} of replica {} into it was interrupted; delete it, or clone into it again",
            mark.snapshot, mark.source
        ),
        None => "a rebuild of it was interrupted; it is no copy of its volume until it is rebuilt".into(),
    };
    Error::precondition(replica.object(), problem)
}

/// A revert that ended early, or a step of a rebuild that works alike, has left its next head. With the old head
/// still there it is undone, else it is finished.
/// True when something was changed.
async fn finish_reverts(store: &Store, survey: &Survey) -> Result<bool> {
    let mut changed = false;
    for facts in survey.iter().filter(|facts| !facts.is_snapshot && is_reverts(&facts.lvol)) {
        let head = facts.attributes.replica.as_ref().map(LvolName::head);
        let lost = head.filter(|head| !survey.iter().any(|other| other.lvol == *head));
        match lost {
            Some(head) => {
                tracing::warn!(lvol = %facts.lvol, %head, "an interrupted exchange of a head is finished");
                store.rename(&facts.lvol, &head).await?;
            }
            None => {
                tracing::warn!(lvol = %facts.lvol, "an interrupted exchange of a head is undone");
                store.delete(&facts.lvol).await?;
            }
        }
        changed = true;
    }
    Ok(changed)
}
