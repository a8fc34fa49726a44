//! What is stored with a replica's lvols, as their xattrs: Longhorn's two (`engine-behaviour` §1.7) and our own.

use jiff::Timestamp;
use uuid::Uuid;

use super::clone::{CloneMark, EntryMark};
use crate::backing_image::ImageRecord;
use crate::name::{LvolAlias, ReplicaName, SnapshotLabels, SnapshotName};
use crate::spdk::xattr::{XATTR_NAME_LIMIT, XattrChange, XattrName, XattrValue};
use crate::spdk::{OnControl, SpdkError, lvol};
use crate::{Error, Result};

/// Longhorn's mark of a snapshot that a user asked for: `true` or `false`.
pub(super) const USER_CREATED: &str = "user_created";
/// Longhorn's time of a snapshot, the same on all replicas.
pub(super) const SNAPSHOT_TIMESTAMP: &str = "snapshot_timestamp";
/// The labels of a snapshot: [`SnapshotLabels`].
pub(super) const LABELS: &str = "corriente.labels";
/// The full name of the replica that an lvol of ours belongs to.
pub(super) const REPLICA: &str = crate::backing_image::REPLICA;
/// The full name of a snapshot of ours; its lvol's name may be a shortened one.
pub(super) const SNAPSHOT: &str = "corriente.snapshot";
/// When the lvol was made. SPDK 20.07 does not keep that.
pub(super) const CREATED: &str = "corriente.created";
/// On an empty lvol that has the head's name while its replica is rebuilt: there is no head. The value tells of what.
pub(super) const REBUILD: &str = "corriente.rebuild";
/// Of a replica that is rebuilt, from before: kept until the rebuild is complete, then deleted.
pub(super) const EXPIRED: &str = "corriente.expired";
/// On a snapshot that a rebuild made: the identity of the lvol it is a copy of. Taken away when the rebuild is complete.
pub(super) const REBUILT: &str = "corriente.rebuilt";
/// The checksum of a snapshot when it was hashed first, decimal.
pub(super) const CHECKSUM: &str = "corriente.checksum";
/// The checksum that hashing it again gave, if it was another.
pub(super) const CHECKSUM_FOUND: &str = "corriente.checksum_found";
/// How recent a replica is: [`crate::mirror::core::GenerationRecord`].
pub(super) const GENERATION: &str = "corriente.generation";

/// Where a replica may differ from the others of its mirror: [`crate::mirror::core::DirtyRecord`].
pub(super) const DIRTY: &str = "corriente.dirty";
/// On the entry point of linked clones and on its temporary head: [`EntryMark`].
pub(super) const ENTRY_POINT: &str = "corriente.entry_point";
/// On a head: what the replica was cloned from: [`CloneMark`].
pub(super) const CLONED: &str = "corriente.cloned";

/// What all our own keys start with.
const PREFIX: &str = "corriente.";
/// What a replica writes itself and nobody else may.
const INTERNAL: [&str; 11] =
    [LABELS, REPLICA, SNAPSHOT, CREATED, REBUILD, EXPIRED, REBUILT, CHECKSUM, CHECKSUM_FOUND, ENTRY_POINT, CLONED];

/// Attributes of one lvol, parsed. What does not parse is taken as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) replica: Option<ReplicaName>,
    pub(super) snapshot: Option<SnapshotName>,
    pub(super) user_created: Option<bool>,
    pub(super) timestamp: Option<String>,
    pub(super) labels: Option<SnapshotLabels>,
    pub(super) created: Option<String>,
    pub(super) rebuild: Option<String>,
    pub(super) expired: bool,
    pub(super) rebuilt: Option<Uuid>,
    pub(super) checksum: Option<u64>,
    pub(super) checksum_found: Option<u64>,
    pub(super) entry_point: Option<EntryMark>,
    pub(super) cloned: Option<CloneMark>,
    /// The lvol is a backing image, or becomes one.
    pub(super) image: Option<ImageRecord>,
}

impl Attributes {
    /// Reads those of an lvol; from memory, no I/O.
    pub(super) fn read(on: OnControl, alias: &LvolAlias) -> std::result::Result<Self, SpdkError> {
        let text = |key| -> std::result::Result<Option<String>, SpdkError> {
            let value = lvol::xattr(on, alias, &key_of(key))?;
            Ok(value.as_ref().and_then(XattrValue::as_text).map(str::to_owned))
        };
        Ok(Self {
            replica: text(REPLICA)?.and_then(|name| ReplicaName::parse(&name).ok()),
            snapshot: text(SNAPSHOT)?.and_then(|name| SnapshotName::parse(&name).ok()),
            user_created: text(USER_CREATED)?.and_then(|word| word.parse().ok()),
            timestamp: text(SNAPSHOT_TIMESTAMP)?,
            labels: text(LABELS)?.and_then(|text| serde_json::from_str(&text).ok()),
            created: text(CREATED)?,
            rebuild: text(REBUILD)?,
            expired: text(EXPIRED)?.is_some(),
            rebuilt: text(REBUILT)?.and_then(|uuid| uuid.parse().ok()),
            checksum: text(CHECKSUM)?.and_then(|number| number.parse().ok()),
            checksum_found: text(CHECKSUM_FOUND)?.and_then(|number| number.parse().ok()),
            entry_point: text(ENTRY_POINT)?.and_then(|text| serde_json::from_str(&text).ok()),
            cloned: text(CLONED)?.and_then(|text| serde_json::from_str(&text).ok()),
            image: ImageRecord::read(on, alias)?,
        })
    }
}

/// A constant key as SPDK's type.
pub(super) fn key_of(key: &'static str) -> XattrName {
    XattrName::parse(key).expect("the constant keys are short and printable")
}

/// A text as the value of an xattr, with the NUL that readers in C rely on.
pub(super) fn text_value(text: &str) -> Result<XattrValue> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    XattrValue::new(&bytes).map_err(|error| Error::internal("attribute", format!("its value {error}")))
}

/// One attribute to be set.
pub(super) fn setting(key: &'static str, text: &str) -> Result<XattrChange> {
    Ok(XattrChange::set(key_of(key), text_value(text)?))
}

/// One attribute to be taken away.
pub(super) fn removal(key: &'static str) -> XattrChange {
    XattrChange::remove(key_of(key))
}

/// The time now as attributes hold it.
pub(super) fn now_text() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A key under which others, an engine say, may keep something with a replica's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeKey(XattrName);

impl AttributeKey {
    /// Parses `corriente.<word>`: lower-case letters, digits, `-`, `_` and `.`; not one of the replica's own keys.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |problem: String| Err(Error::invalid("key", problem));
        let Some(word) = text.strip_prefix(PREFIX).filter(|word| !word.is_empty()) else {
            return refused(format!("{text:?} does not have the form {PREFIX}<word>"));
        };
        if INTERNAL.contains(&text) {
            return refused(format!("{text} is the replica's own"));
        }
        if text.len() > XATTR_NAME_LIMIT {
            return refused(format!("is {} bytes long, at most {XATTR_NAME_LIMIT} are allowed", text.len()));
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        match word.bytes().all(allowed) {
            true => Ok(Self(XattrName::parse(text).map_err(|error| Error::name("key", error))?)),
            false => refused(format!("{text:?} has characters other than a-z, 0-9, '-', '_' and '.'")),
        }
    }

    pub(super) fn name(&self) -> &XattrName {
        &self.0
    }

    pub(super) fn is_generation(&self) -> bool {
        self.0.as_str() == GENERATION
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.0.as_str() == DIRTY
    }
}

/// Whether a head that takes another's place must carry this one on.
pub(super) fn is_carried(name: &str) -> bool {
    name == REPLICA || name == CLONED || (name.starts_with(PREFIX) && !INTERNAL.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_own_keys_are_refused() {
        assert!(AttributeKey::parse("corriente.restore").is_ok());
        assert!(AttributeKey::parse(GENERATION).unwrap().is_generation());
        let long = format!("corriente.{}", "a".repeat(XATTR_NAME_LIMIT));
        for refused in [
            "",
            "corriente.",
            "user_created",
            "name",
            "corriente.Restore",
            "corriente.a b",
            &long,
            REPLICA,
            REBUILD,
            CLONED,
        ] {
            assert!(
                matches!(AttributeKey::parse(refused), Err(Error::InvalidArgument { .. })),
                "{refused:?} was taken"
            );
        }
    }

    #[test]
    fn a_new_head_carries_what_is_the_replicas() {
        assert!(is_carried(GENERATION) && is_carried(REPLICA) && is_carried(CLONED) && is_carried("corriente.restore"));
        for own in [SNAPSHOT, USER_CREATED, CREATED, REBUILD, EXPIRED, REBUILT, CHECKSUM, ENTRY_POINT] {
            assert!(!is_carried(own), "{own}");
        }
    }
}
