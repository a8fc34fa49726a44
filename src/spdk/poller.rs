//! Work that an SPDK thread does in every turn of its reactor.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;

use spdk_sys as sys;

use super::control::OnThread;
use super::errno::Errno;

/// What SPDK's pollers return.
const BUSY: c_int = 1;
const IDLE: c_int = 0;

type Work = Rc<dyn Fn() -> bool>;

/// A poller. Dropping it ends it; that may happen within its own work.
pub struct Poller {
    raw: NonNull<sys::spdk_poller>,
    work: *mut Work,
    thread: *mut sys::spdk_thread,
}

impl Poller {
    /// Calls `work` in every turn of the calling thread; it says whether it found something to do.
    pub fn start(_on: OnThread, name: &'static CStr, work: impl Fn() -> bool + 'static) -> Result<Self, Errno> {
        let work: *mut Work = Box::into_raw(Box::new(Rc::new(work)));
        // SAFETY: on an SPDK thread (the token). `run` fits the argument, which lives until the poller is unregistered.
        let raw = unsafe { sys::spdk_poller_register_named(Some(run), work.cast(), 0, name.as_ptr()) };
        match NonNull::new(raw) {
            // SAFETY: reads which SPDK thread runs on this OS thread.
            Some(raw) => Ok(Self { raw, work, thread: unsafe { sys::spdk_get_thread() } }),
            None => {
                // SAFETY: no poller was made, so nobody else has the box.
                drop(unsafe { Box::from_raw(work) });
                Err(Errno::ENOMEM)
            }
        }
    }
}

unsafe extern "C" fn run(arg: *mut c_void) -> c_int {
    // SAFETY: the poller is registered, so its box lives; a reference of one's own outlives it if the work ends the poller.
    let work = unsafe { (*arg.cast::<Work>()).clone() };
    if work() { BUSY } else { IDLE }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: reads which SPDK thread runs on this OS thread.
        let thread = unsafe { sys::spdk_get_thread() };
        assert_eq!(thread, self.thread, "a poller ends on the SPDK thread that it works for");
        // SAFETY: registered on this very thread, and unregistered once, as the value is gone; SPDK does not call it any more,
        // so the box is nobody's.
        unsafe {
            sys::spdk_poller_unregister(&mut raw);
            drop(Box::from_raw(self.work));
        }
    }
}
