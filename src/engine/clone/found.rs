//! What an engine that comes up finds of a full copy into its replica: one that runs is followed again, one that was cut
//! short is told.

use std::sync::Arc;

use crate::engine::attach::ReplicaPath;
use crate::engine::backend::Attribute;
use crate::engine::instance::Engine;
use crate::engine::probe::parse_record;
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

    /// Takes over the generation that the volume has while a copy runs into it. Nobody can serve the volume meanwhile, so what the
    /// replica says then is as good as the engine's own: after a restart of the node the engine comes back by itself unless
    /// the generation has gone on, which only another engine can do. To be followed by [`Engine::remember`].
    pub(in crate::engine) async fn vouch_for_copy(&self, path: &ReplicaPath) {
        let stored = path.backend.attribute(Attribute::Generation).await;
        match stored.and_then(|stored| parse_record(&path.replica, stored)) {
            Ok(Some(record)) => self.set_incarnations(vec![record.generation.max(record.base).incarnation()]),
            // A replica that was in no mirror yet is anybody's.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(engine = %self.name, volume = %self.volume, replica = %path.replica, %error,
                    "the generation below a copy is not known; a restart of the node will not bring the engine back");
            }
        }
    }
}
