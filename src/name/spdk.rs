//! Names that SPDK and NVMe know things by, and how they derive from the names of our objects.
//!
//! Forms and limits: `engine-behaviour` §1.6; `SPDK_LVOL_NAME_MAX` and `SPDK_LVS_NAME_MAX` are 64
//! with the terminating NUL in every release supported; an NQN has at most 223 bytes (NVMe base
//! specification, 4.5).

use uuid::Uuid;

use super::{
    BackingImageName, NameError, ReplicaName, SnapshotName, VolumeName, check_characters, check_text, name_type,
};

/// What an lvol or lvstore name may have, in bytes without the NUL.
pub const LVOL_NAME_LIMIT: usize = 63;
/// What an NQN may have, in bytes without the NUL.
pub const NQN_LIMIT: usize = 223;
/// What a bdev name may have, in bytes; an alias is an lvstore's name, a slash and an lvol's.
pub const BDEV_NAME_LIMIT: usize = 255;

const NQN_PREFIX: &str = "nqn.2023-01.io.longhorn.spdk:";

fn check_printable(text: &str, limit: usize, slash: bool) -> Result<(), NameError> {
    check_text(text, limit)?;
    check_characters(
        text,
        |character| character.is_ascii_graphic() && (slash || character != '/'),
        if slash { "printable ASCII without blanks" } else { "printable ASCII without blanks and '/'" },
    )
}

name_type!(
    /// A block device of SPDK, by its name or an alias.
    BdevName,
    |text| check_printable(text, BDEV_NAME_LIMIT, true)
);
name_type!(
    /// A logical volume store.
    LvsName,
    |text| check_printable(text, LVOL_NAME_LIMIT, false)
);
name_type!(
    /// A logical volume within its store.
    LvolName,
    |text| check_printable(text, LVOL_NAME_LIMIT, false)
);
name_type!(
    /// An NVMe qualified name.
    Nqn,
    |text| {
        check_printable(text, NQN_LIMIT, true)?;
        match text.strip_prefix("nqn.") {
            Some(rest) if rest.contains(':') || rest.contains('.') => match text.split_once(':') {
                Some((_, "")) => Err(NameError::Form {
                    problem: "has nothing after its ':'".into(),
                }),
                _ => Ok(()),
            },
            _ => Err(NameError::Form {
                problem: "must have the form nqn.<date>.<domain>:<name>".into(),
            }),
        }
    }
);

/// `<lvstore>/<lvol>`: the alias under which SPDK registers an lvol's bdev.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LvolAlias {
    /// The store.
    pub lvs: LvsName,
    /// The volume in it.
    pub lvol: LvolName,
}

impl LvolAlias {
    /// The bdev name of this alias. It always fits: 63 + 1 + 63 bytes.
    pub fn bdev(&self) -> BdevName {
        BdevName(format!("{}/{}", self.lvs, self.lvol).into())
    }
}

impl From<LvolName> for BdevName {
    /// What names an lvol can name a bdev: the rule is stricter and the limit lower.
    fn from(name: LvolName) -> Self {
        Self(name.0)
    }
}

/// How the lvols of a linked clone's entry point are named (`engine-behaviour` §1.6).
const ENTRY_POINT: &str = "-clone-ep-";
const ENTRY_POINT_TEMP_HEAD: &str = "-tmp-head";
/// How the lvol of a backing image is named (`engine-behaviour` §1.6).
const BACKING_IMAGE: &str = "bi-";
const ON_DISK: &str = "-disk-";
const TEMP_HEAD: &str = "-temp-head";

/// What the copy of a backing image on one disk is known by: `bi-<name>-disk-<uuid of the lvstore>`.
pub fn backing_image_key(image: &BackingImageName, lvs: Uuid) -> String {
    format!("{BACKING_IMAGE}{image}{ON_DISK}{lvs}")
}

impl LvolName {
    /// Fits `text` into an lvol's name: unchanged when short enough, else its start and 16 hex
    /// digits of a digest of the whole, so that two long names stay two names. Who shortens keeps the full name
    /// in an xattr.
    fn shorten(text: &str) -> Self {
        Self(Self::shorten_to(LVOL_NAME_LIMIT, text).into())
    }

    fn shorten_to(limit: usize, text: &str) -> String {
        if text.len() <= limit {
            return text.to_owned();
        }
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string();
        let kept = &text[..limit - 17];
        format!("{kept}~{}", &digest[..16])
    }

    /// The head of a replica.
    pub fn head(replica: &ReplicaName) -> Self {
        Self::shorten(replica.as_str())
    }

    /// A snapshot of a replica.
    pub fn snapshot(replica: &ReplicaName, snapshot: &SnapshotName) -> Self {
        Self::shorten(&format!("{replica}-snap-{snapshot}"))
    }

    /// What a rebuild of a replica is written to, one snapshot after the other.
    pub fn rebuilding(replica: &ReplicaName) -> Self {
        Self::shorten(&format!("{replica}-rebuilding"))
    }

    /// What a full copy of another replica's snapshot is written to.
    pub fn cloning(replica: &ReplicaName) -> Self {
        Self::shorten(&format!("{replica}-cloning"))
    }

    /// The empty snapshot that the linked clones of a replica's snapshot are based on.
    pub fn entry_point(source: &ReplicaName, snapshot: &SnapshotName) -> Self {
        Self::shorten(&format!("{source}{ENTRY_POINT}{snapshot}"))
    }

    /// What an entry point is made of; it goes when that is there.
    pub fn entry_point_temp_head(source: &ReplicaName, snapshot: &SnapshotName) -> Self {
        Self::shorten(&format!("{source}{ENTRY_POINT}{snapshot}{ENTRY_POINT_TEMP_HEAD}"))
    }

    /// Whose entry point has this name, and of which of its snapshots, when the name is written out in full.
    pub fn as_entry_point(&self) -> Option<(ReplicaName, SnapshotName)> {
        let (source, snapshot) = self.as_str().split_once(ENTRY_POINT)?;
        Some((ReplicaName::parse(source).ok()?, SnapshotName::parse(snapshot).ok()?))
    }

    /// As [`Self::as_entry_point`], of the name of a temporary head.
    pub fn as_entry_point_temp_head(&self) -> Option<(ReplicaName, SnapshotName)> {
        let (source, snapshot) = self.as_str().strip_suffix(ENTRY_POINT_TEMP_HEAD)?.split_once(ENTRY_POINT)?;
        Some((ReplicaName::parse(source).ok()?, SnapshotName::parse(snapshot).ok()?))
    }

    /// A backing image in the store `lvs`.
    pub fn backing_image(image: &BackingImageName, lvs: Uuid) -> Self {
        Self::shorten(&backing_image_key(image, lvs))
    }

    /// What a backing image is written to before it is one. The end of the name tells, also of a shortened one.
    pub fn backing_image_temp_head(image: &BackingImageName, lvs: Uuid) -> Self {
        Self(
            format!(
                "{}{TEMP_HEAD}",
                Self::shorten_to(LVOL_NAME_LIMIT - TEMP_HEAD.len(), &backing_image_key(image, lvs))
            )
            .into(),
        )
    }

    /// Whether it has the name of something that a backing image is written to.
    pub fn is_backing_image_temp_head(&self) -> bool {
        self.as_str().starts_with(BACKING_IMAGE) && self.as_str().ends_with(TEMP_HEAD)
    }

    /// The backing image whose name this is, when it is written out in full.
    pub fn as_backing_image(&self) -> Option<BackingImageName> {
        let (name, lvs) = self.as_str().strip_prefix(BACKING_IMAGE)?.rsplit_once(ON_DISK)?;
        Uuid::parse_str(lvs).ok()?;
        BackingImageName::parse(name).ok()
    }

    /// What a replica held before a rebuild of it, kept until that is complete. `number` tells several apart.
    pub fn expired(replica: &ReplicaName, number: u32) -> Self {
        Self::shorten(&format!("{replica}-expired-{number:08x}"))
    }
}

impl Nqn {
    /// The target of a replica's head, which another node's engine connects to.
    pub fn replica(replica: &ReplicaName) -> Self {
        Self::lvol(&LvolName::head(replica))
    }

    /// The target of one lvol.
    pub fn lvol(lvol: &LvolName) -> Self {
        Self(format!("{NQN_PREFIX}{lvol}").into())
    }

    /// The target of a volume, which its client connects to.
    pub fn volume(volume: &VolumeName) -> Self {
        Self::shorten(format!("{NQN_PREFIX}volume-{volume}"))
    }

    /// The host that engines present themselves as to replicas; no other host is admitted there.
    pub fn internal_host() -> Self {
        Self(format!("{NQN_PREFIX}internal-host").into())
    }

    fn shorten(text: String) -> Self {
        if text.len() <= NQN_LIMIT {
            return Self(text.into());
        }
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string();
        Self(format!("{}~{digest}", &text[..NQN_LIMIT - 33]).into())
    }
}

/// A namespace's globally unique identifier, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nguid(pub [u8; 16]);

impl Nguid {
    /// A replica's: UUIDv5 of the name of the exposed lvol in the OID namespace.
    pub fn replica(replica: &ReplicaName) -> Self {
        Self::lvol(&LvolName::head(replica))
    }

    /// That of one lvol.
    pub fn lvol(lvol: &LvolName) -> Self {
        Self::of(lvol.as_str())
    }

    /// A volume's: the same on every node that serves it, so that paths can be joined.
    pub fn volume(volume: &VolumeName) -> Self {
        Self::of(&format!("volume-{volume}"))
    }

    fn of(text: &str) -> Self {
        Self(*Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_bytes())
    }
}

impl std::fmt::Display for Nguid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The UUID of a volume's namespace: UUIDv5 of `volume-<name>` in the URL namespace.
pub fn volume_namespace_uuid(volume: &VolumeName) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("volume-{volume}").as_bytes())
}
