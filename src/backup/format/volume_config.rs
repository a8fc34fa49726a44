//! `volume.cfg`: what the store knows about a volume (§3).

use serde::de::MapAccess;

use crate::name::BackupName;

use super::compression::CompressionMethod;
use super::error::FormatError;
use super::json::{self, Fields, ObjectWriter, TextMap};

/// The content of a `volume.cfg`.
///
/// Texts are kept as they stand, so that a file of any Longhorn release survives being written again. The path of
/// the file, not its `name`, says which volume it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    /// `Name`.
    pub name: String,
    /// `Size`: bytes of the volume at its last finished backup, and of every restored image.
    pub size: u64,
    /// `Labels` of the last finished backup; `None` is `null`.
    pub labels: Option<TextMap>,
    /// `CreatedTime`: RFC 3339, set once.
    pub created_time: String,
    /// `LastBackupName`: the base of the next incremental backup, empty if there is none.
    pub last_backup_name: String,
    /// `LastBackupAt`: when the snapshot of that backup was made.
    pub last_backup_at: String,
    /// `BlockCount`: uploaded blocks, corrected only by delete.
    pub block_count: u64,
    /// `BackingImageName`, empty if the volume has none.
    pub backing_image_name: String,
    /// `BackingImageChecksum`.
    pub backing_image_checksum: String,
    /// `CompressionMethod` of all later block files.
    pub compression_method: CompressionMethod,
    /// `StorageClassName`.
    pub storage_class_name: String,
    /// `DataEngine`: `v1` or `v2`.
    pub data_engine: String,
}

impl VolumeConfig {
    /// Parses a file. Missing keys get the defaults of the releases that did not write them: gzip and `v1`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let raw: RawVolume = json::parse(bytes)?;
        let data_engine = if raw.data_engine.is_empty() { "v1".into() } else { raw.data_engine };
        Ok(Self {
            name: raw.name,
            size: raw.size,
            labels: raw.labels,
            created_time: raw.created_time,
            last_backup_name: raw.last_backup_name,
            last_backup_at: raw.last_backup_at,
            block_count: raw.block_count,
            backing_image_name: raw.backing_image_name,
            backing_image_checksum: raw.backing_image_checksum,
            compression_method: CompressionMethod::parse(&raw.compression_method)?,
            storage_class_name: raw.storage_class_name,
            data_engine,
        })
    }

    /// The bytes that Longhorn would write for this volume.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut object = ObjectWriter::new();
        object.string("Name", &self.name);
        object.integer_text("Size", self.size);
        object.text_map("Labels", self.labels.as_ref());
        object.string("CreatedTime", &self.created_time);
        object.string("LastBackupName", &self.last_backup_name);
        object.string("LastBackupAt", &self.last_backup_at);
        object.integer_text("BlockCount", self.block_count);
        object.quoted_string("BackingImageName", &self.backing_image_name);
        object.quoted_string("BackingImageChecksum", &self.backing_image_checksum);
        object.quoted_string("CompressionMethod", self.compression_method.as_str());
        object.quoted_string("StorageClassName", &self.storage_class_name);
        object.quoted_string("DataEngine", &self.data_engine);
        object.into_text().into_bytes()
    }

    /// The last backup, if there is one whose name can be one.
    pub fn last_backup(&self) -> Option<BackupName> {
        BackupName::parse(&self.last_backup_name).ok()
    }
}

#[derive(Default)]
struct RawVolume {
    name: String,
    size: u64,
    labels: Option<TextMap>,
    created_time: String,
    last_backup_name: String,
    last_backup_at: String,
    block_count: u64,
    backing_image_name: String,
    backing_image_checksum: String,
    compression_method: String,
    storage_class_name: String,
    data_engine: String,
}

impl Fields for RawVolume {
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => json::scalar(&mut self.name, map),
            "size" => json::integer_text(&mut self.size, map),
            "labels" => json::text_map(&mut self.labels, map),
            "createdtime" => json::scalar(&mut self.created_time, map),
            "lastbackupname" => json::scalar(&mut self.last_backup_name, map),
            "lastbackupat" => json::scalar(&mut self.last_backup_at, map),
            "blockcount" => json::integer_text(&mut self.block_count, map),
            "backingimagename" => json::quoted_string(&mut self.backing_image_name, map),
            "backingimagechecksum" => json::quoted_string(&mut self.backing_image_checksum, map),
            "compressionmethod" => json::quoted_string(&mut self.compression_method, map),
            "storageclassname" => json::quoted_string(&mut self.storage_class_name, map),
            "dataengine" => json::quoted_string(&mut self.data_engine, map),
            _ => json::skip(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VolumeConfig, FormatError> {
        VolumeConfig::parse(text.as_bytes())
    }

    #[test]
    fn what_longhorn_rejects_is_rejected() {
        for refused in [
            r#"{"Name":"v1","CompressionMethod":"lz4"}"#,
            r#"{"Name":"v1","BackingImageName":""}"#,
            r#"{"Name":"v1","Size":8388608}"#,
            r#"{"Name":"v1","BlockCount":2}"#,
            r#"{"Name":"v1","Size":"8388608.0"}"#,
            r#"{"Name":"v1","Size":"-1"}"#,
            r#"{"Name":"v1","Size":"""#,
            r#"{"Name":"v1","Labels":[]}"#,
            r#"["Name"]"#,
            "",
        ] {
            assert!(parse(refused).is_err(), "{refused} was taken");
        }
    }

    #[test]
    fn what_longhorn_accepts_is_accepted() {
        let config = parse(r#" { "nAmE" : "old", "Name":"new", "Size":"5", "SIZE":null, "X":{"y":[1]} } trailing {"#);
        let config = config.unwrap();
        assert_eq!((config.name.as_str(), config.size), ("new", 5));
        assert_eq!(config.compression_method, CompressionMethod::Gzip);
        assert_eq!(config.data_engine, "v1");
        assert_eq!(config.labels, None);
        assert_eq!(config.last_backup(), None);
    }

    #[test]
    fn a_last_backup_that_is_no_name_is_no_base() {
        let config = parse(r#"{"LastBackupName":"../../etc/passwd"}"#).unwrap();
        assert_eq!(config.last_backup(), None);
    }

    #[test]
    fn every_cut_of_a_file_is_refused() {
        let whole = parse(r#"{"Name":"v1","Size":"4194304","CompressionMethod":"\"lz4\""}"#).unwrap().to_bytes();
        for length in 0..whole.len() {
            assert!(VolumeConfig::parse(&whole[..length]).is_err(), "cut to {length} bytes was taken");
        }
    }
}
