//! Disks whose device leaves the machine while SPDK drives it: SPDK tells nobody, so the kernel's list of devices is looked at.
//!
//! Such a disk is in state error at once. Its I/O is made to fail, those who use it give it up, and then its lvstore and
//! controller go. Its record stays: the next start looks for it again, as does a create after a delete.

use std::collections::HashMap;
use std::time::Duration;

use super::handle::Disk;
use super::{Disks, Entry, bring_up, user_space};
use crate::{Error, Result};

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);

impl Disks {
    /// Looks for unplugged disks, for as long as it is polled.
    pub async fn watch_devices(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was last logged of a disk that does not go: once, not with each attempt.
        let mut told = HashMap::new();
        loop {
            ticks.tick().await;
            for disk in self.all_ready() {
                if user_space::is_unplugged(&disk.inner().request.path).await {
                    self.lose(&disk);
                }
            }
            for disk in self.all_lost() {
                let _one_at_a_time = self.0.one_at_a_time.lock().await;
                if !self.is_lost(&disk) {
                    continue;
                }
                match self.take_away(&disk).await {
                    Ok(()) => drop(told.remove(disk.name())),
                    Err(error) => {
                        let problem = error.to_string();
                        if told.get(disk.name()) != Some(&problem) {
                            tracing::warn!(disk = %disk.name(), %error, "an unplugged disk is not gone yet; it is tried again");
                            told.insert(disk.name().clone(), problem);
                        }
                    }
                }
            }
        }
    }

    /// Shows at once that the disk cannot be used any more.
    fn lose(&self, disk: &Disk) {
        let problem = "its device has left the machine; its replicas are gone with it";
        let error = Error::medium(format!("disk {} at {}", disk.name(), disk.inner().request.path), problem);
        let is_ready = matches!(self.entries().get(disk.name()), Some(Entry::Ready(known)) if known.is(disk));
        // Only between the two can somebody begin to delete it, and then finds it gone.
        if is_ready {
            tracing::error!(disk = %disk.name(), %error, "a disk is lost");
            self.set(disk.name(), Entry::Lost(disk.clone(), error));
        }
    }

    /// Makes everybody give the disk up, and then takes it away; it stays in state error. For who has the turn. What failed
    /// can be repeated.
    pub(super) async fn take_away(&self, disk: &Disk) -> Result<()> {
        let inner = disk.inner();
        user_space::abandon(&inner.control, &inner.request, inner.driver).await?;
        for observer in self.observers() {
            observer.lost(disk.clone()).await;
        }
        disk.close()?;
        bring_up::take_away(disk).await?;
        let known = self.entries().get(disk.name()).cloned();
        if let Some(Entry::Lost(_, error)) = known {
            let request = super::DiskRequest { uuid: Some(disk.uuid()), ..inner.request.clone() };
            tracing::info!(disk = %disk.name(), "all of an unplugged disk is gone");
            self.entries().insert(disk.name().clone(), Entry::Failed(request, error));
        }
        Ok(())
    }

    fn all_lost(&self) -> Vec<Disk> {
        let lost = |entry: &Entry| match entry {
            Entry::Lost(disk, _) => Some(disk.clone()),
            _ => None,
        };
        self.entries().values().filter_map(lost).collect()
    }

    fn is_lost(&self, disk: &Disk) -> bool {
        matches!(self.entries().get(disk.name()), Some(Entry::Lost(known, _)) if known.is(disk))
    }
}
