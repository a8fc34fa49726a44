//! What the replicas in sync know of restores, read and written on all of them. A replica that fails alone leaves the
//! mirror and the restore goes on with the others.

use std::sync::Arc;

use futures::future::join_all;

use super::marker::{RestoreMarker, Restored};
use crate::backup::RestoreOnto;
use crate::engine::attach::ReplicaPath;
use crate::engine::backend::{Attribute, ReplicaDescription};
use crate::engine::instance::Engine;
use crate::engine::snapshot::Answers;
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::name::{BackupName, ReplicaName, VolumeName};

/// What the volume holds before a restore.
pub(super) struct Before {
    /// For the plan.
    pub(super) onto: RestoreOnto,
    /// The last complete restore, to be kept in the marker until the next one is complete.
    pub(super) restored: Option<Restored>,
}

/// A replica's marker; an error names the replica.
pub(in crate::engine) fn parse_marker(replica: &ReplicaName, stored: Option<&[u8]>) -> Result<RestoreMarker> {
    RestoreMarker::parse(stored)
        .map_err(|problem| Error::Corruption { object: format!("the restore marker of replica {replica}"), problem })
}

impl Engine {
    /// What is known of the volume's content, for a restore of `backup` of `volume`.
    pub(super) async fn before_restore(&self, volume: &VolumeName, backup: &BackupName) -> Result<Before> {
        let mut markers = Vec::new();
        for path in self.in_sync() {
            let stored = path.backend.attribute(Attribute::Restore).await?;
            markers.push(parse_marker(&path.replica, stored.as_deref())?);
        }
        let Some(first) = markers.first() else {
            return Err(Error::precondition(self.object(), "no replica is in sync"));
        };
        let alike = markers.iter().all(|marker| marker == first);
        let onto = match first.base_of(volume, backup) {
            Some(base) if alike => RestoreOnto::Backup(base.backup.clone()),
            _ if alike && *first == RestoreMarker::default() && self.is_fresh().await? => RestoreOnto::Fresh,
            _ => RestoreOnto::Unknown,
        };
        Ok(Before { onto, restored: first.restored.clone() })
    }

    /// What each replica durably knows of restores, or why that is not known; by name.
    pub async fn restore_checkpoints(&self) -> Vec<(Arc<ReplicaPath>, Result<RestoreMarker>)> {
        let asked = self.paths().into_iter().map(|path| async move {
            let stored = path.backend.attribute(Attribute::Restore).await;
            let marker = stored.and_then(|stored| parse_marker(&path.replica, stored.as_deref()));
            (path, marker)
        });
        join_all(asked).await
    }

    async fn is_fresh(&self) -> Result<bool> {
        Ok(self.describe_in_sync().await?.iter().all(|(_, description)| description.is_fresh()))
    }

    /// Stores the marker on every replica in sync.
    pub(super) async fn mark(&self, marker: &RestoreMarker) -> Result<()> {
        let answers = self.on_all(|path| {
            let value = marker.encode();
            async move {
                faults::pass(Point::MarkerBegins).await?;
                path.backend.set_attribute(Attribute::Restore, value).await?;
                faults::pass(Point::MarkerStored).await
            }
        });
        let answers = answers.await;
        self.settle_restore("restore marker", answers).await
    }

    /// As [`Engine::settle`], but without an error while a replica is left.
    pub(super) async fn settle_restore(&self, what: &str, answers: Answers) -> Result<()> {
        let some_succeeded = answers.iter().any(|(_, result)| result.is_ok());
        match self.settle(what, answers).await {
            Err(error) if some_succeeded => {
                tracing::warn!(engine = %self.name, %error, "a restore goes on without a replica");
                Ok(())
            }
            result => result,
        }
    }

    /// All replicas in sync as their nodes describe them now.
    pub(super) async fn describe_in_sync(&self) -> Result<Vec<(Arc<ReplicaPath>, ReplicaDescription)>> {
        let calls = self.in_sync().into_iter().map(|path| async move {
            let description = path.backend.describe().await;
            (path, description)
        });
        let (mut described, mut answers) = (Vec::new(), Vec::new());
        for (path, result) in join_all(calls).await {
            let answer = result.map(|description| described.push((path.clone(), description)));
            answers.push((path, answer));
        }
        self.settle_restore("description", answers).await?;
        Ok(described)
    }

    /// Forgets what was restored: from now on the content is the client's. A replica that would remember it is not to
    /// be served, as a later restore would take it for what it no longer is.
    pub(in crate::engine) async fn clear_marker(&self) -> Result<()> {
        let answers = self.on_all(|path| async move { forget_restores(&path).await }).await;
        self.settle_restore("removal of the restore marker", answers).await
    }
}

/// Forgets what was restored into one replica.
pub(in crate::engine) async fn forget_restores(path: &ReplicaPath) -> Result<()> {
    match path.backend.attribute(Attribute::Restore).await? {
        Some(value) if !value.is_empty() => path.backend.set_attribute(Attribute::Restore, Vec::new()).await,
        _ => Ok(()),
    }
}
