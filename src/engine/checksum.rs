//! Digests of a volume: of what its mirror serves, and of each replica on its own. All is read in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::SHA256;
use tokio::sync::OwnedSemaphorePermit;

use super::instance::Engine;
use super::state::EngineState;
use crate::digest::digest_device;
use crate::error::{Error, Result};
use crate::mirror::Mirror;
use crate::mirror::core::control::MemberMode;
use crate::name::{BdevName, ReplicaName};
use crate::spdk::BdevClient;

/// Checksums that a node makes at once; more are refused.
pub const CHECKSUMS_AT_ONCE: usize = 2;

/// How far a checksum is.
#[derive(Debug, Default)]
pub struct ChecksumProgress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl ChecksumProgress {
    /// Bytes that were read.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Bytes to be read in all.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }
}

/// What a volume holds, in lower-case hexadecimal digits of SHA-256.
#[derive(Debug, Clone)]
pub struct VolumeDigests {
    /// As the mirror serves it.
    pub mirror: String,
    /// Each replica, if that was asked for. One that cannot be read has the reason.
    pub members: Vec<(ReplicaName, Result<String>)>,
}

impl VolumeDigests {
    /// All that was read is the same.
    pub fn equal(&self) -> bool {
        self.members.iter().filter_map(|(_, digest)| digest.as_ref().ok()).all(|digest| *digest == self.mirror)
    }
}

/// A checksum that may be made.
pub struct Checksum {
    engine: Arc<Engine>,
    mirror: Arc<Mirror>,
    members: bool,
    _permit: OwnedSemaphorePermit,
}

impl Engine {
    /// Admits a checksum, with `members` also of each replica in sync; or says why there can be none now.
    pub fn checksum(self: &Arc<Self>, members: bool) -> Result<Checksum> {
        let permit = self.context.checksums.clone().try_acquire_owned().map_err(|_| Error::Exhausted {
            resource: "checksums at once",
            problem: format!("this node makes {CHECKSUMS_AT_ONCE} already, its limit; try again later"),
        })?;
        let checksum = Checksum { engine: self.clone(), mirror: self.mirror()?, members, _permit: permit };
        checksum.undisturbed()?;
        Ok(checksum)
    }
}

impl Checksum {
    /// Reads everything. Dropping the future ends the reading.
    pub async fn run(self, progress: &ChecksumProgress) -> Result<VolumeDigests> {
        tokio::select! {
            digests = self.read(progress) => digests,
            disturbed = self.disturbed() => Err(disturbed),
        }
    }

    async fn read(&self, progress: &ChecksumProgress) -> Result<VolumeDigests> {
        let members = if self.members { self.mirror.status().members } else { Vec::new() };
        let in_sync = members.iter().filter(|member| member.mode == MemberMode::Rw).count();
        progress.total_bytes.store(self.mirror.geometry().size() * (1 + in_sync as u64), Ordering::Relaxed);
        let mirror = self.digest(self.mirror.bdev(), progress).await?;
        let mut digests = Vec::new();
        // One after the other, so that the memory for one is enough.
        for member in members {
            let digest = match member.mode {
                MemberMode::Rw => self.digest(&member.bdev, progress).await,
                _ => Err(Error::precondition(format!("replica {}", member.replica), "it is not in sync")),
            };
            digests.push((member.replica, digest));
        }
        Ok(VolumeDigests { mirror, members: digests })
    }

    async fn digest(&self, bdev: &BdevName, progress: &ChecksumProgress) -> Result<String> {
        let client = BdevClient::open(&self.engine.context.control, bdev.clone(), false).await?;
        let size = self.mirror.geometry().size();
        let digest = digest_device(&client, size, &SHA256, |bytes| {
            progress.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        });
        Ok(digest.await?.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Ends when the result would be of no use any more.
    async fn disturbed(&self) -> Error {
        let mut changes = self.engine.context.changes.watch();
        loop {
            if let Err(error) = self.undisturbed() {
                return error;
            }
            if changes.changed().await.is_none() {
                return Error::internal("a checksum", "its engine is gone");
            }
        }
    }

    fn undisturbed(&self) -> Result<()> {
        let published = self.engine.published();
        let refuse = |problem: String| Err(Error::precondition(self.engine.object(), problem));
        if published.restore.is_restoring() {
            return refuse("restore is in progress; a checksum must wait for it".into());
        }
        if published.state != EngineState::Running {
            return refuse(format!("it is in state {}; a checksum needs it running", published.state.as_str()));
        }
        match self.engine.mirror() {
            Ok(mirror) if Arc::ptr_eq(&mirror, &self.mirror) => Ok(()),
            _ => refuse("its mirror was taken down during the checksum".into()),
        }
    }
}
