//! The compression methods by which block files are written (§1, §5).

use std::fmt;

use super::error::FormatError;

/// How block files are compressed. The volume's first backup fixes it for the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionMethod {
    /// The raw block.
    None,
    /// RFC 1952; what files without the key mean.
    Gzip,
    /// LZ4 frames; the manager's default for new volumes.
    Lz4,
}

impl CompressionMethod {
    /// Parses the text of a cfg file or request; empty means gzip.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        match text {
            "" | "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            _ => Err(FormatError::Compression(text.chars().take(40).collect())),
        }
    }

    /// The text that cfg files and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
        }
    }
}

impl fmt::Display for CompressionMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
