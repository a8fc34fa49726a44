//! How the rest of the program gets work done on a reactor: closures through a bounded queue, answers through a oneshot.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::errno::SpdkError;
use super::reactor::ReactorShared;

/// Proof of running on some SPDK thread of ours. It cannot leave the thread.
#[derive(Clone, Copy)]
pub struct OnThread(PhantomData<*mut ()>);

/// Proof of running on the control thread: SPDK's application thread, on the first reactor.
#[derive(Clone, Copy)]
pub struct OnControl(OnThread);

impl OnThread {
    /// # Safety
    /// The caller runs on an SPDK thread (`spdk_get_thread` is not null) and passes the token only to code that does.
    pub(super) unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

/// An answer that some other thread will give to a thread of ours; see [`OnThread::expect`].
pub struct Reply<T: Send + 'static> {
    reactor: Arc<ReactorShared>,
    key: u64,
    sent: bool,
    answer: PhantomData<fn(T)>,
}

impl<T: Send + 'static> Reply<T> {
    /// Gives the answer, from any thread.
    pub fn send(mut self, value: T) {
        self.sent = true;
        self.reactor.answer(self.key, Box::new(Some(value)));
    }
}

impl<T: Send + 'static> Drop for Reply<T> {
    fn drop(&mut self) {
        if !self.sent {
            self.reactor.answer(self.key, Box::new(None::<T>));
        }
    }
}

impl OnThread {
    /// Keeps `then` on this thread until the returned reply is given, wherever that happens. `then` gets `None` when the
    /// reply is dropped instead.
    pub fn expect<T: Send + 'static>(self, then: impl FnOnce(Option<T>) + 'static) -> Reply<T> {
        let (reactor, key) = super::reactor::keep(Box::new(move |value| {
            // The key belongs to one reply of this type, so the downcast cannot fail.
            then(value.downcast::<Option<T>>().ok().and_then(|value| *value));
        }));
        Reply { reactor, key, sent: false, answer: PhantomData }
    }

    /// Adds a future to this thread's own; it runs until it ends.
    pub fn spawn(self, future: impl Future<Output = ()> + 'static) {
        super::reactor::spawn(future);
    }
}

impl OnControl {
    /// # Safety
    /// As [`OnThread::new`], and the thread is the application thread.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the application thread is an SPDK thread.
        Self(unsafe { OnThread::new() })
    }

    /// The weaker proof.
    pub fn thread(self) -> OnThread {
        self.0
    }
}

impl From<OnControl> for OnThread {
    fn from(on: OnControl) -> Self {
        on.0
    }
}

/// A reactor as seen from tokio. Cloning is cheap.
#[derive(Clone)]
pub struct Reactor {
    pub(super) shared: Arc<ReactorShared>,
}

impl Reactor {
    /// The core it runs on.
    pub fn core(&self) -> u32 {
        self.shared.core
    }

    /// Share of the time since start in which the reactor had work, and in which it napped, in nanoseconds.
    pub fn load(&self) -> super::reactor::Load {
        self.shared.load()
    }

    /// SPDK threads that live on it now.
    pub fn thread_count(&self) -> u32 {
        self.shared.thread_count()
    }

    /// Runs `work` on the reactor's own SPDK thread and waits for its result. Dropping the wait does not stop the work.
    pub async fn run<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(OnThread) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        T: Send + 'static,
        E: From<SpdkError> + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut job: super::reactor::Job = Box::new(move |on, spawn| {
            let future = work(on);
            spawn.spawn(async move {
                // The caller may have stopped waiting; the work is done all the same.
                let _ = sender.send(future.await);
            });
        });
        // The queue is drained every turn; a full one means a burst, so waiting is right and it is short.
        loop {
            match self.shared.post(job) {
                Ok(()) => break,
                Err(back) => job = back,
            }
            if self.shared.is_stopped() {
                return Err(SpdkError::Stopped.into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        receiver.await.unwrap_or_else(|_| Err(SpdkError::Stopped.into()))
    }

    /// Posts work and does not wait. False when the queue is full or the reactor stopped.
    pub fn post(&self, work: impl FnOnce(OnThread) + Send + 'static) -> bool {
        self.shared.post(Box::new(move |on, _| work(on))).is_ok()
    }
}

/// The first reactor, whose thread is SPDK's application thread: all control-plane work runs here.
#[derive(Clone)]
pub struct Control {
    pub(super) reactor: Reactor,
}

impl Control {
    /// Runs `work` on the control thread and waits for its result. Dropping the wait does not stop the work.
    pub async fn run<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(OnControl) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        T: Send + 'static,
        E: From<SpdkError> + Send + 'static,
    {
        self.reactor
            .run(|on| {
                // SAFETY: this reactor's own thread is the application thread: the environment made it first.
                let on_control = unsafe { OnControl::new() };
                let _ = on;
                work(on_control)
            })
            .await
    }

    /// The control thread's reactor.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }
}
