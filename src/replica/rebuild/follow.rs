//! The destination's side of a copy that runs at the source: asked for, and followed to its end.

use std::time::{Duration, Instant};

use super::board::Board;
use super::destination::CopyOrder;
use super::node::SourceNode;
use super::types::CopyState;
use crate::name::ReplicaName;
use crate::{Error, Result};

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(300);

/// Asks the source for a copy and returns when it is complete and durable. A source that does not answer, or does not get
/// on, for `stall` has failed.
pub(super) async fn follow(
    source: &SourceNode,
    destination: &ReplicaName,
    order: &CopyOrder,
    board: &Board,
    stall: Duration,
) -> Result<()> {
    source.copy_start(&order.source, &order.snapshot, order.address).await?;
    let mut last = (CopyState::Starting, 0);
    let mut since = Instant::now();
    loop {
        let problem = match source.copy_progress(&order.source, destination, &order.snapshot).await {
            Ok(progress) => {
                let failed = |problem: &str| {
                    let from = format!("replica {} at {}", order.source, order.source_address);
                    Err(Error::peer(from, format!("its copy of snapshot {} {problem}", order.snapshot)))
                };
                match progress.state {
                    CopyState::Complete => {
                        board.copy_complete();
                        return Ok(());
                    }
                    CopyState::Error => return failed(&format!("failed: {}", progress.error)),
                    CopyState::Idle => return failed("is not known there any more"),
                    CopyState::Starting | CopyState::InProgress => {}
                }
                let now = (progress.state, progress.copied_clusters);
                // One that waits for its turn is as good as one that gets on: the source answers for it.
                if now != last || progress.state == CopyState::Starting {
                    (last, since) = (now, Instant::now());
                }
                board.copied(&progress);
                None
            }
            // The source's node was started anew, or the source was stopped.
            Err(error @ (Error::NotFound { .. } | Error::Precondition { .. })) => return Err(error),
            Err(error) => Some(error),
        };
        if since.elapsed() > stall {
            let what = format!("a step of the copy of snapshot {} from replica {}", order.snapshot, order.source);
            return Err(problem.unwrap_or(Error::Timeout { what, limit: stall }));
        }
        tokio::time::sleep(POLL).await;
    }
}
