//! Memory a device can reach: pinned, from hugepages where there are any.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use spdk_sys as sys;

use super::errno::{Errno, SpdkError};

/// Alignment of every buffer: the largest logical block we serve, and what O_DIRECT asks for.
pub const ALIGNMENT: usize = 4096;

/// An owned buffer for I/O, zeroed when made. Its memory does not move and may be filled on any thread.
pub struct DmaBuffer {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the buffer is plain memory with one owner; spdk_dma_free may be called on any thread.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared reference gives only reads of plain memory.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Takes `length` bytes from the environment's heap. Fails when that is exhausted.
    pub fn zeroed(length: usize) -> Result<Self, SpdkError> {
        // SAFETY: the environment is up whenever a caller can exist (Environment::start is the only way to reactors),
        // and a null physical address pointer means "not wanted".
        let start = unsafe { sys::spdk_dma_zmalloc(length.max(1), ALIGNMENT, std::ptr::null_mut()) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) => Ok(Self { start, length }),
            None => Err(SpdkError::failed("allocation", format!("a DMA buffer of {length} bytes"), Errno::ENOMEM)),
        }
    }

    /// Shortens the buffer; the memory stays allocated until it is dropped.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    pub(super) fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` are ours, initialised by zmalloc, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for DmaBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for DmaBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl std::fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuffer({} bytes)", self.length)
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from spdk_dma_zmalloc and is freed once, here.
        unsafe { sys::spdk_dma_free(self.start.as_ptr().cast()) };
    }
}
