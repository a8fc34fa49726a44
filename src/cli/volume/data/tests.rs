use std::cell::{Cell, RefCell};
use std::io::Write;

use super::super::image::ImageFormat;
use super::*;

/// A volume in memory that counts what is asked of it and checks its alignment.
struct Memory {
    bytes: RefCell<Vec<u8>>,
    writes: Cell<usize>,
    zeroings: Cell<usize>,
    flushed: Cell<bool>,
    fail_write_at: Option<u64>,
}

impl Memory {
    fn new(size: u64, fill: u8) -> Self {
        Self {
            bytes: RefCell::new(vec![fill; size as usize]),
            writes: Cell::new(0),
            zeroings: Cell::new(0),
            flushed: Cell::new(false),
            fail_write_at: None,
        }
    }

    fn range(&self, offset: u64, length: usize) -> Range<usize> {
        assert!(offset.is_multiple_of(512) && length.is_multiple_of(512), "{offset} {length}");
        offset as usize..offset as usize + length
    }
}

impl Volume for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        Ok(self.bytes.borrow()[self.range(offset, length)].to_vec())
    }

    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        tokio::task::yield_now().await;
        if self.fail_write_at == Some(offset) {
            return Err(Failure::failed("medium error"));
        }
        self.writes.set(self.writes.get() + 1);
        self.bytes.borrow_mut()[self.range(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.zeroings.set(self.zeroings.get() + 1);
        self.bytes.borrow_mut()[self.range(offset, length as usize)].fill(0);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Failure> {
        self.flushed.set(true);
        Ok(())
    }
}

/// 5 MiB and 100 bytes: data, a hole of 2 MiB, data, written zeroes of 1 MiB, data that ends within a block.
fn image_bytes() -> Vec<u8> {
    let mut bytes = vec![0; (5 << 20) + 100];
    bytes[..1 << 20].fill(1);
    bytes[3 << 20..4 << 20].fill(2);
    bytes[5 << 20..].fill(3);
    bytes
}

fn image_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes = image_bytes();
    file.write_all(&bytes[..1 << 20]).unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start(3 << 20)).unwrap();
    file.write_all(&bytes[3 << 20..]).unwrap();
    file
}

async fn open(file: &tempfile::NamedTempFile) -> Image {
    Image::open(file.path(), Some(ImageFormat::Raw)).await.expect("an image")
}

#[tokio::test]
async fn an_import_defines_every_byte_of_a_volume_with_other_contents() {
    let file = image_file();
    let volume = Memory::new(7 << 20, 0xee);
    let imported = import(&volume, &open(&file).await, false, &ProgressBar::hidden()).await.expect("imported");
    let mut expected = image_bytes();
    expected.resize(7 << 20, 0);
    assert!(*volume.bytes.borrow() == expected);
    assert!(volume.flushed.get());
    assert_eq!(imported, Imported { written_bytes: 3 << 20, zero_bytes: 4 << 20 });
}

#[tokio::test]
async fn an_import_into_a_blank_volume_leaves_zeroes_out() {
    let file = image_file();
    let volume = Memory::new(7 << 20, 0);
    import(&volume, &open(&file).await, true, &ProgressBar::hidden()).await.expect("imported");
    let mut expected = image_bytes();
    expected.resize(7 << 20, 0);
    assert!(*volume.bytes.borrow() == expected);
    assert_eq!((volume.writes.get(), volume.zeroings.get()), (3, 0));
}

#[tokio::test]
async fn an_image_larger_than_the_volume_is_refused_before_anything_is_written() {
    let file = image_file();
    let volume = Memory::new(5 << 20, 0xee);
    let failure = import(&volume, &open(&file).await, false, &ProgressBar::hidden()).await.expect_err("too large");
    assert_eq!(failure.exit, Exit::Precondition);
    assert_eq!(volume.writes.get() + volume.zeroings.get(), 0);
}

#[tokio::test]
async fn a_failed_write_fails_the_import_without_a_flush() {
    let file = image_file();
    let volume = Memory { fail_write_at: Some(3 << 20), ..Memory::new(7 << 20, 0) };
    import(&volume, &open(&file).await, true, &ProgressBar::hidden()).await.expect_err("a medium error");
    assert!(!volume.flushed.get());
}

#[tokio::test]
async fn an_export_has_the_volumes_bytes_and_its_checksum() {
    let source = image_file();
    let volume = Memory::new((5 << 20) + 512, 0);
    import(&volume, &open(&source).await, true, &ProgressBar::hidden()).await.expect("imported");

    let file = tempfile::NamedTempFile::new().unwrap();
    export(&volume, file.reopen().unwrap(), &ProgressBar::hidden()).await.expect("exported");
    let exported = std::fs::read(file.path()).unwrap();
    assert!(exported == *volume.bytes.borrow());

    let expected: String =
        <sha2::Sha256 as sha2::Digest>::digest(&exported).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(checksum(&volume, &ProgressBar::hidden()).await.expect("a digest"), expected);
}
