//! C callbacks as futures: a one-shot cell whose filling end travels through C as a pointer.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use spdk_sys as sys;

use super::errno::Errno;

struct Cellar<T> {
    value: RefCell<Option<T>>,
    waker: Cell<Option<Waker>>,
}

/// The filling end. It is consumed by filling; through C it goes as the pointer of [`Slot::into_raw`].
pub struct Slot<T>(Rc<Cellar<T>>);

/// The waiting end. Dropping it loses the value, nothing else.
pub struct SlotFuture<T>(Rc<Cellar<T>>);

impl<T> Slot<T> {
    /// Both ends of a new cell.
    pub fn new() -> (Self, SlotFuture<T>) {
        let cell = Rc::new(Cellar { value: RefCell::new(None), waker: Cell::new(None) });
        (Self(cell.clone()), SlotFuture(cell))
    }

    /// Hands the end to C. Exactly one [`Slot::from_raw`] must follow, on the same thread.
    pub fn into_raw(self) -> *mut c_void {
        Rc::into_raw(self.0).cast_mut().cast()
    }

    /// Takes the end back in the callback.
    ///
    /// # Safety
    /// `raw` came from [`Slot::into_raw`] of the same `T` on the same thread, and was not taken back before.
    pub unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: by this function's contract the pointer is a live strong reference made by into_raw.
        Self(unsafe { Rc::from_raw(raw.cast::<Cellar<T>>()) })
    }

    /// Ends the wait.
    pub fn fill(self, value: T) {
        *self.0.value.borrow_mut() = Some(value);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for SlotFuture<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.0.value.borrow_mut().take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.0.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The `cs_done_cb` of all waits below.
unsafe extern "C" fn filled(arg: *mut c_void, rc: c_int) {
    // SAFETY: `arg` is the slot that `done` or `started` handed to the C function, which by the shim's contract
    // calls back exactly once, on the thread that called it.
    unsafe { Slot::<c_int>::from_raw(arg) }.fill(rc);
}

/// Waits for a C function that returns nothing and always calls back.
pub async fn done(start: impl FnOnce(sys::cs_done_cb, *mut c_void)) -> Result<(), Errno> {
    let (slot, filled_slot) = Slot::<c_int>::new();
    start(Some(filled), slot.into_raw());
    Errno::check(filled_slot.await)
}

/// Waits for a C function that calls back only if it returned 0.
pub async fn started(start: impl FnOnce(sys::cs_done_cb, *mut c_void) -> c_int) -> Result<(), Errno> {
    let (slot, filled_slot) = Slot::<c_int>::new();
    let raw = slot.into_raw();
    if let Err(errno) = Errno::check(start(Some(filled), raw)) {
        // SAFETY: a failed start never calls back (the shim's contract), so the slot is still ours to take back.
        drop(unsafe { Slot::<c_int>::from_raw(raw) });
        return Err(errno);
    }
    Errno::check(filled_slot.await)
}
