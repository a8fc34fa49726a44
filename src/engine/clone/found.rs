//! What an engine that comes up finds of a full copy into its replica: one that runs is followed again, one that was cut
//! short is told.

use std::sync::Arc;

use crate::engine::attach::ReplicaPath;
use crate::engine::instance::Engine;
use crate::error::Error;
use crate::replica::rebuild::CopyState;

/// A full copy that has not come to its end.
pub(in crate::engine) enum CopyFound {
    /// It runs, into this replica.
    Running(Arc<ReplicaPath>),
    /// It failed or was interrupted: the replica has no head until it is cloned into again.
    CutShort(Error),
}

impl Engine {
    /// The full copy into the engine's one replica. `None` also when nobody can tell; then the replica cannot take part either.
    pub(in crate::engine) async fn copy_found(&self) -> Option<CopyFound> {
        let replicas = self.published().replicas;
        let (replica, listed) = replicas.iter().next().filter(|_| replicas.len() == 1)?;
        let path = self.path(replica).ok();
        let backend = match &path {
            Some(path) => path.backend.clone(),
            // One of this node that does not run has no path.
            None if listed.address.ip() == self.context.data_ip => self.context.local.backend(replica),
            None => return None,
        };
        let copy = backend.clone_progress().await.ok()?;
        match copy.state {
            CopyState::Starting | CopyState::InProgress => path.map(CopyFound::Running),
            // A later rebuild has made it whole, or another copy.
            CopyState::Error if backend.describe().await.ok()?.rebuilding => {
                Some(CopyFound::CutShort(Error::precondition(format!("replica {replica}"), copy.error)))
            }
            CopyState::Error | CopyState::Complete | CopyState::Idle => None,
        }
    }
}
