//! Copies to a member that joined write-only what it lacks, range by range, while clients write.
//!
//! Clients' writes go to the new member too. A range is locked on every reactor while it is copied, so the copy and a
//! write never cross: a write begun before the lock is on all members before the range is read, one that comes during it
//! waits, and then changes what was copied.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::core::MemberIndex;
use super::driver::{Command, CopyPaths, LockId, PIECE_BYTES};
use super::handle::Mirror;
use super::member::{MemberFlush, OpenedMember};
use super::range_gate::BlockRange;
use crate::error::{Error, Result};
use crate::spdk::dma::DmaBuffer;
use crate::spdk::{Control, Errno, OnControl, SpdkError};

/// How many deadlines of a member a copy may take: one for the source, one for the target, one for waiting in line.
const COPY_DEADLINES: u32 = 3;

/// How far a resync is, and how it is stopped.
#[derive(Debug, Default)]
pub struct ResyncProgress {
    copied_bytes: AtomicU64,
    canceled: AtomicBool,
}

impl ResyncProgress {
    /// Bytes that are on the new member.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }

    /// Stops the resync after the range that is being copied.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }
}

impl Mirror {
    /// Copies `ranges` (bytes, whole blocks) from members in sync to `member`, which joined by
    /// [`Mirror::add_member`].
    pub async fn resync(
        &self,
        control: &Control,
        member: MemberIndex,
        ranges: impl IntoIterator<Item = Range<u64>>,
        progress: &ResyncProgress,
    ) -> Result<()> {
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                if progress.canceled.load(Ordering::Relaxed) {
                    return Err(Error::Canceled { what: format!("the resync of mirror {}", self.bdev()) });
                }
                let piece = at..range.end.min(at + PIECE_BYTES);
                self.copy_piece(control, member, piece.clone()).await?;
                progress.copied_bytes.fetch_add(piece.end - piece.start, Ordering::Relaxed);
                at = piece.end;
            }
        }
        Ok(())
    }

    /// Makes all that a joined member was sent so far durable on its disk.
    pub async fn flush_member(&self, control: &Control, member: MemberIndex) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let paths = self.ask(Command::CopyPaths { target: member, reply }, answer).await?;
        flush(control, paths.target).await
    }

    async fn copy_piece(&self, control: &Control, member: MemberIndex, piece: Range<u64>) -> Result<()> {
        let block_size = u64::from(self.geometry().block_size);
        let range = BlockRange { first: piece.start / block_size, count: (piece.end - piece.start) / block_size };
        let lock = Unlock { lock: next_lock(), commands: self.commands().clone() };
        let (reply, answer) = oneshot::channel();
        let paths = self.ask(Command::LockRange { lock: lock.lock, range, target: member, reply }, answer).await;
        let copied = match paths {
            Ok(paths) => self.copy_in_time(control, paths, piece).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        copied
    }

    /// A target that does not take the copy is taken out, which aborts its I/O; clients must not wait for it any longer.
    async fn copy_in_time(&self, control: &Control, paths: CopyPaths, piece: Range<u64>) -> Result<()> {
        let limit = COPY_DEADLINES * self.member_deadline();
        let target = paths.target.open.replica.clone();
        match tokio::time::timeout(limit, copy(control, paths, piece.clone())).await {
            Ok(copied) => copied,
            Err(_) => {
                // One that has returned may do so once more.
                let awaited = self.status().member(&target).filter(|member| member.awaited).map(|member| member.place);
                let out = match awaited {
                    Some(place) => self.fail_member(place).await,
                    None => self.remove_member(&target).await,
                };
                if let Err(error) = out {
                    tracing::warn!(mirror = %self.bdev(), replica = %target, %error, "a member that does not answer could not be taken out");
                }
                Err(Error::Timeout { what: format!("copying {piece:?} to replica {target}"), limit })
            }
        }
    }
}

/// Unlocks the range, also when the copy is dropped half-way.
struct Unlock {
    lock: LockId,
    commands: mpsc::Sender<Command>,
}

impl Unlock {
    async fn release(self) {
        let (lock, commands) = (self.lock, self.commands.clone());
        std::mem::forget(self);
        unlock(lock, commands).await;
    }
}

impl Drop for Unlock {
    fn drop(&mut self) {
        // Only a runtime that is shutting down has no handle, and the mirror goes with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(unlock(self.lock, self.commands.clone()));
        }
    }
}

/// Each lock of this process has a number of its own.
fn next_lock() -> LockId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    LockId(NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn unlock(lock: LockId, commands: mpsc::Sender<Command>) {
    let (reply, unlocked) = oneshot::channel();
    // An error means that the mirror is stopped, and with it every lock.
    if commands.send(Command::UnlockRange { lock, reply }).await.is_ok() {
        let _ = unlocked.await;
    }
}

/// Reads the piece from the first source that can and writes it to the target.
async fn copy(control: &Control, paths: CopyPaths, piece: Range<u64>) -> Result<()> {
    let CopyPaths { sources, target } = paths;
    let replica = target.open.replica.clone();
    control
        .run::<(), SpdkError, _, _>(move |on| async move {
            let mut last = None;
            for source in &sources {
                match read(on, source, &piece).await {
                    Ok(buffer) => {
                        let channel = target.bdev.channel(on.thread())?;
                        return channel.write(piece.start, buffer).await.map(drop);
                    }
                    Err(error) => {
                        let (replica, offset) = (&source.open.replica, piece.start);
                        tracing::warn!(%replica, offset, %error, "a range could not be read for a resync");
                        last = Some(error);
                    }
                }
            }
            Err(last.unwrap_or_else(|| SpdkError::failed("resync", "no source".to_owned(), Errno::EIO)))
        })
        .await
        .map_err(|error: SpdkError| Error::medium(format!("replica {replica}"), format!("its resync: {error}")))
}

async fn flush(control: &Control, target: Arc<OpenedMember>) -> Result<()> {
    let replica = target.open.replica.clone();
    control
        .run::<(), SpdkError, _, _>(move |on| async move { flush_member(on, &target).await })
        .await
        .map_err(|error: SpdkError| Error::medium(format!("replica {replica}"), format!("its flush: {error}")))
}

/// Makes what a member was sent durable on its own disk.
pub(super) async fn flush_member(on: OnControl, member: &OpenedMember) -> std::result::Result<(), SpdkError> {
    match &member.flush {
        MemberFlush::Bdev => member.bdev.channel(on.thread())?.flush().await,
        MemberFlush::Disk(disk) => {
            let (done, answer) = oneshot::channel();
            disk.flush(on.thread().expect(move |flushed: Option<bool>| {
                let _ = done.send(flushed == Some(true));
            }));
            let failed = || SpdkError::failed("flush", format!("bdev {}", member.open.bdev), Errno::EIO);
            answer.await.unwrap_or(false).then_some(()).ok_or_else(failed)
        }
    }
}

async fn read(
    on: OnControl,
    source: &Arc<OpenedMember>,
    piece: &Range<u64>,
) -> std::result::Result<DmaBuffer, SpdkError> {
    let length = (piece.end - piece.start) as usize;
    let channel = source.bdev.channel(on.thread())?;
    channel.read(piece.start, DmaBuffer::zeroed(length)?).await
}
