//! What SPDK itself counts of the I/O on a bdev.

use std::ffi::{c_int, c_void};

use spdk_sys as sys;

use super::completion::Slot;
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;
use crate::name::BdevName;

/// I/O that a bdev completed without an error since it was registered, by all who have or had it open. Times are as precise as
/// a reactor's turn is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoStats {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// The time that reads took, added up, in nanoseconds.
    pub read_ns: u64,
    /// Writes; write-zeroes are not counted.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// The time that writes took, added up, in nanoseconds.
    pub write_ns: u64,
}

/// Adds up the counters of all threads; asks each of them in turn.
pub async fn io_stats(_on: OnControl, bdev: &BdevName) -> Result<IoStats, SpdkError> {
    let name = text::to_c(bdev.as_str());
    let (slot, answer) = Slot::<(c_int, IoStats)>::new();
    // SAFETY: on the control thread; the name is read during the call, and `counted` takes the slot, once.
    unsafe { sys::cs_bdev_stat(name.as_ptr(), Some(counted), slot.into_raw()) };
    let (rc, stats) = answer.await;
    match Errno::check(rc) {
        Ok(()) => Ok(stats),
        Err(Errno::ENODEV) => Err(SpdkError::NoSuchBdev(bdev.clone())),
        Err(errno) => Err(SpdkError::failed("statistics", format!("bdev {bdev}"), errno)),
    }
}

unsafe extern "C" fn counted(arg: *mut c_void, stat: *const sys::cs_bdev_stat, rc: c_int) {
    // SAFETY: `arg` is the slot that `io_stats` handed over, called back once on the same thread; `stat` lives for the
    // call.
    let (slot, stat) = unsafe { (Slot::<(c_int, IoStats)>::from_raw(arg), &*stat) };
    // SAFETY: reads a constant of the environment, which is up.
    let hz = u128::from(unsafe { sys::spdk_get_ticks_hz() }.max(1));
    let nanoseconds = |ticks: u64| u64::try_from(u128::from(ticks) * 1_000_000_000 / hz).unwrap_or(u64::MAX);
    let stats = IoStats {
        reads: stat.reads,
        read_bytes: stat.bytes_read,
        read_ns: nanoseconds(stat.read_ticks),
        writes: stat.writes,
        written_bytes: stat.bytes_written,
        write_ns: nanoseconds(stat.write_ticks),
    };
    slot.fill((rc, stats));
}
