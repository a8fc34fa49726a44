//! An image from a file or block device of this node.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;

use super::piece::{DEPTH, Piece, Pieces, offsets};
use crate::{Error, Result};

/// Opens the file of exactly `size` bytes.
pub(super) async fn open(path: PathBuf, size: u64) -> Result<Pieces<'static>> {
    let shown = format!("file {}", path.display());
    let file = blocking(move || open_now(&path, size)).await?;
    let reads = futures::stream::iter(offsets(size)).map(move |offset| {
        let (file, shown) = (file.clone(), shown.clone());
        blocking(move || {
            let mut piece = Piece::empty(offset, size)?;
            let part = &mut piece.buffer[..piece.length];
            file.read_exact_at(part, offset).map_err(|error| Error::medium(shown, error.to_string()))?;
            Ok(piece)
        })
    });
    Ok(reads.buffered(DEPTH).boxed())
}

fn open_now(path: &Path, size: u64) -> Result<Arc<File>> {
    let failed = |error: std::io::Error| Error::medium(format!("file {}", path.display()), error.to_string());
    // A pipe without a writer would hold its opener for ever.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let length = match metadata.file_type() {
        kind if kind.is_file() => metadata.len(),
        kind if kind.is_block_device() => file.seek(SeekFrom::End(0)).map_err(failed)?,
        _ => {
            let problem = "it is neither a regular file nor a block device";
            return Err(Error::precondition(format!("file {}", path.display()), problem));
        }
    };
    if length != size {
        let problem = format!("it has {length} bytes, {size} were asked for");
        return Err(Error::precondition(format!("file {}", path.display()), problem));
    }
    Ok(Arc::new(file))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal("reading of a file", error.to_string())))
}
