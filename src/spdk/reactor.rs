//! A reactor: one OS thread pinned to one core, polling the SPDK threads that live there.
//!
//! A turn drains the mailbox, polls local futures that were woken, and polls each SPDK thread. A reactor that finds
//! nothing to do for a while naps: short at first, at most [`NAP_MAX`] (later [`NAP_QUIET`]), never past the next timed
//! poller, and woken by a post to its mailbox. The first work it finds puts it back to spinning.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::queue::{ArrayQueue, SegQueue};
use spdk_sys as sys;

use super::control::OnThread;
use super::executor::Executor;
use super::in_flight;

/// How many posts wait for a reactor at most.
const MAILBOX_LIMIT: usize = 4096;
/// Idle time before the first nap: longer than the gaps within a busy stream of I/O.
const SPIN_NS: u64 = 100_000;
/// Idle time before the first nap while I/O of our devices is under way: longer than a healthy disk or peer takes. One that
/// hangs must not keep a core busy.
const SPIN_IN_FLIGHT_NS: u64 = 10_000_000;
/// The shortest nap, about what the kernel needs to put a thread to sleep and wake it.
const NAP_MIN: Duration = Duration::from_micros(50);
/// The longest nap within [`QUIET_NS`] of the last work: what an I/O after a short break may wait in addition.
const NAP_MAX: Duration = Duration::from_millis(1);
/// After this long without work nothing is under way that a client would miss soon.
const QUIET_NS: u64 = 1_000_000_000;
/// The longest nap of a reactor that is quiet: what the first I/O then may wait in addition. Shorter naps would cost an idle
/// node several per cent of a core.
const NAP_QUIET: Duration = Duration::from_millis(4);

/// Work posted to a reactor.
pub(super) type Job = Box<dyn FnOnce(OnThread, &Spawner) + Send>;

/// Adds futures to the reactor that runs the job.
pub(super) struct Spawner<'a>(&'a Executor);

impl Spawner<'_> {
    /// Adds a future to this reactor's own.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.spawn(future);
    }
}

/// Whether an idle reactor naps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollMode {
    /// Nap when idle, spin under load.
    Adaptive,
    /// Never nap.
    Busy,
}

/// Where a reactor's time went since its start, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Turns that did work.
    pub busy_ns: u64,
    /// Turns that found nothing to do.
    pub idle_ns: u64,
    /// Asleep.
    pub nap_ns: u64,
}

/// An answer on its way to a reactor: the key it is expected under, and the value.
type Answer = (u64, Box<dyn Any + Send>);
/// What a reactor does with an answer.
type Continuation = Box<dyn FnOnce(Box<dyn Any + Send>)>;

/// A continuation, and the SPDK thread that it belongs to: a reactor carries several (the target has its own).
struct Expected {
    thread: *mut sys::spdk_thread,
    then: Continuation,
}

/// What only the reactor's own OS thread sees, reachable from the tokens.
struct LocalState {
    shared: Arc<ReactorShared>,
    executor: Rc<Executor>,
    expected: HashMap<u64, Expected>,
    next_key: u64,
}

thread_local! {
    static LOCAL: RefCell<Option<LocalState>> = const { RefCell::new(None) };
}

/// Keeps a continuation on the calling reactor; its answer comes by [`ReactorShared::answer`] under the returned key.
pub(super) fn keep(continuation: Continuation) -> (Arc<ReactorShared>, u64) {
    LOCAL.with_borrow_mut(|local| {
        let local = local.as_mut().expect("an OnThread token exists only on a reactor");
        let key = local.next_key;
        local.next_key += 1;
        // SAFETY: reads which SPDK thread runs on this OS thread now.
        let thread = unsafe { sys::spdk_get_thread() };
        local.expected.insert(key, Expected { thread, then: continuation });
        (local.shared.clone(), key)
    })
}

/// Adds a future to the calling reactor.
pub(super) fn spawn(future: impl Future<Output = ()> + 'static) {
    let executor =
        LOCAL.with_borrow(|local| local.as_ref().expect("an OnThread token exists only on a reactor").executor.clone());
    executor.spawn(future);
}

/// A pointer to an SPDK thread on its way to its reactor.
struct ThreadPointer(*mut sys::spdk_thread);
// SAFETY: spdk_thread is made to be handed to whichever OS thread polls it; only the receiving reactor uses the pointer.
unsafe impl Send for ThreadPointer {}

/// What other threads see of a reactor.
pub(super) struct ReactorShared {
    pub(super) core: u32,
    mailbox: ArrayQueue<Job>,
    arrivals: SegQueue<ThreadPointer>,
    /// Bounded by what the reactor itself expects.
    answers: SegQueue<Answer>,
    os_thread: OnceLock<std::thread::Thread>,
    stopping: AtomicBool,
    stopped: AtomicBool,
    busy_mode: AtomicBool,
    busy_ns: AtomicU64,
    idle_ns: AtomicU64,
    nap_ns: AtomicU64,
    thread_count: AtomicU32,
}

impl ReactorShared {
    pub(super) fn new(core: u32, mode: PollMode) -> Arc<Self> {
        Arc::new(Self {
            core,
            mailbox: ArrayQueue::new(MAILBOX_LIMIT),
            arrivals: SegQueue::new(),
            answers: SegQueue::new(),
            os_thread: OnceLock::new(),
            stopping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            busy_mode: AtomicBool::new(mode == PollMode::Busy),
            busy_ns: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            nap_ns: AtomicU64::new(0),
            thread_count: AtomicU32::new(0),
        })
    }

    /// Queues work; gives it back when the queue is full or the reactor has stopped.
    pub(super) fn post(&self, job: Job) -> Result<(), Job> {
        if self.is_stopped() {
            return Err(job);
        }
        self.mailbox.push(job)?;
        self.wake();
        Ok(())
    }

    /// Hands over an SPDK thread that belongs on this core.
    pub(super) fn adopt(&self, thread: *mut sys::spdk_thread) {
        self.arrivals.push(ThreadPointer(thread));
        self.wake();
    }

    /// Delivers what the reactor expects under `key`.
    pub(super) fn answer(&self, key: u64, value: Box<dyn Any + Send>) {
        self.answers.push((key, value));
        self.wake();
    }

    /// Asks the loop to end once its SPDK threads have exited.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn set_mode(&self, mode: PollMode) {
        self.busy_mode.store(mode == PollMode::Busy, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Load {
        Load {
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            idle_ns: self.idle_ns.load(Ordering::Relaxed),
            nap_ns: self.nap_ns.load(Ordering::Relaxed),
        }
    }

    /// SPDK threads that live here.
    pub(super) fn thread_count(&self) -> u32 {
        self.thread_count.load(Ordering::Relaxed)
    }

    fn is_quiet(&self) -> bool {
        self.mailbox.is_empty() && self.arrivals.is_empty() && self.answers.is_empty()
    }

    fn wake(&self) {
        if let Some(thread) = self.os_thread.get() {
            thread.unpark();
        }
    }
}

/// The loop's own state, on the reactor's OS thread.
struct Loop<'a> {
    shared: &'a ReactorShared,
    executor: Rc<Executor>,
    /// The first is the reactor's own: it runs the mailbox and the local futures.
    threads: RefCell<Vec<*mut sys::spdk_thread>>,
    ticks_per_us: u64,
}

/// Runs the calling OS thread, already pinned, as a reactor until [`ReactorShared::stop`].
pub(super) fn run(shared: &Arc<ReactorShared>) {
    let _ = shared.os_thread.set(std::thread::current());
    let executor = Rc::new(Executor::new());
    LOCAL.set(Some(LocalState {
        shared: shared.clone(),
        executor: executor.clone(),
        expected: HashMap::new(),
        next_key: 0,
    }));
    shorten_timer_slack();
    // SAFETY: reads a constant that the environment set at its start.
    let ticks_hz = unsafe { sys::spdk_get_ticks_hz() };
    let reactor =
        Loop { shared, executor, threads: RefCell::new(Vec::new()), ticks_per_us: (ticks_hz / 1_000_000).max(1) };
    reactor.run();
    // SAFETY: sets a variable of this OS thread, which is no reactor from here on.
    unsafe { sys::cs_bdev_ticks_set(0) };
    shared.stopped.store(true, Ordering::Release);
    // Whoever still waits for an answer learns now that none will come.
    while shared.mailbox.pop().is_some() {}
    LOCAL.set(None);
}

/// The kernel rounds a sleep up by 50 us by default, as much as the shortest nap itself.
fn shorten_timer_slack() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and changes only the calling thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}

impl Loop<'_> {
    fn run(&self) {
        let mut begun = self.now();
        let mut idle_since = begun;
        let mut turns: u32 = 0;
        loop {
            let worked = self.turn(begun);
            turns = turns.wrapping_add(1);
            let mut now = self.now();
            self.account(worked, now - begun);
            if worked {
                idle_since = now;
            } else if self.leave() {
                return;
            } else if !self.shared.busy_mode.load(Ordering::Relaxed) {
                now = self.nap(now, idle_since);
            }
            if turns.is_multiple_of(1024) || !worked {
                self.bury();
            }
            begun = now;
        }
    }

    /// One round over everything; true if anything had work.
    fn turn(&self, now: u64) -> bool {
        // SAFETY: sets a variable of this OS thread.
        unsafe { sys::cs_bdev_ticks_set(now) };
        let mut worked = self.arrive();
        let own = self.threads.borrow().first().copied();
        if let Some(own) = own {
            // SAFETY: `own` is a live thread of this reactor, and nothing else sets the thread of this OS thread meanwhile.
            unsafe { sys::spdk_set_thread(own) };
            worked |= self.run_mailbox();
            worked |= self.take_answers();
            worked |= self.executor.turn();
            // SAFETY: clears what was set above.
            unsafe { sys::spdk_set_thread(std::ptr::null_mut()) };
        }
        let count = self.threads.borrow().len();
        for index in 0..count {
            let thread = self.threads.borrow()[index];
            // SAFETY: threads in the list are alive until `bury` destroys and removes them, and only this loop polls them.
            worked |= unsafe { sys::spdk_thread_poll(thread, 0, now) } > 0;
        }
        worked
    }

    fn run_mailbox(&self) -> bool {
        let mut worked = false;
        // Not more than were there at first: a job that posts to its own reactor must not hold up the turn.
        for _ in 0..self.shared.mailbox.len() {
            let Some(job) = self.shared.mailbox.pop() else { break };
            // SAFETY: `turn` has set this reactor's own SPDK thread.
            job(unsafe { OnThread::new() }, &Spawner(&self.executor));
            worked = true;
        }
        worked
    }

    fn take_answers(&self) -> bool {
        let mut worked = false;
        while let Some((key, value)) = self.shared.answers.pop() {
            let expected = LOCAL.with_borrow_mut(|local| local.as_mut().and_then(|local| local.expected.remove(&key)));
            if let Some(Expected { thread, then }) = expected {
                // SAFETY: `thread` lives on this reactor, for it has I/O or a future of ours open until `then` has run;
                // no thread is being polled here, and the one of this turn is set again afterwards.
                unsafe {
                    let own = sys::spdk_get_thread();
                    sys::spdk_set_thread(thread);
                    then(value);
                    sys::spdk_set_thread(own);
                }
            }
            worked = true;
        }
        worked
    }

    fn arrive(&self) -> bool {
        let mut worked = false;
        while let Some(ThreadPointer(thread)) = self.shared.arrivals.pop() {
            self.threads.borrow_mut().push(thread);
            self.shared.thread_count.fetch_add(1, Ordering::Relaxed);
            worked = true;
        }
        worked
    }

    /// Destroys SPDK threads that have exited.
    fn bury(&self) {
        self.threads.borrow_mut().retain(|thread| {
            // SAFETY: threads in the list are alive.
            let over = unsafe { sys::spdk_thread_is_exited(*thread) && sys::spdk_thread_is_idle(*thread) };
            if over {
                // SAFETY: exited and idle, and removed from the list with this very call, so nobody polls it again.
                unsafe { sys::spdk_thread_destroy(*thread) };
                self.shared.thread_count.fetch_sub(1, Ordering::Relaxed);
            }
            !over
        });
    }

    /// True when the loop was asked to stop and nothing lives here any more.
    fn leave(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
            && self.threads.borrow().is_empty()
            && self.shared.arrivals.is_empty()
    }

    /// Sleeps if it is time to; the time at which it is over.
    fn nap(&self, now: u64, idle_since: u64) -> u64 {
        let idle_us = (now - idle_since) / self.ticks_per_us;
        let spin_ns = if in_flight::any() { SPIN_IN_FLIGHT_NS } else { SPIN_NS };
        if idle_us * 1_000 < spin_ns {
            return now;
        }
        let longest = if idle_us * 1_000 < QUIET_NS { NAP_MAX } else { NAP_QUIET };
        let mut length = Duration::from_micros(idle_us / 4).clamp(NAP_MIN, longest);
        for thread in self.threads.borrow().iter() {
            // SAFETY: threads in the list are alive, and this loop is the one that polls them.
            let expiry = unsafe { sys::spdk_thread_next_poller_expiration(*thread) };
            if expiry != 0 {
                length = length.min(Duration::from_micros(expiry.saturating_sub(now) / self.ticks_per_us));
            }
        }
        if length < NAP_MIN / 2 || !self.shared.is_quiet() {
            return now;
        }
        std::thread::park_timeout(length);
        let woken = self.now();
        let slept_us = (woken - now) / self.ticks_per_us;
        self.shared.nap_ns.fetch_add(slept_us * 1_000, Ordering::Relaxed);
        woken
    }

    fn account(&self, worked: bool, ticks: u64) {
        let counter = if worked { &self.shared.busy_ns } else { &self.shared.idle_ns };
        // One writer, so a plain load and store do; the unit is finer than a turn.
        let nanoseconds = ticks * 1_000 / self.ticks_per_us;
        counter.store(counter.load(Ordering::Relaxed) + nanoseconds, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        // SAFETY: reads the time-stamp counter.
        unsafe { sys::spdk_get_ticks() }
    }
}
