//! The memory of an I/O on a device of ours, as slices: for devices that move the data themselves.

use super::bdev::IoKind;
use super::vdev::{Vdev, Vio};

impl<V: Vdev> Vio<V> {
    /// A write's data from byte `offset` to the end, in pieces.
    ///
    /// # Panics
    /// When the I/O is no write: others lend no data.
    pub fn data(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        assert_eq!(self.kind(), IoKind::Write, "only a write brings data");
        pieces(self.memory(), offset).map(|(base, length)| {
            // SAFETY: the client keeps the memory of a write in place and unchanged until the I/O is answered, which takes the Vio;
            // the borrow of `self` ends before.
            unsafe { std::slice::from_raw_parts(base, length) }
        })
    }

    /// A read's room from byte `offset` to the end, in pieces.
    ///
    /// # Panics
    /// When the I/O is no read: others lend no room.
    pub fn room(&mut self, offset: usize) -> impl Iterator<Item = &mut [u8]> {
        assert_eq!(self.kind(), IoKind::Read, "only a read has room");
        pieces(self.memory(), offset).map(|(base, length)| {
            // SAFETY: the memory of a read is the device's alone until the I/O is answered, which takes the Vio, and pieces of one
            // I/O do not overlap. A read goes to one device at a time: a fork has no second leg of it.
            unsafe { std::slice::from_raw_parts_mut(base, length) }
        })
    }
}

/// Pieces of memory without those bytes that come before `offset`.
fn pieces(memory: &[spdk_sys::iovec], offset: usize) -> impl Iterator<Item = (*mut u8, usize)> {
    let mut skip = offset;
    memory.iter().filter_map(move |piece| {
        let length = piece.iov_len;
        let skipped = skip.min(length);
        skip -= skipped;
        // An empty piece may have no address at all.
        (skipped < length).then(|| (piece.iov_base.cast::<u8>().wrapping_add(skipped), length - skipped))
    })
}
