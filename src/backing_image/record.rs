//! What is stored with a backing image's lvols: Longhorn's attributes (`engine-behaviour` §1.7) and a record of ours.
//!
//! The record is with the temporary head from the first byte on and says how its making ended, before the snapshot that
//! is the image is taken. So whatever the process was doing when it ended, the next start knows what it finds.

use serde::{Deserialize, Serialize};

use super::checksum::ImageChecksum;
use crate::name::{BackingImageId, BackingImageName, LvolAlias};
use crate::spdk::xattr::{XattrChange, XattrName, XattrValue};
use crate::spdk::{OnControl, SpdkError, lvol};
use crate::{Error, Result};

/// Longhorn's: the checksum of the whole image.
const CHECKSUM: &str = "longhorn_backing_image_checksum";
/// Longhorn's: which making of the image this is.
const UUID: &str = "longhorn_backing_image_uuid";
/// Longhorn's: `ready` or `failed`.
const STATE: &str = "longhorn_backing_image_prepare_state";
/// All of it, and what Longhorn's three do not say.
const RECORD: &str = "corriente.backing_image";
/// The full name of the replica that an lvol belongs to.
pub(crate) const REPLICA: &str = "corriente.replica";
/// Bytes of an error's text that are kept.
const ERROR_LIMIT: usize = 1024;

/// How the making of an image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is what its checksum says.
    Ready,
    /// It is not an image.
    Failed,
}

/// What is known of an image on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) name: BackingImageName,
    /// `None` when Longhorn made it and its attribute is lost.
    pub(crate) id: Option<BackingImageId>,
    /// What it must be; `None` when Longhorn made it and its attribute is lost.
    pub(crate) checksum: Option<ImageChecksum>,
    /// What it was found to be.
    pub(crate) found: Option<ImageChecksum>,
    /// Its bytes; what the lvol has beyond are zeroes. `None` for all that the lvol has.
    pub(crate) size: Option<u64>,
    /// `None` while it is being made.
    pub(crate) outcome: Option<Outcome>,
    /// Why it failed.
    #[serde(default)]
    pub(crate) error: String,
}

impl ImageRecord {
    /// That of an lvol, if it is a backing image or becomes one. From memory, no I/O.
    pub(crate) fn read(on: OnControl, alias: &LvolAlias) -> std::result::Result<Option<Self>, SpdkError> {
        let text = |key| -> std::result::Result<Option<String>, SpdkError> {
            let value = lvol::xattr(on, alias, &key_of(key))?;
            Ok(value.as_ref().and_then(XattrValue::as_text).map(str::to_owned))
        };
        if let Some(record) = text(RECORD)?.and_then(|text| serde_json::from_str(&text).ok()) {
            return Ok(Some(record));
        }
        let Some(name) = alias.lvol.as_backing_image() else { return Ok(None) };
        Ok(Some(Self {
            name,
            id: text(UUID)?.and_then(|id| BackingImageId::parse(&id).ok()),
            checksum: text(CHECKSUM)?.and_then(|sum| ImageChecksum::parse(&sum).ok()),
            found: None,
            size: None,
            outcome: match text(STATE)?.as_deref() {
                Some("ready") => Some(Outcome::Ready),
                Some("failed") => Some(Outcome::Failed),
                _ => None,
            },
            error: String::new(),
        }))
    }

    /// Our record alone: what the temporary head has.
    pub(super) fn own(&self) -> Result<Vec<XattrChange>> {
        let mut record = self.clone();
        let end = (0..=ERROR_LIMIT.min(record.error.len())).rev().find(|end| record.error.is_char_boundary(*end));
        record.error.truncate(end.unwrap_or(0));
        let json = serde_json::to_string(&record)
            .map_err(|error| Error::internal("record of a backing image", error.to_string()))?;
        Ok(vec![setting(RECORD, &json)?])
    }

    /// Our record and Longhorn's attributes: what the image has.
    pub(super) fn all(&self) -> Result<Vec<XattrChange>> {
        let mut changes = self.own()?;
        let state = self.outcome.map(|outcome| match outcome {
            Outcome::Ready => "ready",
            Outcome::Failed => "failed",
        });
        let checksum = self.checksum.as_ref().map(ImageChecksum::as_str);
        for (key, value) in [(CHECKSUM, checksum), (UUID, self.id.as_ref().map(BackingImageId::as_str)), (STATE, state)]
        {
            if let Some(value) = value {
                changes.push(setting(key, value)?);
            }
        }
        Ok(changes)
    }
}

/// The replica that an lvol is marked as (`replica/attributes.rs`).
pub(super) fn replica_of(on: OnControl, alias: &LvolAlias) -> std::result::Result<Option<String>, SpdkError> {
    let value = lvol::xattr(on, alias, &key_of(REPLICA))?;
    Ok(value.as_ref().and_then(XattrValue::as_text).map(str::to_owned))
}

fn key_of(key: &'static str) -> XattrName {
    XattrName::parse(key).expect("the constant keys are short and printable")
}

/// With the NUL that readers in C rely on.
fn setting(key: &'static str, text: &str) -> Result<XattrChange> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    let value = XattrValue::new(&bytes).map_err(|error| Error::internal("attribute", format!("its value {error}")))?;
    Ok(XattrChange::set(key_of(key), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_its_attribute_whatever_the_error_says() {
        let long = "a".repeat(253);
        let record = ImageRecord {
            name: BackingImageName::parse(&long).unwrap(),
            id: Some(BackingImageId::parse(&long).unwrap()),
            checksum: Some(ImageChecksum::parse(&"0a".repeat(64)).unwrap()),
            found: Some(ImageChecksum::parse(&"0b".repeat(64)).unwrap()),
            size: Some(u64::MAX),
            outcome: Some(Outcome::Failed),
            error: "ä".repeat(5000),
        };
        let changes = record.own().unwrap();
        let text = changes[0].value.as_ref().unwrap().as_text().unwrap().to_owned();
        let read: ImageRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read.error, "ä".repeat(512));
        assert_eq!(ImageRecord { error: String::new(), ..read }, ImageRecord { error: String::new(), ..record });
        assert_eq!(record_keys(&ImageRecord { error: String::new(), ..sample() }), [RECORD, CHECKSUM, UUID, STATE]);
    }

    fn sample() -> ImageRecord {
        ImageRecord {
            name: BackingImageName::parse("parrot").unwrap(),
            id: Some(BackingImageId::parse("a1b2c3d4").unwrap()),
            checksum: Some(ImageChecksum::parse(&"0a".repeat(64)).unwrap()),
            found: None,
            size: Some(1),
            outcome: Some(Outcome::Ready),
            error: String::new(),
        }
    }

    fn record_keys(record: &ImageRecord) -> Vec<String> {
        record.all().unwrap().iter().map(|change| change.name.to_string()).collect()
    }
}
