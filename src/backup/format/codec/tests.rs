//! Block files of every shape that the reader must take, and of those it must not.

use lz4_flex::frame::{BlockMode, BlockSize as FrameBlockSize};

use super::*;

const LENGTH: usize = 2 << 20;

/// Compressible with long-range repeats, so that linked blocks really refer back.
fn content() -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut page = vec![0; 40_000];
    for byte in &mut page {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    page.iter().copied().cycle().take(LENGTH).collect()
}

fn check(method: CompressionMethod, file: &[u8], content: &[u8]) -> Result<(), FormatError> {
    let mut out = vec![0xFF; content.len()];
    decompress(method, file, Digest::of(content), &mut out)?;
    assert_eq!(out, content);
    Ok(())
}

fn lz4(info: FrameInfo, content: &[u8]) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_method_round_trips_and_announces_itself_as_longhorn_does() {
    let content = content();
    for method in [CompressionMethod::None, CompressionMethod::Gzip, CompressionMethod::Lz4] {
        let file = compress(method, &content).unwrap();
        assert!(file.len() as u64 <= file_limit(BlockSize::DEFAULT));
        check(method, &file, &content).unwrap();
    }
    let file = compress(CompressionMethod::Lz4, &content).unwrap();
    assert_eq!(file[..7], [0x04, 0x22, 0x4d, 0x18, 0x64, 0x70, 0xb9]);
    let file = compress(CompressionMethod::Gzip, &content).unwrap();
    assert_eq!(file[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
}

#[test]
fn a_large_block_is_several_lz4_blocks() {
    let content: Vec<u8> = content().into_iter().cycle().take(16 << 20).collect();
    let file = compress(CompressionMethod::Lz4, &content).unwrap();
    check(CompressionMethod::Lz4, &file, &content).unwrap();
}

#[test]
fn every_lz4_frame_variant_is_read() {
    let content = content();
    let sizes = [FrameBlockSize::Max64KB, FrameBlockSize::Max256KB, FrameBlockSize::Max1MB, FrameBlockSize::Max4MB];
    for size in sizes {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for bits in 0..8 {
                let info = FrameInfo::new()
                    .block_size(size)
                    .block_mode(mode)
                    .block_checksums(bits & 1 != 0)
                    .content_checksum(bits & 2 != 0)
                    .content_size((bits & 4 != 0).then_some(LENGTH as u64));
                let file = lz4(info, &content);
                check(CompressionMethod::Lz4, &file, &content)
                    .unwrap_or_else(|error| panic!("{size:?} {mode:?} {bits}: {error}"));
            }
        }
    }
}

#[test]
fn several_frames_and_skippable_ones_are_read() {
    let content = content();
    let linked = || FrameInfo::new().block_size(FrameBlockSize::Max64KB).block_mode(BlockMode::Linked);
    let mut file = vec![0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    file.extend(lz4(linked(), &content[..LENGTH / 3]));
    file.extend(lz4(linked(), &content[LENGTH / 3..]));
    check(CompressionMethod::Lz4, &file, &content).unwrap();
    file.push(0);
    assert!(check(CompressionMethod::Lz4, &file, &content).is_err());
}

#[test]
fn several_gzip_members_are_read() {
    let content = content();
    let mut file = compress(CompressionMethod::Gzip, &content[..1000]).unwrap();
    file.extend(compress(CompressionMethod::Gzip, &content[1000..]).unwrap());
    check(CompressionMethod::Gzip, &file, &content).unwrap();
}

#[test]
fn the_first_bytes_decide_unless_the_method_is_none() {
    let content = content();
    let gzip = compress(CompressionMethod::Gzip, &content).unwrap();
    let lz4 = compress(CompressionMethod::Lz4, &content).unwrap();
    check(CompressionMethod::Lz4, &gzip, &content).unwrap();
    check(CompressionMethod::Gzip, &lz4, &content).unwrap();
    assert!(check(CompressionMethod::None, &lz4, &content).is_err());
    assert!(check(CompressionMethod::Lz4, &content, &content).is_err());
}

#[test]
fn cut_flipped_and_overlong_files_are_refused() {
    let content = content();
    for method in [CompressionMethod::None, CompressionMethod::Gzip, CompressionMethod::Lz4] {
        let file = compress(method, &content).unwrap();
        for length in [0, 1, 3, 4, 6, 9, 20, file.len() / 2, file.len() - 1] {
            assert!(check(method, &file[..length], &content).is_err(), "{method} cut to {length} was taken");
        }
        let mut longer = content.clone();
        longer.push(0);
        let overlong = compress(method, &longer).unwrap();
        assert!(check(method, &overlong, &content).is_err(), "{method} of one byte more was taken");
    }
    let mut raw = content.clone();
    raw[12_345] ^= 1;
    assert!(matches!(check(CompressionMethod::None, &raw, &content), Err(FormatError::Checksum { .. })));
}
