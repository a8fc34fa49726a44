//! Makes what was written to a disk durable: one flush of the device at a time, and everybody who asked before it
//! began is served by it.
//!
//! A flush that fails says that writes acknowledged earlier may be lost, and it says so only once. Therefore each user
//! of the disk holds a [`FlushHandle`], and every one of them hears of every failure, also of those that a
//! flush of somebody else met (the kernel does the same for file descriptors).

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::spdk::Control;
use crate::spdk::bdev::OpenBdev;
use crate::{Error, Result, faults};

/// What a flush is to be done with.
pub(super) enum Medium {
    /// A file or block device of the kernel, by a descriptor of our own.
    Kernel(Arc<File>),
    /// A bdev whose own flush reaches the device.
    Bdev(Control, Arc<OpenBdev>),
}

/// Who asked, to be called with the outcome. It must not wait.
type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// What the flushing task is asked.
enum Request {
    Flush(Answer),
    /// Let go of the device.
    Stop(oneshot::Sender<()>),
}

/// What a flush came to; the text says why it failed.
type Outcome = std::result::Result<(), Arc<str>>;

/// The flushes of one disk. Dropping the last of its handles ends its task.
#[derive(Debug, Clone)]
pub(super) struct Flusher {
    disk: Arc<str>,
    queue: mpsc::UnboundedSender<Request>,
    failures: Arc<AtomicU64>,
}

impl Flusher {
    /// Starts the disk's flushing task. What waits in its queue is bounded by the I/O that can be in flight.
    pub(super) fn start(disk: &str, medium: Medium) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        let failures = Arc::new(AtomicU64::new(0));
        tokio::spawn(serve(medium, requests, failures.clone()));
        Self { disk: disk.into(), queue, failures }
    }

    /// Lets go of the device. Flushes asked for later fail.
    pub(super) async fn stop(&self) {
        let (sender, stopped) = oneshot::channel();
        if self.queue.send(Request::Stop(sender)).is_ok() {
            // An end of the task without an answer has let go of the device too.
            let _ = stopped.await;
        }
    }

    /// A user's own view of the disk's flushes.
    pub(super) fn handle(&self) -> FlushHandle {
        let seen = AtomicU64::new(self.failures.load(Ordering::Acquire));
        FlushHandle { flusher: self.clone(), seen: Arc::new(seen) }
    }
}

async fn serve(medium: Medium, mut requests: mpsc::UnboundedReceiver<Request>, failures: Arc<AtomicU64>) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, usize::MAX).await > 0 {
        let mut stopped = None;
        let mut answers = Vec::with_capacity(batch.len());
        for request in batch.drain(..) {
            match request {
                Request::Flush(answer) => answers.push(answer),
                Request::Stop(sender) => stopped = Some(sender),
            }
        }
        if !answers.is_empty() {
            let outcome = flush_once(&medium).await;
            if let Err(problem) = &outcome {
                tracing::error!(%problem, "a flush of a disk failed; writes acknowledged before may be lost");
                failures.fetch_add(1, Ordering::AcqRel);
            }
            answers.into_iter().for_each(|answer| answer(outcome.clone()));
        }
        if let Some(stopped) = stopped {
            drop(requests);
            drop(medium);
            // Who asked may have gone.
            let _ = stopped.send(());
            return;
        }
    }
}

async fn flush_once(medium: &Medium) -> Outcome {
    if faults::fails(faults::Point::DiskFlush) {
        return Err(Arc::from("ordered to fail"));
    }
    match medium {
        Medium::Kernel(file) => {
            let file = file.clone();
            let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
            synced.map_err(|error| Arc::from(error.to_string()))?.map_err(|error| Arc::from(error.to_string()))
        }
        Medium::Bdev(control, bdev) => {
            let bdev = bdev.clone();
            let flushed = control.run(move |on| async move { bdev.channel(on.thread())?.flush().await }).await;
            flushed.map_err(|error: crate::spdk::SpdkError| Arc::from(error.to_string()))
        }
    }
}

/// One user's way to flush a disk. Clones are the same user.
#[derive(Debug, Clone)]
pub struct FlushHandle {
    flusher: Flusher,
    /// Failures of the disk that this user was told of.
    seen: Arc<AtomicU64>,
}

impl FlushHandle {
    /// Returns when all that was acknowledged before the call is durable.
    pub async fn flush(&self) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.request(move |outcome| {
            // Who stopped waiting does not need the outcome.
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or_else(|_| Err(self.error("its flushing task has ended")))
    }

    /// As [`Self::flush`], calling back instead, on a thread of the runtime. `answer` must not wait. It is dropped
    /// uncalled when the disk is gone.
    pub fn request(&self, answer: impl FnOnce(Result<()>) + Send + 'static) {
        let user = self.clone();
        let queued: Answer = Box::new(move |outcome| answer(user.judge(outcome)));
        if self.flusher.queue.send(Request::Flush(queued)).is_err() {
            tracing::warn!(disk = %self.flusher.disk, "a flush came after the end of the disk");
        }
    }

    fn judge(&self, outcome: Outcome) -> Result<()> {
        let failures = self.flusher.failures.load(Ordering::Acquire);
        let seen = self.seen.swap(failures, Ordering::AcqRel);
        match outcome {
            Err(problem) => Err(self.error(&problem)),
            Ok(()) if failures != seen => {
                Err(self.error("an earlier flush failed, and may have taken acknowledged writes with it"))
            }
            Ok(()) => Ok(()),
        }
    }

    fn error(&self, problem: &str) -> Error {
        Error::medium(format!("disk {}", self.flusher.disk), format!("flush: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flusher() -> (Flusher, mpsc::UnboundedReceiver<Request>) {
        let (queue, requests) = mpsc::unbounded_channel();
        (Flusher { disk: "d".into(), queue, failures: Arc::default() }, requests)
    }

    #[tokio::test]
    async fn a_real_file_is_flushed() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let flusher = Flusher::start("d", Medium::Kernel(file));
        let handles: Vec<_> = (0..4).map(|_| flusher.handle()).collect();
        for outcome in futures::future::join_all(handles.iter().map(FlushHandle::flush)).await {
            outcome.unwrap();
        }
        flusher.stop().await;
        assert!(handles[0].flush().await.is_err(), "the device is let go of");
    }

    #[tokio::test]
    async fn every_user_hears_of_a_failure_once() {
        let (flusher, _requests) = flusher();
        let (first, second) = (flusher.handle(), flusher.handle());
        flusher.failures.fetch_add(1, Ordering::AcqRel);
        assert!(first.judge(Err("EIO".into())).is_err(), "the one whose flush it was");
        assert!(second.judge(Ok(())).is_err(), "the other one, though its own flush succeeded");
        assert!(first.judge(Ok(())).is_ok());
        assert!(second.clone().judge(Ok(())).is_ok(), "a clone is the same user");
        assert!(flusher.handle().judge(Ok(())).is_ok(), "a later user has lost nothing");
    }

    #[tokio::test]
    async fn a_flush_after_the_end_is_an_error() {
        let (flusher, requests) = flusher();
        drop(requests);
        assert!(flusher.handle().flush().await.is_err());
    }
}
