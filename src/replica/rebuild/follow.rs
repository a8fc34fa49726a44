//! The destination's side of a copy that runs at a source, for a rebuild or for a full copy: followed to its end.

use std::time::{Duration, Instant};

use super::types::{CopyProgress, CopyState};
use crate::name::{ReplicaAddress, ReplicaName, SnapshotName};
use crate::{Error, Result};

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(300);

/// What is copied, as errors name it.
pub(in crate::replica) struct Followed<'a> {
    pub(in crate::replica) source: &'a ReplicaName,
    pub(in crate::replica) source_address: ReplicaAddress,
    pub(in crate::replica) snapshot: &'a SnapshotName,
}

impl Followed<'_> {
    /// Asks how far the copy is until it is complete and durable, and tells of each answer before that. A source that does not
    /// answer, or does not get on, for `stall` has failed.
    pub(in crate::replica) async fn to_its_end<Answer: Future<Output = Result<CopyProgress>>>(
        &self,
        stall: Duration,
        ask: impl Fn() -> Answer,
        tell: impl Fn(&CopyProgress),
    ) -> Result<()> {
        let mut last = (CopyState::Starting, 0);
        let mut since = Instant::now();
        loop {
            let problem = match ask().await {
                Ok(progress) => {
                    match progress.state {
                        CopyState::Complete => return Ok(()),
                        CopyState::Error => return Err(self.failed(&format!("failed: {}", progress.error))),
                        CopyState::Idle => return Err(self.failed("is not known there any more")),
                        CopyState::Starting | CopyState::InProgress => tell(&progress),
                    }
                    let now = (progress.state, progress.copied_clusters);
                    // One that waits for its turn is as good as one that gets on: the source answers for it.
                    if now != last || progress.state == CopyState::Starting {
                        (last, since) = (now, Instant::now());
                    }
                    None
                }
                // The source's node was started anew, or the source was stopped.
                Err(error @ (Error::NotFound { .. } | Error::Precondition { .. })) => return Err(error),
                Err(error) => Some(error),
            };
            if since.elapsed() > stall {
                let what = format!("a step of the copy of snapshot {} from replica {}", self.snapshot, self.source);
                return Err(problem.unwrap_or(Error::Timeout { what, limit: stall }));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn failed(&self, problem: &str) -> Error {
        let from = format!("replica {} at {}", self.source, self.source_address);
        Error::peer(from, format!("its copy of snapshot {} {problem}", self.snapshot))
    }
}
