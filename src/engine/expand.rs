//! Growing a volume under its clients' I/O: every member, then the mirror over them, whose target tells the hosts.
//!
//! Nothing is taken down and nobody is paused. A member that has grown serves the old range as before; the new range is
//! the volume's only once every member that stays has it. One that does not grow is out, durably so before a write to the new
//! range is acknowledged. After an end of the node at any point the next start grows those that are behind
//! ([`super::probe::Probes::finish_expansion`]).

use std::sync::Arc;

use futures::future::join_all;

use super::attach;
use super::instance::Engine;
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::core::Locality;
use crate::mirror::core::control::MemberMode;
use crate::mirror::{Mirror, MirrorStatus};
use crate::name::{BdevName, ReplicaName};

/// Sizes are whole clusters of the lvstore.
const CLUSTER: u64 = 1 << 20;

/// Members that did not grow, and why.
type Failed = Vec<(ReplicaName, Error)>;

impl Engine {
    /// Whether an expansion to `size` bytes has anything to do; an error says why it cannot be.
    pub fn expand_precheck(&self, size: u64) -> Result<bool> {
        let published = self.published();
        if size < published.size {
            let problem =
                format!("{size} bytes are less than the volume has, {}; a volume cannot shrink", published.size);
            return Err(Error::invalid("size", problem));
        }
        if !size.is_multiple_of(CLUSTER) {
            return Err(Error::invalid("size", format!("{size} bytes are not a multiple of {CLUSTER}")));
        }
        if published.is_expanding {
            return Err(Error::precondition(self.object(), "expansion is in progress"));
        }
        if published.restore.is_restoring() {
            return Err(Error::precondition(self.object(), "restore is in progress"));
        }
        if let (Some(replica), true) = (&published.rebuilding, size > published.size) {
            let problem = format!("replica {replica} is being rebuilt; the expansion must wait for it");
            return Err(Error::precondition(self.object(), problem));
        }
        Ok(size > published.size)
    }

    /// Grows the volume. Members that cannot grow leave the mirror, with the reason in the list and in the text of the last
    /// failed expansion; when none can, that is the error, and the volume stays as it is.
    pub async fn expand(self: &Arc<Self>, size: u64) -> Result<()> {
        // Without a mirror nothing can be said to have grown, though the replicas may have.
        let mirror = self.mirror()?;
        if !self.expand_precheck(size)? {
            return Ok(());
        }
        let Ok(_operation) = self.operations.try_lock() else {
            self.expand_precheck(size)?;
            return Err(Error::precondition(self.object(), "another operation is in progress; repeat the expansion"));
        };
        // What holds the operations at times only may have begun in between.
        if !self.expand_precheck(size)? {
            return Ok(());
        }
        self.refuse_when_suspended("it is expanded")?;
        self.publish(|published| published.is_expanding = true);
        let result = self.grow(&mirror, size).await;
        let failure = match &result {
            Ok(failed) => failed.first().map(|(replica, error)| format!("replica {replica} could not grow: {error}")),
            Err(error) => Some(error.to_string()),
        };
        self.publish(|published| {
            published.is_expanding = false;
            published.expansion_failure =
                failure.map(|problem| (problem, jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        });
        self.remember_change().await;
        result.map(drop)
    }

    /// Returns who could not grow and is out, once the volume has its new size.
    async fn grow(&self, mirror: &Mirror, size: u64) -> Result<Failed> {
        let failed = self.grow_members(mirror, size).await?;
        for (replica, error) in &failed {
            self.expel(replica, error).await;
        }
        self.require_only_grown(mirror, &failed, size)?;
        faults::pass(Point::ExpansionSeen).await?;
        mirror.resize(size / u64::from(mirror.geometry().block_size)).await?;
        faults::pass(Point::ExpansionServed).await?;
        self.publish(|published| published.size = size);
        tracing::info!(engine = %self.name, volume = %self.volume, size, "a volume has grown");
        if let Err(error) = self.refresh_chain().await {
            tracing::warn!(engine = %self.name, volume = %self.volume, %error, "the snapshots could not be read again");
        }
        Ok(failed)
    }

    /// All that take part, at the same time. An error only when none of them can.
    async fn grow_members(&self, mirror: &Mirror, size: u64) -> Result<Failed> {
        let members = taking_part(&mirror.status());
        let grown = members.iter().map(|(replica, bdev)| async move {
            let result = tokio::select! {
                result = self.grow_member(replica, bdev, size) => result,
                () = has_left(mirror, replica) => {
                    let problem = "it left the mirror while it was to grow";
                    Err(Error::precondition(format!("replica {replica}"), problem))
                }
            };
            (replica.clone(), result)
        });
        let results = join_all(grown).await;
        let count = results.len();
        let failed: Failed =
            results.into_iter().filter_map(|(replica, result)| Some((replica, result.err()?))).collect();
        if failed.len() < count {
            return Ok(failed);
        }
        let now = self.published().size;
        match failed.into_iter().next() {
            Some((_, error)) => {
                Err(error.with_note(&format!("; no replica could grow, and the volume keeps its {now} bytes")))
            }
            None => Err(Error::precondition(self.object(), "no replica is in sync for the expansion")),
        }
    }

    /// Grows a member's replica, and waits until its bdev here shows that.
    async fn grow_member(&self, replica: &ReplicaName, bdev: &BdevName, size: u64) -> Result<()> {
        let path = self.path(replica)?;
        faults::pass(Point::ExpansionBegins).await?;
        let backend = path.backend.clone();
        // What has begun goes on to its end, also when it is not waited for any more.
        let grown = tokio::spawn(async move { backend.expand(size).await });
        grown.await.map_err(|error| Error::internal(format!("replica {replica}"), error.to_string()))??;
        let seen = attach::size_now(&self.context.control, &path, bdev, self.context.limits.attach).await?;
        if seen < size {
            let problem = format!("it has grown to {size} bytes, and its bdev {bdev} still has {seen}");
            return Err(Error::peer(format!("replica {replica}"), problem));
        }
        faults::pass(Point::ExpansionGrown).await
    }

    /// A member that did not grow would fail writes to the new range, so none may be left.
    fn require_only_grown(&self, mirror: &Mirror, failed: &Failed, size: u64) -> Result<()> {
        let status = mirror.status();
        let left = taking_part(&status);
        let small = failed.iter().find(|(replica, _)| left.iter().any(|(member, _)| member == replica));
        match small {
            None if left.is_empty() => {
                Err(Error::precondition(self.object(), "every replica that has grown was lost meanwhile"))
            }
            None => Ok(()),
            Some((replica, error)) => {
                let problem = format!("replica {replica} could not grow to {size} bytes and is the last one in sync");
                Err(Error::precondition(self.object(), format!("{problem}: {error}")))
            }
        }
    }
}

/// The members that get writes, those of this node first.
fn taking_part(status: &MirrorStatus) -> Vec<(ReplicaName, BdevName)> {
    let mut members: Vec<_> =
        status.members.iter().filter(|member| !matches!(member.mode, MemberMode::Err(_)) && !member.lost).collect();
    members.sort_by_key(|member| member.locality != Locality::Local);
    members.into_iter().map(|member| (member.replica.clone(), member.bdev.clone())).collect()
}

/// Waits until a member takes part no more: nothing it is waited for would help.
async fn has_left(mirror: &Mirror, replica: &ReplicaName) {
    let mut status = mirror.watch();
    // An error means that the mirror has stopped.
    let _ = status.wait_for(|status| !taking_part(status).iter().any(|(member, _)| member == replica)).await;
}
