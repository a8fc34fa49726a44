//! A bdev as used from tokio: requests go to a task on a reactor that owns the channel; buffers travel, nothing is copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::bdev::{BdevEvent, Geometry, IoChannel, OpenBdev};
use super::control::Control;
use super::dma::DmaBuffer;
use super::errno::{Errno, SpdkError};
use crate::name::BdevName;

/// Requests that wait for the reactor at most; further callers wait in turn.
const QUEUE_LIMIT: usize = 64;

enum Request {
    Read { offset: u64, buffer: DmaBuffer, reply: oneshot::Sender<Result<DmaBuffer, SpdkError>> },
    Write { offset: u64, buffer: DmaBuffer, reply: oneshot::Sender<Result<DmaBuffer, SpdkError>> },
    WriteZeroes { offset: u64, length: u64, reply: oneshot::Sender<Result<(), SpdkError>> },
    Flush { reply: oneshot::Sender<Result<(), SpdkError>> },
}

/// An open bdev with a channel on the control thread's reactor. The last clone's drop closes it.
#[derive(Clone)]
pub struct BdevClient {
    name: BdevName,
    geometry: Geometry,
    requests: mpsc::Sender<Request>,
    removed: Arc<AtomicBool>,
}

impl BdevClient {
    /// Opens the bdev of this name or alias.
    pub async fn open(control: &Control, name: BdevName, write: bool) -> Result<Self, SpdkError> {
        let (requests, receiver) = mpsc::channel(QUEUE_LIMIT);
        let removed = Arc::new(AtomicBool::new(false));
        let (opened, flag) = (name.clone(), removed.clone());
        let geometry = control
            .run(move |on| async move {
                let bdev = OpenBdev::open(on, &opened, write, move |event| {
                    if event == BdevEvent::Removed {
                        flag.store(true, Ordering::Release);
                    }
                })?;
                let channel = bdev.channel(on.thread())?;
                let geometry = bdev.geometry();
                on.thread().spawn(serve(on.thread(), channel, receiver));
                Ok::<_, SpdkError>(geometry)
            })
            .await?;
        Ok(Self { name, geometry, requests, removed })
    }

    /// The device's size when it was opened.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether the device is going away and wants to be closed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Reads `buffer.len()` bytes at `offset`, both whole blocks.
    pub async fn read(&self, offset: u64, buffer: DmaBuffer) -> Result<DmaBuffer, SpdkError> {
        self.ask(|reply| Request::Read { offset, buffer, reply }).await
    }

    /// Writes the buffer at `offset`, both whole blocks, and gives it back.
    pub async fn write(&self, offset: u64, buffer: DmaBuffer) -> Result<DmaBuffer, SpdkError> {
        self.ask(|reply| Request::Write { offset, buffer, reply }).await
    }

    /// Makes a range read as zeroes.
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), SpdkError> {
        self.ask(|reply| Request::WriteZeroes { offset, length, reply }).await
    }

    /// Makes what was written durable.
    pub async fn flush(&self) -> Result<(), SpdkError> {
        self.ask(|reply| Request::Flush { reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, SpdkError>>) -> Request,
    ) -> Result<T, SpdkError> {
        if self.is_removed() {
            return Err(SpdkError::failed("use", format!("bdev {}", self.name), Errno::ENODEV));
        }
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| SpdkError::Stopped)?;
        answer.await.map_err(|_| SpdkError::Stopped)?
    }
}

/// Runs on the reactor until every client is gone; each request is a future of its own there.
async fn serve(on: super::OnThread, channel: IoChannel, mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        let channel = channel.clone();
        on.spawn(async move {
            // A caller that stopped waiting does not stop the I/O.
            match request {
                Request::Read { offset, buffer, reply } => drop(reply.send(channel.read(offset, buffer).await)),
                Request::Write { offset, buffer, reply } => drop(reply.send(channel.write(offset, buffer).await)),
                Request::WriteZeroes { offset, length, reply } => {
                    drop(reply.send(channel.write_zeroes(offset, length).await));
                }
                Request::Flush { reply } => drop(reply.send(channel.flush().await)),
            }
        });
    }
}
