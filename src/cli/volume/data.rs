//! The moving of bytes between volumes and files, in pieces and several at a time. Knows nothing of networks: a volume
//! is whatever reads and writes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context as Digester, SHA256};
use futures::stream::{self, StreamExt, TryStreamExt};
use indicatif::ProgressBar;

use super::super::exit::{Exit, Failure};
use super::image::Image;

/// What is moved at once: a cluster, so that a skipped piece leaves a whole cluster of a thin volume unallocated.
pub const PIECE_BYTES: u64 = 1 << 20;
/// Pieces under way at once.
const DEPTH: usize = 16;

/// Something with blocks. Offsets and lengths are in bytes, and multiples of its block size.
#[allow(async_fn_in_trait)] // Used by this program only, on one thread.
pub trait Volume {
    /// Its size, a multiple of its block size.
    fn size_bytes(&self) -> u64;
    /// Reads from `offset` on.
    async fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Failure>;
    /// Writes from `offset` on.
    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure>;
    /// Makes the range read as zeroes.
    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Failure>;
    /// Makes what was written durable.
    async fn flush(&self) -> Result<(), Failure>;
}

/// What an import did, in bytes.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Written as they are.
    pub written_bytes: u64,
    /// Zeroes, written as such or left out of a blank volume.
    pub zero_bytes: u64,
}

/// Fills a volume with an image, what is past the image's end with zeroes, and flushes. In a `blank` volume, which
/// reads as zeroes already, zeroes are left out.
pub async fn import(volume: &impl Volume, image: &Image, blank: bool, bar: &ProgressBar) -> Result<Imported, Failure> {
    let size = volume.size_bytes();
    if image.size_bytes() > size {
        let problem = format!("the image has {} bytes, the volume only {size}", image.size_bytes());
        return Err(Failure::new(Exit::Precondition, problem));
    }
    let moved = stream::iter(pieces(size)).map(|piece| async move {
        let length = piece.end - piece.start;
        let imported = match image.read(piece.clone()).await? {
            Some(data) => {
                volume.write(piece.start, &data).await?;
                Imported { written_bytes: length, zero_bytes: 0 }
            }
            None => {
                if !blank {
                    volume.write_zeroes(piece.start, length).await?;
                }
                Imported { written_bytes: 0, zero_bytes: length }
            }
        };
        bar.inc(length);
        Ok::<_, Failure>(imported)
    });
    let total = moved.buffer_unordered(DEPTH).try_fold(Imported::default(), |sum, one| async move {
        Ok(Imported {
            written_bytes: sum.written_bytes + one.written_bytes,
            zero_bytes: sum.zero_bytes + one.zero_bytes,
        })
    });
    let imported = total.await?;
    volume.flush().await?;
    Ok(imported)
}

/// Copies a volume into an empty file, with holes where there are only zeroes, and syncs it.
pub async fn export(volume: &impl Volume, file: File, bar: &ProgressBar) -> Result<(), Failure> {
    let size = volume.size_bytes();
    file.set_len(size)?;
    let file = Arc::new(file);
    let moved = stream::iter(pieces(size)).map(|piece| {
        let file = file.clone();
        async move {
            let length = piece.end - piece.start;
            let data = volume.read(piece.start, length as usize).await?;
            if !is_zero(&data) {
                blocking(move || file.write_all_at(&data, piece.start)).await?;
            }
            bar.inc(length);
            Ok::<_, Failure>(())
        }
    });
    moved.buffer_unordered(DEPTH).try_collect::<()>().await?;
    Ok(blocking(move || file.sync_all()).await?)
}

/// The SHA-256 of a volume, in lower-case hexadecimal.
pub async fn checksum(volume: &impl Volume, bar: &ProgressBar) -> Result<String, Failure> {
    let read = stream::iter(pieces(volume.size_bytes()))
        .map(|piece| async move { volume.read(piece.start, (piece.end - piece.start) as usize).await });
    let digester = read.buffered(DEPTH).try_fold(Digester::new(&SHA256), |mut digester, data| async move {
        digester.update(&data);
        bar.inc(data.len() as u64);
        Ok(digester)
    });
    let digest = digester.await?.finish();
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn pieces(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size).step_by(PIECE_BYTES as usize).map(move |start| start..(start + PIECE_BYTES).min(size))
}

/// Whether there is nothing but zeroes.
pub fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

/// File work, off the thread that drives the network.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
