//! What can be wrong with the bytes of a store, before it is known whose bytes they are.

/// Why bytes of a backup store cannot be what they should be.
///
/// The reader of the file adds which file of which volume it was and makes it a
/// [`crate::Error::Corruption`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not the JSON that Longhorn writes.
    #[error("not a valid cfg file: {0}")]
    Json(String),
    /// A block size that no reader can work with.
    #[error("block size {0:?} is not a whole number of 4 KiB pages between 4 KiB and 64 MiB")]
    BlockSize(String),
    /// A compression method nobody has heard of.
    #[error("compression method {0:?} is unknown; known are none, gzip and lz4")]
    Compression(String),
    /// Not 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a block checksum of 64 lower-case hexadecimal digits")]
    Digest(String),
    /// A block that does not start at a multiple of the block size.
    #[error("block at offset {offset} is not aligned to the block size {block_size}")]
    Misaligned {
        /// Where the block starts, in bytes.
        offset: u64,
        /// The block size of the backup, in bytes.
        block_size: u64,
    },
    /// Two blocks for one place.
    #[error("two blocks are listed for offset {offset}")]
    Duplicate {
        /// Where both start, in bytes.
        offset: u64,
    },
    /// A block that ends after the end of the volume.
    #[error("block at offset {offset} ends after the end of the volume at {volume_size}")]
    BeyondEnd {
        /// Where the block starts, in bytes.
        offset: u64,
        /// The size of the volume, in bytes.
        volume_size: u64,
    },
    /// A volume that is not a whole number of blocks.
    #[error("volume size {volume_size} is not a multiple of block size {block_size}")]
    VolumeSize {
        /// The size of the volume, in bytes.
        volume_size: u64,
        /// The block size, in bytes.
        block_size: u64,
    },
    /// A block file that does not decompress.
    #[error("block file does not decompress as {method}: {problem}")]
    Decompress {
        /// The format its first bytes announce.
        method: &'static str,
        /// What the decoder met.
        problem: String,
    },
    /// A block file that decompresses to another length than a block has.
    #[error("block file holds {found} than the {expected} bytes of a block")]
    BlockLength {
        /// `less` or `more`, with numbers where they are known.
        found: String,
        /// The block size, in bytes.
        expected: u64,
    },
    /// The content is not what its name says.
    #[error("checksum verification failed: content has checksum {found}")]
    Checksum {
        /// The checksum of what was read.
        found: String,
    },
}
