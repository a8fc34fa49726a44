//! How many I/Os of our own devices the calling reactor has under way. A reactor that waits for a disk or a peer to answer
//! does not nap: the answer would wait for its waking, and so would the client.
//!
//! One counter an OS thread: an I/O ends on the SPDK thread that it began on, and SPDK threads stay on their reactor.

use std::cell::Cell;

thread_local! {
    static IN_FLIGHT: Cell<u64> = const { Cell::new(0) };
}

/// An I/O came.
#[inline]
pub(super) fn begin() {
    IN_FLIGHT.set(IN_FLIGHT.get() + 1);
}

/// An I/O has its answer.
#[inline]
pub(super) fn end() {
    let count = IN_FLIGHT.get();
    assert!(count > 0, "an I/O of a device of ours ends once, on the thread it began on");
    IN_FLIGHT.set(count - 1);
}

/// Whether any is under way.
#[inline]
pub(super) fn any() -> bool {
    IN_FLIGHT.get() > 0
}
