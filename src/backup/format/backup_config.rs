//! `backup_<name>.cfg`: one backup, with the complete block list of its image (§4).

use std::fmt::Write as _;

use serde::de::{IgnoredAny, MapAccess};

use crate::name::SnapshotName;

use super::block::{BackupBlock, BlockList, BlockSize, ByteOffset};
use super::compression::CompressionMethod;
use super::digest::Digest;
use super::error::FormatError;
use super::json::{self, Fields, Object, ObjectWriter, TextMap};
use super::labels::BLOCK_SIZE_PARAMETER;

/// The content of a backup's cfg file.
///
/// Texts are kept as they stand; the path of the file, not its `name`, says which backup it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// `Name`.
    pub name: String,
    /// `VolumeName`.
    pub volume_name: String,
    /// `SnapshotName`; may be empty.
    pub snapshot_name: String,
    /// `SnapshotCreatedAt`.
    pub snapshot_created_at: String,
    /// `CreatedTime`: when the backup was finished; empty while it is in progress.
    pub created_time: String,
    /// `Size`: number of blocks × block size.
    pub size: u64,
    /// `Labels`; `None` is `null`.
    pub labels: Option<TextMap>,
    /// `Parameters`; `None` is `null`.
    pub parameters: Option<TextMap>,
    /// `IsIncremental`: another backup was the base.
    pub is_incremental: bool,
    /// `CompressionMethod` of newly written block files; older ones may differ.
    pub compression_method: CompressionMethod,
    /// `NewlyUploadedDataSize`: bytes of block files that this backup created.
    pub newly_uploaded_size: u64,
    /// `ReUploadedDataSize`: bytes of block files that this backup wrote again.
    pub re_uploaded_size: u64,
    /// Whether `ProcessingBlocks` is an empty object or `null`. Means nothing, but Longhorn writes both.
    pub processing_blocks: ProcessingBlocks,
    /// `Blocks`: the complete image.
    pub blocks: BlockList,
    /// `SingleFile.FilePath`: empty for volumes.
    pub single_file_path: String,
}

/// The two forms of a key without meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessingBlocks {
    /// `null`: in incremental backups and in stubs.
    #[default]
    Null,
    /// `{}`: in full backups.
    Empty,
}

impl BackupConfig {
    /// Parses a file. Missing keys get the defaults of the releases that did not write them: gzip and 2 MiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let raw: RawBackup = json::parse(bytes)?;
        let parameters = raw.parameters.as_ref();
        let block_size = parameters.and_then(|map| map.get(BLOCK_SIZE_PARAMETER)).map_or("", String::as_str);
        let blocks = BlockList::new(BlockSize::parse_stored(block_size)?, raw.blocks()?)?;
        Ok(Self {
            blocks,
            name: raw.name,
            volume_name: raw.volume_name,
            snapshot_name: raw.snapshot_name,
            snapshot_created_at: raw.snapshot_created_at,
            created_time: raw.created_time,
            size: raw.size,
            labels: raw.labels,
            parameters: raw.parameters,
            is_incremental: raw.is_incremental,
            compression_method: CompressionMethod::parse(&raw.compression_method)?,
            newly_uploaded_size: raw.newly_uploaded_size,
            re_uploaded_size: raw.re_uploaded_size,
            processing_blocks: raw.processing_blocks,
            single_file_path: raw.single_file.path,
        })
    }

    /// The bytes that Longhorn would write for this backup.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut object = ObjectWriter::new();
        object.string("Name", &self.name);
        object.string("VolumeName", &self.volume_name);
        object.string("SnapshotName", &self.snapshot_name);
        object.string("SnapshotCreatedAt", &self.snapshot_created_at);
        object.string("CreatedTime", &self.created_time);
        object.integer_text("Size", self.size);
        object.text_map("Labels", self.labels.as_ref());
        object.text_map("Parameters", self.parameters.as_ref());
        object.raw("IsIncremental", if self.is_incremental { "true" } else { "false" });
        object.string("CompressionMethod", self.compression_method.as_str());
        object.integer_text("NewlyUploadedDataSize", self.newly_uploaded_size);
        object.integer_text("ReUploadedDataSize", self.re_uploaded_size);
        let processing = match self.processing_blocks {
            ProcessingBlocks::Null => "null",
            ProcessingBlocks::Empty => "{}",
        };
        object.raw("ProcessingBlocks", processing);
        if !self.blocks.as_slice().is_empty() {
            object.raw("Blocks", &blocks_json(self.blocks.as_slice()));
        }
        let mut single_file = ObjectWriter::new();
        single_file.string("FilePath", &self.single_file_path);
        object.raw("SingleFile", &single_file.into_text());
        object.into_text().into_bytes()
    }

    /// A backup that was begun and not finished: it has no image to restore.
    pub fn is_in_progress(&self) -> bool {
        self.created_time.is_empty()
    }

    /// The snapshot that was backed up, if the text can be a snapshot's name.
    pub fn snapshot(&self) -> Option<SnapshotName> {
        SnapshotName::parse(&self.snapshot_name).ok()
    }
}

fn blocks_json(blocks: &[BackupBlock]) -> String {
    // 64 digits, the two keys and an offset: about 102 bytes a block.
    let mut out = String::with_capacity(blocks.len() * 110 + 2);
    out.push('[');
    for (index, block) in blocks.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(out, r#"{comma}{{"Offset":{},"BlockChecksum":"{}"}}"#, block.offset, block.digest);
    }
    out.push(']');
    out
}

#[derive(Default)]
struct RawBackup {
    name: String,
    volume_name: String,
    snapshot_name: String,
    snapshot_created_at: String,
    created_time: String,
    size: u64,
    labels: Option<TextMap>,
    parameters: Option<TextMap>,
    is_incremental: bool,
    compression_method: String,
    newly_uploaded_size: u64,
    re_uploaded_size: u64,
    processing_blocks: ProcessingBlocks,
    blocks: Vec<RawBlock>,
    single_file: RawSingleFile,
}

impl RawBackup {
    fn blocks(&self) -> Result<Vec<BackupBlock>, FormatError> {
        self.blocks.iter().map(|raw| raw.checked()).collect()
    }
}

impl Fields for RawBackup {
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => json::scalar(&mut self.name, map),
            "volumename" => json::scalar(&mut self.volume_name, map),
            "snapshotname" => json::scalar(&mut self.snapshot_name, map),
            "snapshotcreatedat" => json::scalar(&mut self.snapshot_created_at, map),
            "createdtime" => json::scalar(&mut self.created_time, map),
            "size" => json::integer_text(&mut self.size, map),
            "labels" => json::text_map(&mut self.labels, map),
            "parameters" => json::text_map(&mut self.parameters, map),
            "isincremental" => json::scalar(&mut self.is_incremental, map),
            "compressionmethod" => json::scalar(&mut self.compression_method, map),
            "newlyuploadeddatasize" => json::integer_text(&mut self.newly_uploaded_size, map),
            "reuploadeddatasize" => json::integer_text(&mut self.re_uploaded_size, map),
            "processingblocks" => {
                let object = map.next_value::<Option<std::collections::BTreeMap<String, IgnoredAny>>>()?;
                self.processing_blocks =
                    if object.is_some() { ProcessingBlocks::Empty } else { ProcessingBlocks::Null };
                Ok(())
            }
            "blocks" => {
                let found = map.next_value::<Option<Vec<Object<RawBlock>>>>()?;
                self.blocks = found.unwrap_or_default().into_iter().map(|Object(block)| block).collect();
                Ok(())
            }
            "singlefile" => {
                if let Some(Object(found)) = map.next_value::<Option<Object<RawSingleFile>>>()? {
                    self.single_file = found;
                }
                Ok(())
            }
            _ => json::skip(map),
        }
    }
}

/// A listed block. The digest is parsed at once, so that a long list needs no text per block.
#[derive(Default)]
struct RawBlock {
    offset: u64,
    digest: Option<Result<Digest, FormatError>>,
}

impl RawBlock {
    fn checked(&self) -> Result<BackupBlock, FormatError> {
        let digest = self.digest.clone().unwrap_or_else(|| Err(FormatError::Digest(String::new())))?;
        Ok(BackupBlock { offset: ByteOffset(self.offset), digest })
    }
}

impl Fields for RawBlock {
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "offset" => json::scalar(&mut self.offset, map),
            "blockchecksum" => {
                let mut text = String::new();
                json::scalar(&mut text, map)?;
                self.digest = Some(Digest::parse(&text));
                Ok(())
            }
            _ => json::skip(map),
        }
    }
}

#[derive(Default)]
struct RawSingleFile {
    path: String,
}

impl Fields for RawSingleFile {
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "filepath" => json::scalar(&mut self.path, map),
            _ => json::skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKSUM: &str = "d3e23d0335779260d16a8725c58a7800545fae416070c0fcc6daca7e8c67585f";

    fn parse(text: &str) -> Result<BackupConfig, FormatError> {
        BackupConfig::parse(text.as_bytes())
    }

    #[test]
    fn what_longhorn_rejects_is_rejected() {
        for refused in [
            format!(r#"{{"Blocks":[{{"Offset":"0","BlockChecksum":"{CHECKSUM}"}}]}}"#),
            r#"{"IsIncremental":"true"}"#.into(),
            r#"{"Size":2097152}"#.into(),
            r#"{"CompressionMethod":"\"lz4\""}"#.into(),
            r#"{"Blocks":[{"Offset":0,"BlockChecksum":"short"}]}"#.into(),
            r#"{"Blocks":[{"Offset":0}]}"#.into(),
            format!(r#"{{"Blocks":[{{"Offset":-2097152,"BlockChecksum":"{CHECKSUM}"}}]}}"#),
            format!(r#"{{"Blocks":[{{"Offset":17,"BlockChecksum":"{CHECKSUM}"}}]}}"#),
            r#"{"Parameters":{"backup-block-size":"1Pi"}}"#.into(),
        ] {
            assert!(parse(&refused).is_err(), "{refused} was taken");
        }
    }

    #[test]
    fn a_legacy_file_gets_the_defaults_of_its_time() {
        let text = format!(r#"{{"blocks":[{{"BLOCKCHECKSUM":"{CHECKSUM}","offset":2097152}}],"CreatedTime":"x"}}"#);
        let config = parse(&text).unwrap();
        assert_eq!(config.compression_method, CompressionMethod::Gzip);
        assert_eq!(config.blocks.block_size(), BlockSize::DEFAULT);
        assert_eq!(config.blocks.as_slice()[0].offset, ByteOffset(2_097_152));
        assert!(!config.is_in_progress());
        assert!(parse("{}").unwrap().is_in_progress());
    }

    #[test]
    fn the_block_size_parameter_decides_the_grid() {
        let with = |size: &str| {
            parse(&format!(
                r#"{{"Blocks":[{{"Offset":2097152,"BlockChecksum":"{CHECKSUM}"}}],"Parameters":{{"backup-block-size":"{size}"}}}}"#
            ))
        };
        assert!(with("2Mi").is_ok());
        assert!(with("").is_ok());
        assert!(matches!(with("16777216"), Err(FormatError::Misaligned { .. })));
    }

    #[test]
    fn every_cut_of_a_file_is_refused() {
        let whole = parse(&format!(r#"{{"Blocks":[{{"Offset":0,"BlockChecksum":"{CHECKSUM}"}}]}}"#)).unwrap();
        let whole = whole.to_bytes();
        for length in 0..whole.len() {
            assert!(BackupConfig::parse(&whole[..length]).is_err(), "cut to {length} bytes was taken");
        }
    }
}
