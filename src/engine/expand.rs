//! Growing a volume: every replica, then the mirror over them.

use std::sync::Arc;

use super::instance::Engine;
use crate::error::{Error, Result};

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

    async fn grow(self: &Arc<Self>, size: u64) -> Result<()> {
        self.withdraw().await?;
        if let Some(mirror) = self.set_mirror(None) {
            mirror.stop().await?;
        }
        let answers = self.on_all(|path| async move { path.backend.expand(size).await }).await;
        let failed: Vec<_> = answers
            .iter()
            .filter_map(|(path, result)| Some((path.replica.clone(), result.as_ref().err()?.clone())))
            .collect();
        if failed.len() < answers.len() {
            self.publish(|published| published.size = size);
        }
        self.bring_up_again().await?;
        for (replica, error) in &failed {
            self.expel(replica, error).await;
        }
        self.export().await?;
        match failed.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }
}
