//! Whom a rebuild asks: a replica that is in sync. One that has left the mirror may answer still, and lacks what was written
//! since.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Rebuild;
use super::round::Round;
use crate::engine::attach::ReplicaPath;
use crate::engine::backend::{Backend, ReplicaDescription};
use crate::error::{Error, Result};
use crate::mirror::core::control::MemberMode;

/// An answer, and who gave it.
pub(super) struct Asked<T> {
    pub(super) path: Arc<ReplicaPath>,
    pub(super) answer: T,
}

impl Rebuild {
    /// A replica in sync as its node describes it; the source of the round if it is still in sync.
    pub(super) async fn describe_source(&self, round: Option<&Round>) -> Result<Asked<ReplicaDescription>> {
        self.ask_in_sync(round, |backend| backend.describe()).await
    }

    /// Asks a replica in sync, rather the source of the round than another. It was in sync still when it had answered, so
    /// what it says is true of the volume.
    pub(super) async fn ask_in_sync<T>(
        &self,
        round: Option<&Round>,
        ask: impl for<'a> Fn(&'a dyn Backend) -> BoxFuture<'a, Result<T>>,
    ) -> Result<Asked<T>> {
        let engine = &self.engine;
        let mut paths = engine.in_sync();
        paths.sort_by_key(|path| round.is_some_and(|round| round.source.replica != path.replica));
        let mut last = None;
        for path in paths {
            match ask(&*path.backend).await {
                Ok(answer) if self.is_in_sync(&path)? => return Ok(Asked { path, answer }),
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        let nobody = || Error::precondition(engine.object(), "no replica is in sync, so there is nothing to copy");
        Err(last.unwrap_or_else(nobody))
    }

    fn is_in_sync(&self, path: &ReplicaPath) -> Result<bool> {
        let status = self.engine.mirror()?.status();
        Ok(status.member(&path.replica).is_some_and(|member| member.mode == MemberMode::Rw && !member.lost))
    }

    /// Ends a replica's part as a source.
    pub(super) async fn finish_source(&self, source: &ReplicaPath) {
        if let Err(error) = source.backend.rebuild_source_finish(&self.addition.replica).await {
            tracing::warn!(replica = %source.replica, %error, "the source of a rebuild could not be released");
        }
    }
}
