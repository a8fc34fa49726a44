//! What a replica durably knows of restores into it: the last complete one, and the one that is under way.
//!
//! The marker is written before the first block of a restore and as soon as its snapshot is everywhere. A replica found
//! with an unfinished restore holds a mixture; the snapshot of the last complete one is the last good point.

use serde::{Deserialize, Serialize};

use crate::name::{BackupName, SnapshotName, VolumeName};

/// The last complete restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// The volume of the backup, as the store names it.
    pub volume: VolumeName,
    /// Of which backup.
    pub backup: BackupName,
    /// The snapshot that holds exactly its image.
    pub snapshot: SnapshotName,
}

/// A restore that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfinished {
    /// The volume of the backup, as the store names it.
    pub volume: VolumeName,
    /// Of which backup.
    pub backup: BackupName,
    /// The head then held exactly the image of the last complete restore. Otherwise it held a mixture already, and what
    /// this restore writes is not all that differs from that image.
    pub base_intact: bool,
}

/// The marker of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreMarker {
    /// The last complete restore.
    pub restored: Option<Restored>,
    /// The restore that was under way when this was written.
    pub in_progress: Option<Unfinished>,
}

impl RestoreMarker {
    /// As stored: JSON of at most about 1,500 bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Names and options serialise without fail; an empty value would only lose the marker, which is the safe side.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From what is stored. An error when that is no marker: then nothing is known of the replica's content.
    pub fn parse(stored: Option<&[u8]>) -> std::result::Result<Self, String> {
        match stored {
            None | Some([]) => Ok(Self::default()),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        }
    }

    /// The complete restore that a restore of `backup` may write its differences to. An interrupted restore of the same
    /// backup goes on from the base it had: all it may have changed is what will be written again.
    pub fn base_of(&self, volume: &VolumeName, backup: &BackupName) -> Option<&Restored> {
        let restored = self.restored.as_ref().filter(|restored| restored.volume == *volume)?;
        let usable = match &self.in_progress {
            None => true,
            Some(begun) => begun.base_intact && begun.volume == *volume && begun.backup == *backup,
        };
        usable.then_some(restored)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn volume(name: &str) -> VolumeName {
        VolumeName::parse(name).expect("a volume name")
    }

    pub fn backup(name: &str) -> BackupName {
        BackupName::parse(name).expect("a backup name")
    }

    pub fn restored(name: &str) -> Option<Restored> {
        let snapshot = SnapshotName::parse(&format!("restore-{name}")).expect("a snapshot name");
        Some(Restored { volume: volume("vol"), backup: backup(name), snapshot })
    }

    pub fn begun(name: &str, base_intact: bool) -> Option<Unfinished> {
        Some(Unfinished { volume: volume("vol"), backup: backup(name), base_intact })
    }

    #[test]
    fn a_marker_survives_its_storage_and_garbage_is_no_marker() {
        let marker = RestoreMarker { restored: restored("b1"), in_progress: begun("b2", true) };
        assert_eq!(RestoreMarker::parse(Some(&marker.encode())), Ok(marker));
        assert_eq!(RestoreMarker::parse(None), Ok(RestoreMarker::default()));
        assert!(RestoreMarker::parse(Some(b"{")).is_err());
        let empty_name = br#"{"restored":{"volume":"vol","backup":"","snapshot":"x"},"in_progress":null}"#;
        assert!(RestoreMarker::parse(Some(empty_name)).is_err());
    }

    #[test]
    fn only_an_exactly_known_content_is_a_base() {
        let base_of = |in_progress, volume_name, backup_name| {
            let marker = RestoreMarker { restored: restored("b1"), in_progress };
            marker.base_of(&volume(volume_name), &backup(backup_name)).is_some()
        };
        assert!(base_of(None, "vol", "b2"));
        assert!(base_of(begun("b2", true), "vol", "b2"), "it goes on from the base it had");
        assert!(!base_of(begun("b2", true), "vol", "b1"), "the other one's blocks would stay");
        assert!(!base_of(begun("b2", false), "vol", "b2"), "it was begun on a mixture");
        assert!(!base_of(None, "other", "b2"), "a backup of another volume may have the same name");
    }
}
