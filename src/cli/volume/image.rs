//! Image files: raw ones are read in place, holes and all; qcow2 goes through `qemu-img` into a scratch file first.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::super::exit::{Exit, Failure};
use super::data::{blocking, is_zero};

/// How an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// The bytes of the volume
    Raw,
    /// QEMU's format, by means of qemu-img
    Qcow2,
}

/// What a qcow2 file begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// An image whose bytes can be read.
#[derive(Debug)]
pub struct Image {
    file: Arc<File>,
    size_bytes: u64,
    /// Removed with the image.
    _scratch: Option<Scratch>,
}

impl Image {
    /// Opens a file; its format is looked up in its first bytes when none is given.
    pub async fn open(path: &Path, format: Option<ImageFormat>) -> Result<Self, Failure> {
        let at = |error: io::Error| refused(path, &error);
        let file = File::open(path).map_err(at)?;
        let format = match format {
            Some(format) => format,
            None => detect(&file).map_err(at)?,
        };
        let (file, scratch) = match format {
            ImageFormat::Raw => (file, None),
            ImageFormat::Qcow2 => {
                let scratch = Scratch::beside(&std::env::temp_dir().join("corriente-import"));
                qemu_img_convert((path, "qcow2"), (&scratch.0, "raw")).await?;
                (File::open(&scratch.0).map_err(at)?, Some(scratch))
            }
        };
        // A block device has no length; the position of its end is its size.
        let size_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(at)?;
        if size_bytes == 0 {
            return Err(Failure::usage(format!("{} is empty", path.display())));
        }
        Ok(Self { file: Arc::new(file), size_bytes, _scratch: scratch })
    }

    /// How many bytes the image has.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes of a range, zeroes past the image's end; `None` when all are zeroes. Holes are not read.
    pub async fn read(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        let end = range.end.min(self.size_bytes);
        if range.start >= end {
            return Ok(None);
        }
        let file = self.file.clone();
        blocking(move || {
            if is_hole(&file, range.start, end)? {
                return Ok(None);
            }
            let mut data = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut data[..(end - range.start) as usize], range.start)?;
            Ok((!is_zero(&data)).then_some(data))
        })
        .await
    }
}

fn detect(file: &File) -> io::Result<ImageFormat> {
    let mut magic = [0; QCOW2_MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == QCOW2_MAGIC => Ok(ImageFormat::Qcow2),
        Ok(()) => Ok(ImageFormat::Raw),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(ImageFormat::Raw),
        Err(error) => Err(error),
    }
}

/// Whether the file system knows of no data between two offsets. What does not support the question has no holes.
fn is_hole(file: &File, start: u64, end: u64) -> io::Result<bool> {
    let offset = i64::try_from(start).map_err(io::Error::other)?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).is_ok_and(|data| data >= end)),
        Err(Errno::ENXIO) => Ok(true),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file that does not outlive its user.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A name that nobody has, beginning like `path` and so on the same file system. The file is not made yet.
    pub fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}.partial", rand::random::<u64>()));
        Self(name.into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not there when it was renamed or never made.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Converts an image; sparse in, sparse out.
pub async fn qemu_img_convert(from: (&Path, &str), to: (&Path, &str)) -> Result<(), Failure> {
    let mut command = tokio::process::Command::new("qemu-img");
    command.args(["convert", "-f", from.1, "-O", to.1]).arg(from.0).arg(to.0).kill_on_drop(true);
    let output = command.output().await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Failure::new(Exit::Precondition, "qemu-img is not installed; on Debian it is in the package qemu-utils")
        }
        _ => Failure::failed(format!("qemu-img: {error}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let exit = if error.kind() == ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
    Failure::new(exit, format!("{}: {error}", path.display()))
}
