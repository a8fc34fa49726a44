//! The lock that keeps blocks of a volume from being deleted while a backup or restore uses them (§10).
//!
//! Nodes agree through small files next to the volume; who goes first is decided in
//! [`super::format::lock_file`]. There is one attempt; the caller tries again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{Error, Result};

use super::format::layout;
use super::format::lock_file::{LOCK_LIFE, LockFile, LockType};
use super::settings::LockSettings;
use super::store::VolumeStore;
mod owner;

use owner::Owner;

/// A refresh that failed is tried again after this part of the interval.
const RETRY_PART: u32 = 6;

/// What the lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Backups and restores; any number at once.
    CreateRestore,
    /// Deleting a backup or the volume.
    Delete,
}

impl LockKind {
    fn stored(self) -> LockType {
        match self {
            Self::CreateRestore => LockType::BACKUP,
            Self::Delete => LockType::DELETE,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::CreateRestore => "backup create/restore",
            Self::Delete => "backup delete",
        }
    }
}

/// A held lock of one volume. A clone is a further hold of the same lock; it is given back with the last one, by
/// [`Self::release`] or by dropping.
#[derive(Debug, Clone)]
pub struct VolumeLock {
    held: Arc<Held>,
}

impl VolumeLock {
    /// Takes the lock of a volume, which takes the settle wait. Fails if somebody with another purpose goes first.
    pub async fn acquire(store: VolumeStore, kind: LockKind, settings: &LockSettings) -> Result<Self> {
        let digits = Uuid::new_v4().simple().to_string();
        let name = format!("lock-{}", &digits[..16]);
        let path = layout::lock(store.volume(), &name);
        let file = LockFile { name, kind: kind.stored(), acquired: false };
        let written = Arc::new(Mutex::new(Instant::now()));
        let owner = Owner { store, path, written };
        owner.write(&file).await.map_err(|error| owner.blame(error))?;
        // From here on a drop, by an error or by the caller, removes the file.
        let mut held = Held::new(owner);
        let contested = held.owner()?.is_contested(&file, settings.settle).await;
        if let Some(reason) = contested? {
            let problem = format!(
                "failed to acquire lock {} when performing {}, please try again later ({reason})",
                held.owner()?.path,
                kind.words(),
            );
            let object = format!("volume {} in {}", held.owner()?.store.volume(), held.owner()?.store.target());
            held.give_back().await;
            return Err(Error::precondition(object, problem));
        }
        let file = LockFile { acquired: true, ..file };
        let owner = held.owner()?.clone();
        owner.write(&file).await.map_err(|error| owner.blame(error))?;
        held.keep_fresh(file, settings.refresh);
        Ok(Self { held: Arc::new(held) })
    }

    /// The volume that is locked.
    pub fn store(&self) -> &VolumeStore {
        &self.held.store
    }

    /// Refuses when the lock could not be refreshed for its whole life, so that others may have deleted blocks.
    pub fn ensure_held(&self) -> Result<()> {
        let age = self.held.written.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if age <= LOCK_LIFE {
            return Ok(());
        }
        let store = self.store();
        let problem = format!("the lock of volume {} was not refreshed for {age:?} and has expired", store.volume());
        Err(Error::peer(store.target(), problem))
    }

    /// Gives this hold back; the last one removes the lock file, best effort, as it expires anyhow.
    pub async fn release(self) {
        if let Some(mut held) = Arc::into_inner(self.held) {
            held.give_back().await;
        }
    }
}

/// The file in the store and the task that keeps it fresh.
#[derive(Debug)]
struct Held {
    store: VolumeStore,
    written: Arc<Mutex<Instant>>,
    /// Taken when the file is given back.
    owner: Option<Owner>,
    stop: watch::Sender<bool>,
    refresher: Option<JoinHandle<()>>,
}

impl Held {
    fn new(owner: Owner) -> Self {
        let (stop, _) = watch::channel(false);
        Self { store: owner.store.clone(), written: owner.written.clone(), owner: Some(owner), stop, refresher: None }
    }

    fn owner(&self) -> Result<&Owner> {
        self.owner.as_ref().ok_or_else(|| Error::internal("backup lock", "used after it was given back"))
    }

    fn keep_fresh(&mut self, file: LockFile, interval: Duration) {
        if let Some(owner) = self.owner.clone() {
            self.refresher = Some(tokio::spawn(refresh(owner, file, interval, self.stop.subscribe())));
        }
    }

    async fn give_back(&mut self) {
        self.stop.send_replace(true);
        give_back(self.owner.take(), self.refresher.take()).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let (owner, refresher) = (self.owner.take(), self.refresher.take());
        // Without a runtime nobody refreshes either, and the file expires.
        if let (Some(owner), Ok(runtime)) = (owner, tokio::runtime::Handle::try_current()) {
            runtime.spawn(give_back(Some(owner), refresher));
        }
    }
}

/// Removes the file after the refresher, already told to stop, has written it for the last time.
async fn give_back(owner: Option<Owner>, refresher: Option<JoinHandle<()>>) {
    if let Some(refresher) = refresher {
        // It neither panics nor is aborted, and its calls have limits.
        let _ = refresher.await;
    }
    if let Some(owner) = owner {
        owner.remove().await;
    }
}

async fn refresh(owner: Owner, file: LockFile, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut wait = interval;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match owner.write(&file).await {
            Ok(()) => interval,
            Err(error) => {
                tracing::warn!(volume = %owner.store.volume(), %error, "lock is not refreshed");
                interval / RETRY_PART
            }
        };
    }
}

#[cfg(test)]
mod tests;
