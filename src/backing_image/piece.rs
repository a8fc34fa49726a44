//! An image in pieces, as its sources give it and its lvol takes it.

use futures::stream::{BoxStream, StreamExt, TryStreamExt};

use crate::spdk::DmaBuffer;
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// Bytes of a piece: the largest I/O of our NVMe/TCP targets, and a whole number of blocks of either size.
pub(super) const PIECE: u64 = 256 << 10;
/// Blocks of all our lvols are as long or shorter.
const BLOCK: u64 = 4096;
/// Pieces that are read ahead, and written at once; 4 MiB of DMA memory for each image.
pub(super) const DEPTH: usize = 8;

/// A part of an image: whole blocks, zeroes behind the image's end.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) buffer: DmaBuffer,
    /// Bytes of the image in it.
    pub(super) length: usize,
}

/// All pieces of an image, in their order.
pub(super) type Pieces<'a> = BoxStream<'a, Result<Piece>>;

impl Piece {
    /// Of an image of `size` bytes, from `offset` on, to be filled.
    pub(super) fn empty(offset: u64, size: u64) -> Result<Self> {
        let length = PIECE.min(size - offset);
        let buffer = DmaBuffer::zeroed(length.next_multiple_of(BLOCK) as usize)?;
        Ok(Self { offset, buffer, length: length as usize })
    }
}

/// The offsets of the pieces of an image.
pub(super) fn offsets(size: u64) -> impl Iterator<Item = u64> + Send {
    (0..size).step_by(PIECE as usize)
}

/// The pieces that a device has.
pub(super) fn of_device(device: &BdevClient, size: u64) -> Result<Pieces<'_>> {
    if device.geometry().size() < size {
        let problem = format!("it has {} bytes, {size} were asked for", device.geometry().size());
        return Err(Error::precondition("the source of the image", problem));
    }
    let reads = futures::stream::iter(offsets(size)).map(move |offset| async move {
        let Piece { buffer, length, .. } = Piece::empty(offset, size)?;
        let buffer = device.read(offset, buffer).await?;
        Ok(Piece { offset, buffer, length })
    });
    Ok(reads.buffered(DEPTH).boxed())
}

/// Writes the pieces to a new lvol. What is zero is left out: it takes no space, and reads as zeroes.
pub(super) async fn write_all(device: &BdevClient, pieces: Pieces<'_>, progress: impl Fn(u64) + Sync) -> Result<()> {
    let progress = &progress;
    let writes = pieces.map(|piece| async move {
        let piece = piece?;
        if piece.buffer.iter().any(|byte| *byte != 0) {
            device.write(piece.offset, piece.buffer).await?;
        }
        progress(piece.length as u64);
        Ok(())
    });
    writes.buffer_unordered(DEPTH).try_for_each(|()| async { Ok(()) }).await
}
