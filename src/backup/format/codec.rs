//! Block files: from uncompressed blocks and back, verified (§5).

use std::io::{Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use lz4_flex::frame::{BlockMode, BlockSize as FrameBlockSize, FrameEncoder, FrameInfo};

use super::block::BlockSize;
use super::compression::CompressionMethod;
use super::digest::Digest;
use super::error::FormatError;
use super::lz4_frame;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// RFC 1952: the operating system is unknown, which is what Go writes.
const OPERATING_SYSTEM_UNKNOWN: u8 = 255;
/// Room for headers, checksums and skippable frames around a block that does not compress.
const FILE_OVERHEAD: u64 = 64 << 10;

/// The largest block file that is read, in bytes. No method makes a block this much bigger than it was.
pub fn file_limit(block_size: BlockSize) -> u64 {
    block_size.bytes() + block_size.bytes() / 16 + FILE_OVERHEAD
}

/// Makes a block file. CPU work, so not for an async thread.
pub fn compress(method: CompressionMethod, content: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    match method {
        CompressionMethod::None => Ok(content.to_vec()),
        CompressionMethod::Gzip => {
            let room = Vec::with_capacity(content.len() / 2);
            let builder = GzBuilder::new().operating_system(OPERATING_SYSTEM_UNKNOWN);
            let mut encoder = builder.write(room, Compression::new(6));
            encoder.write_all(content)?;
            encoder.finish()
        }
        CompressionMethod::Lz4 => {
            let frame = FrameInfo::new()
                .block_mode(BlockMode::Independent)
                .block_size(FrameBlockSize::Max4MB)
                .content_checksum(true);
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::with_capacity(content.len() / 2));
            encoder.write_all(content)?;
            encoder.finish().map_err(std::io::Error::other)
        }
    }
}

/// Fills `out`, whose length is the block size, from a block file, and proves that the content has `expected`.
///
/// A method other than `none` only says that the file is compressed: how is decided by its first bytes, because
/// a volume whose method changed has files of both kinds. CPU work, so not for an async thread.
pub fn decompress(method: CompressionMethod, file: &[u8], expected: Digest, out: &mut [u8]) -> Result<(), FormatError> {
    match method {
        CompressionMethod::None => copy_raw(file, out)?,
        CompressionMethod::Gzip | CompressionMethod::Lz4 => decompress_by_magic(file, out)?,
    }
    let found = Digest::of(out);
    if found == expected { Ok(()) } else { Err(FormatError::Checksum { found: found.to_string() }) }
}

fn decompress_by_magic(file: &[u8], out: &mut [u8]) -> Result<(), FormatError> {
    if file.starts_with(&GZIP_MAGIC) {
        gunzip(file, out)
    } else if lz4_frame::starts_frame(file) {
        lz4_frame::decode(file, out)
    } else {
        Err(FormatError::Decompress { method: "gzip or lz4", problem: "its first bytes belong to neither".into() })
    }
}

fn copy_raw(file: &[u8], out: &mut [u8]) -> Result<(), FormatError> {
    if file.len() != out.len() {
        let found = format!("{} bytes rather", file.len());
        return Err(FormatError::BlockLength { found, expected: out.len() as u64 });
    }
    out.copy_from_slice(file);
    Ok(())
}

fn gunzip(file: &[u8], out: &mut [u8]) -> Result<(), FormatError> {
    let failed = |error: std::io::Error| FormatError::Decompress { method: "gzip", problem: error.to_string() };
    let mut decoder = MultiGzDecoder::new(file);
    let mut filled = 0;
    while filled < out.len() {
        match decoder.read(&mut out[filled..]).map_err(failed)? {
            0 => {
                let found = format!("{filled} bytes, less");
                return Err(FormatError::BlockLength { found, expected: out.len() as u64 });
            }
            count => filled += count,
        }
    }
    // Reading on to the end checks the trailer and that there is no more.
    match decoder.read(&mut [0]).map_err(failed)? {
        0 => Ok(()),
        _ => Err(FormatError::BlockLength { found: "more".into(), expected: out.len() as u64 }),
    }
}

#[cfg(test)]
mod tests;
