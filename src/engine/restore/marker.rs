//! What a replica durably knows of restores into it: the last complete one, and the one that is under way.
//!
//! The marker is written before the first block of a restore and after the last proof of it. A replica found with an
//! unfinished restore holds a mixture; the snapshot of the last complete one is the last good point.

use serde::{Deserialize, Serialize};

use crate::name::{BackupName, SnapshotName};

/// The last complete restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// Of which backup.
    pub backup: BackupName,
    /// The snapshot that holds exactly its image.
    pub snapshot: SnapshotName,
}

/// The marker of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreMarker {
    /// The last complete restore.
    pub restored: Option<Restored>,
    /// The backup that was being restored when this was written.
    pub in_progress: Option<BackupName>,
}

impl RestoreMarker {
    /// As stored: JSON of at most about 800 bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Names and options serialise without fail; an empty value would only lose the marker, which is the safe side.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From what is stored. Unreadable content counts as an unfinished restore of an unknown backup: nothing is assumed.
    pub fn parse(stored: Option<&[u8]>) -> std::result::Result<Self, String> {
        match stored {
            None | Some([]) => Ok(Self::default()),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_its_storage_and_garbage_is_no_marker() {
        let marker = RestoreMarker {
            restored: Some(Restored {
                backup: BackupName::parse("backup-1").expect("valid"),
                snapshot: SnapshotName::parse("restore-s1").expect("valid"),
            }),
            in_progress: Some(BackupName::parse("backup-2").expect("valid")),
        };
        assert_eq!(RestoreMarker::parse(Some(&marker.encode())), Ok(marker));
        assert_eq!(RestoreMarker::parse(None), Ok(RestoreMarker::default()));
        assert!(RestoreMarker::parse(Some(b"{")).is_err());
        assert!(
            RestoreMarker::parse(Some(br#"{"restored":{"backup":"","snapshot":"x"},"in_progress":null}"#)).is_err()
        );
    }
}
