//! Growing a volume: every replica, then the mirror over them.

use std::sync::Arc;

use futures::future::join_all;

use super::attach::{self, ReplicaPath};
use super::instance::Engine;
use crate::error::{Error, Result};
use crate::mirror::{Mirror, PauseGuard};

/// Sizes are whole clusters of the lvstore.
const CLUSTER: u64 = 1 << 20;

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
        Ok(size > published.size)
    }

    /// Grows the volume. Replicas that cannot grow leave the mirror; when none can, the volume stays as it is.
    pub async fn expand(self: &Arc<Self>, size: u64) -> Result<()> {
        // Without a mirror nothing can be said to have grown, though the replicas may have.
        self.mirror()?;
        if !self.expand_precheck(size)? {
            return Ok(());
        }
        let _operation = self.operations.try_lock().map_err(|_| {
            Error::precondition(self.object(), "another operation is in progress; repeat the expansion")
        })?;
        self.refuse_when_suspended("it is expanded")?;
        self.publish(|published| published.is_expanding = true);
        let result = self.grow(size).await;
        self.publish(|published| {
            published.is_expanding = false;
            published.expansion_failure = result
                .as_ref()
                .err()
                .map(|error| (error.to_string(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        });
        self.remember_change().await;
        result
    }

    /// Every replica grows in place; then the mirror, in a pause in which remote members are opened again. A replica that
    /// cannot grow leaves the mirror.
    async fn grow(self: &Arc<Self>, size: u64) -> Result<()> {
        let answers = self.on_all(|path| async move { path.backend.expand(size).await }).await;
        let some_grew = answers.iter().any(|(_, result)| result.is_ok());
        let settled = self.settle("expansion", answers).await;
        if !some_grew {
            return settled;
        }
        let mirror = self.mirror()?;
        let pause = mirror.pause(self.context.limits.pause).await?;
        self.open_remote_again(&mirror, &pause).await;
        let resized = mirror.resize(size / u64::from(mirror.geometry().block_size)).await;
        if let Err(error) = pause.resume().await {
            // Nothing depends on one point in time here; a member that client I/O met half-way is out.
            tracing::warn!(engine = %self.name, volume = %self.volume, %error, "an expansion took longer than its pause");
        }
        resized?;
        self.publish(|published| published.size = size);
        self.refresh_chain().await?;
        settled
    }

    /// SPDK 20.07's initiator reads a namespace's size only when it connects.
    async fn open_remote_again(&self, mirror: &Mirror, pause: &PauseGuard) {
        let remote = self.in_sync().into_iter().filter(|path| path.local.is_none());
        let reopened = join_all(remote.map(|path| async move {
            let result = self.open_again(mirror, pause, &path).await;
            (path, result)
        }));
        for (path, result) in reopened.await {
            if let Err(error) = result {
                self.expel(&path.replica, &error).await;
            }
        }
    }

    async fn open_again(&self, mirror: &Mirror, pause: &PauseGuard, path: &ReplicaPath) -> Result<()> {
        let status = mirror.status();
        let place = status.member(&path.replica).map(|member| member.place);
        let place = place.ok_or_else(|| Error::not_found("member", &path.replica))?;
        let control = &self.context.control;
        mirror.close_member(pause, place).await?;
        attach::detach(control, &path.replica, path.address, false).await;
        let member = attach::open(control, path, self.context.limits.attach).await?;
        mirror.open_member(pause, place, member).await
    }
}
