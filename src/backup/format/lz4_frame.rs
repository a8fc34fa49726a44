//! Reading LZ4 frames straight into the caller's buffer (§5).
//!
//! The frame's own checksums are not verified: every block that is read this way is proven by its SHA-512, which sees
//! all that they could see. Decoding block by block into the destination saves the copy that a streaming reader makes.

use lz4_flex::block::{decompress_into, decompress_into_with_dict};

use super::error::FormatError;

const FRAME_MAGIC: u32 = 0x184D_2204;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const SKIPPABLE_MASK: u32 = 0xFFFF_FFF0;
/// How far back a linked block may refer.
const WINDOW: usize = 64 << 10;
const STORED_BIT: u32 = 1 << 31;

/// Whether a file begins with an LZ4 frame or a skippable frame.
pub(super) fn starts_frame(file: &[u8]) -> bool {
    let Some(magic) = file.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else {
        return false;
    };
    magic == FRAME_MAGIC || magic & SKIPPABLE_MASK == SKIPPABLE_MAGIC
}

/// Decodes all frames of `file` into `out`, which they must fill exactly.
pub(super) fn decode(file: &[u8], out: &mut [u8]) -> Result<(), FormatError> {
    let mut input = Input { rest: file };
    let mut filled = 0;
    while !input.rest.is_empty() {
        let magic = input.word()?;
        if magic & SKIPPABLE_MASK == SKIPPABLE_MAGIC {
            let length = input.word()?;
            input.take(length as usize)?;
        } else if magic == FRAME_MAGIC {
            let start = filled;
            filled = decode_frame(&mut input, out, start)?;
        } else {
            return Err(failed("bytes after the frame are no frame"));
        }
    }
    if filled < out.len() {
        let found = format!("{filled} bytes, less");
        return Err(FormatError::BlockLength { found, expected: out.len() as u64 });
    }
    Ok(())
}

/// What the frame's header says about what follows it.
struct Descriptor {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    block_limit: usize,
}

/// Decodes one frame whose content starts at `start` in `out`; returns where it ends.
fn decode_frame(input: &mut Input<'_>, out: &mut [u8], start: usize) -> Result<usize, FormatError> {
    let descriptor = read_descriptor(input)?;
    let mut filled = start;
    loop {
        let word = input.word()?;
        if word == 0 {
            break;
        }
        let length = (word & !STORED_BIT) as usize;
        let data = input.take(length)?;
        if descriptor.block_checksums {
            input.word()?;
        }
        filled += if word & STORED_BIT != 0 {
            copy_stored(data, out, filled)?
        } else {
            // Links do not reach over the start of their frame.
            let window = if descriptor.linked { start.max(filled.saturating_sub(WINDOW)) } else { filled };
            decode_block(data, out, window, filled, descriptor.block_limit)?
        };
    }
    if descriptor.content_checksum {
        input.word()?;
    }
    Ok(filled)
}

fn read_descriptor(input: &mut Input<'_>) -> Result<Descriptor, FormatError> {
    let flags = input.byte()?;
    let sizes = input.byte()?;
    if flags >> 6 != 1 {
        return Err(failed("unknown version of the frame format"));
    }
    if flags & 0x01 != 0 {
        return Err(failed("frame needs a dictionary"));
    }
    if flags & 0x08 != 0 {
        input.take(8)?;
    }
    input.byte()?;
    let block_limit = match (sizes >> 4) & 7 {
        size @ 4..=7 => 1 << (8 + 2 * size),
        _ => return Err(failed("unknown block size in the frame header")),
    };
    Ok(Descriptor {
        linked: flags & 0x20 == 0,
        block_checksums: flags & 0x10 != 0,
        content_checksum: flags & 0x04 != 0,
        block_limit,
    })
}

fn copy_stored(data: &[u8], out: &mut [u8], filled: usize) -> Result<usize, FormatError> {
    let expected = out.len() as u64;
    let place = out.get_mut(filled..filled + data.len());
    place.ok_or(FormatError::BlockLength { found: "more".into(), expected })?.copy_from_slice(data);
    Ok(data.len())
}

fn decode_block(data: &[u8], out: &mut [u8], window: usize, filled: usize, limit: usize) -> Result<usize, FormatError> {
    let end = out.len().min(filled + limit);
    let (before, rest) = out.split_at_mut(filled);
    let place = &mut rest[..end - filled];
    let result = match &before[window..] {
        [] => decompress_into(data, place),
        dictionary => decompress_into_with_dict(data, place, dictionary),
    };
    result.map_err(|error| failed(error.to_string()))
}

/// The bytes not read yet.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| failed("the file is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, FormatError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

fn failed(problem: impl Into<String>) -> FormatError {
    FormatError::Decompress { method: "lz4", problem: problem.into() }
}
