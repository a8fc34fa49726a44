//! The digest of what a device holds: read in bounded pieces, several under way, digested on a worker thread.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Algorithm, Context as Digester, Digest};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use crate::spdk::{BdevClient, DmaBuffer};
use crate::{Error, Result};

/// Bytes of one read.
const PIECE: u64 = 512 << 10;
/// Reads under way at once. With the pieces that wait for the digest, one takes 6 MiB of DMA memory.
const READS: usize = 8;
/// Pieces that were read and wait for the digest.
const WAITING: usize = 3;

/// Digests the first `size` bytes of a device, whole blocks or up to its end; `progress` is told how many bytes of each
/// piece were read. Dropping the future ends the reading.
pub async fn digest_device(
    device: &BdevClient,
    size: u64,
    algorithm: &'static Algorithm,
    progress: impl Fn(u64),
) -> Result<Digest> {
    let block_size = u64::from(device.geometry().block_size);
    let (pieces, received) = mpsc::channel(WAITING);
    let idle = Arc::new(Idle::default());
    let digested = tokio::task::spawn_blocking({
        let idle = idle.clone();
        move || digest_all(received, algorithm, &idle)
    });
    let offsets = stream::iter((0..size).step_by(PIECE as usize));
    let mut reads = offsets
        .map(|offset| {
            let wanted = PIECE.min(size - offset);
            let buffer = idle.take(wanted.next_multiple_of(block_size) as usize);
            async move { Ok::<_, Error>((device.read(offset, buffer?).await?, wanted as usize)) }
        })
        .buffered(READS);
    while let Some(piece) = reads.try_next().await? {
        let length = piece.1 as u64;
        let ended = |_| Error::internal("a checksum", "its worker ended early");
        pieces.send(piece).await.map_err(ended)?;
        progress(length);
    }
    drop(pieces);
    digested.await.map_err(|error| Error::internal("a checksum", error.to_string()))
}

/// Buffers to be used again.
#[derive(Default)]
struct Idle(Mutex<Vec<DmaBuffer>>);

impl Idle {
    fn take(&self, length: usize) -> Result<DmaBuffer> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // All pieces but the last have one length.
        match idle.pop().filter(|buffer| buffer.len() == length) {
            Some(buffer) => Ok(buffer),
            None => Ok(DmaBuffer::zeroed(length)?),
        }
    }

    fn put(&self, buffer: DmaBuffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Digests pieces in their order until there are no more. Blocks; for a worker thread.
fn digest_all(mut pieces: mpsc::Receiver<(DmaBuffer, usize)>, algorithm: &'static Algorithm, idle: &Idle) -> Digest {
    let mut digester = Digester::new(algorithm);
    while let Some((piece, wanted)) = pieces.blocking_recv() {
        digester.update(&piece[..wanted]);
        idle.put(piece);
    }
    digester.finish()
}
