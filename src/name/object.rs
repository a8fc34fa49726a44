//! Names that users and peers give: volumes, engines, replicas, snapshots, disks, backups.

use super::{NameError, check_characters, check_text, name_type};

/// Longest name of a volume, engine, replica, snapshot, disk or backup, in bytes. Kubernetes allows
/// 253 for an object's name; the composed names below stay within what SPDK and NVMe can hold by
/// [`super::LvolName::shorten`].
pub const OBJECT_NAME_LIMIT: usize = 253;

const CHARACTERS: &str = "letters, digits, '.', '_' and '-', the first a letter or digit";

/// The rule of all object names: Kubernetes' set plus the underscore that Longhorn lets through.
fn check_object(text: &str) -> Result<(), NameError> {
    check_text(text, OBJECT_NAME_LIMIT)?;
    check_characters(
        text,
        |character| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-'),
        CHARACTERS,
    )?;
    let first = text.chars().next().unwrap_or('-');
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character { character: first, at: 0, allowed: CHARACTERS });
    }
    Ok(())
}

/// Words that name an lvol which belongs to the data plane itself (`engine-behaviour` §1.6).
fn check_not_internal(text: &str) -> Result<(), NameError> {
    for (word, reason) in [
        ("-clone-ep-", "it marks the entry point of a linked clone"),
        ("-snap-", "it separates a replica from its snapshot"),
        ("-expired-", "it marks a replaced copy of a replica"),
    ] {
        if text.contains(word) {
            return Err(NameError::Reserved { word: word.into(), reason });
        }
    }
    for (word, reason) in [
        ("-tmp-head", "it marks the temporary head of a clone"),
        ("-temp-head", "it marks the temporary head of a backing image"),
        ("-rebuilding", "it marks a copy that is being rebuilt"),
        ("-cloning", "it marks a copy that is being cloned"),
        ("-cloning-tmp", "it marks a copy that is being cloned"),
    ] {
        if text.ends_with(word) {
            return Err(NameError::Reserved { word: word.into(), reason });
        }
    }
    Ok(())
}

/// Snapshot names share a map with the head, so the head's name is not theirs to take.
fn check_snapshot(text: &str) -> Result<(), NameError> {
    check_object(text)?;
    if text == HEAD_NAME {
        return Err(NameError::Reserved { word: text.into(), reason: "it is the name of the writable head" });
    }
    if text.contains("-clone-ep-") || text.ends_with("-tmp-head") {
        return check_not_internal(text);
    }
    Ok(())
}

/// The backup store's own rule asks for two characters (`backupstore-format` §1).
fn check_stored(text: &str) -> Result<(), NameError> {
    check_object(text)?;
    if text.len() < 2 {
        return Err(NameError::Form { problem: "must have at least two characters".into() });
    }
    Ok(())
}

/// What the writable end of a replica's chain is called on the wire.
pub const HEAD_NAME: &str = "volume-head";

name_type!(
    /// A volume: what a client sees as one block device.
    VolumeName,
    |text| {
        check_stored(text)?;
        check_not_internal(text)
    }
);
name_type!(
    /// An engine: the mirror of a volume on the node that serves it.
    EngineName,
    |text| {
        check_object(text)?;
        check_not_internal(text)
    }
);
name_type!(
    /// An engine frontend: how one host reaches a volume through its engine.
    FrontendName,
    |text| {
        check_object(text)?;
        check_not_internal(text)
    }
);
name_type!(
    /// A replica: one copy of a volume on one disk.
    ReplicaName,
    |text| {
        check_object(text)?;
        check_not_internal(text)
    }
);
name_type!(
    /// A snapshot of a volume, the same on each of its replicas.
    SnapshotName,
    check_snapshot
);
name_type!(
    /// A backing image: what volumes may stand on, one copy on each disk that needs it.
    BackingImageName,
    |text| {
        check_object(text)?;
        check_not_internal(text)
    }
);
name_type!(
    /// Which making of a backing image a copy is of: an image that is made anew under its old name has another.
    BackingImageId,
    check_object
);
name_type!(
    /// A disk of this node: a bdev with an lvstore of the same name.
    DiskName,
    check_object
);
name_type!(
    /// A backup of a volume's snapshot in a backup store.
    BackupName,
    check_stored
);
