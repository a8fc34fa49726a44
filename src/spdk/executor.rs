//! Runs the futures of one SPDK thread: polled by the reactor between two turns of SPDK's own polling.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::ArcWake;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Says that some future can make progress, and wakes a reactor that naps.
struct Ready {
    flag: AtomicBool,
    reactor: std::thread::Thread,
}

impl ArcWake for Ready {
    fn wake_by_ref(ready: &Arc<Self>) {
        if !ready.flag.swap(true, Ordering::AcqRel) {
            ready.reactor.unpark();
        }
    }
}

/// The local futures of a reactor. `!Send`: it never leaves the thread it was made on.
pub(super) struct Executor {
    tasks: RefCell<FuturesUnordered<Task>>,
    /// Spawned while `tasks` is borrowed by a poll.
    spawned: RefCell<Vec<Task>>,
    ready: Arc<Ready>,
    waker: Waker,
}

impl Executor {
    /// An executor for the calling thread.
    pub(super) fn new() -> Self {
        let ready = Arc::new(Ready { flag: AtomicBool::new(false), reactor: std::thread::current() });
        let waker = futures::task::waker(ready.clone());
        Self { tasks: RefCell::new(FuturesUnordered::new()), spawned: RefCell::new(Vec::new()), ready, waker }
    }

    /// Adds a future; it is polled in this or the next turn.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(future));
        self.ready.flag.store(true, Ordering::Release);
    }

    /// Polls what can make progress; true if anything was polled.
    pub(super) fn turn(&self) -> bool {
        if !self.ready.flag.load(Ordering::Relaxed) || !self.ready.flag.swap(false, Ordering::AcqRel) {
            return false;
        }
        let mut context = Context::from_waker(&self.waker);
        let mut tasks = self.tasks.borrow_mut();
        loop {
            tasks.extend(self.spawned.borrow_mut().drain(..));
            match tasks.poll_next_unpin(&mut context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending if self.spawned.borrow().is_empty() => return true,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    }
}
