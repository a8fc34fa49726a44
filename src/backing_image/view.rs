//! A backing image as it is shown: plain values, a copy of what was true at one moment.

use uuid::Uuid;

use super::checksum::ImageChecksum;
use crate::name::{BackingImageId, BackingImageName, LvolName, LvsName};

/// Where a backing image is in its life (`engine-behaviour` §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackingImageState {
    /// It is on its disk, and nothing there says whether it is whole.
    Pending,
    /// It waits for its turn to be made.
    Starting,
    /// It is being copied, or read back.
    InProgress,
    /// It is what its checksum says.
    Ready,
    /// It is not, and cannot be used; the message says why.
    Failed,
}

impl BackingImageState {
    /// The wire's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::InProgress => "in-progress",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// The lvol that is the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLvol {
    /// Its name.
    pub name: LvolName,
    /// Its identity.
    pub uuid: Uuid,
    /// Bytes it presents.
    pub spec_size: u64,
    /// Bytes of its clusters: what the image takes.
    pub actual_size: u64,
}

/// A backing image as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingImageView {
    /// Its name.
    pub name: BackingImageName,
    /// Which making of it this is; unknown only of one that lost its attributes.
    pub id: Option<BackingImageId>,
    /// The lvstore it is in; the disk's name.
    pub lvs_name: LvsName,
    /// The lvstore's identity.
    pub lvs_uuid: Uuid,
    /// Bytes of the image.
    pub size: u64,
    /// What it must be.
    pub checksum: Option<ImageChecksum>,
    /// What it was last found to be.
    pub found: Option<ImageChecksum>,
    /// The lvol, once it is there.
    pub lvol: Option<ImageLvol>,
    /// Per cent of copying and of reading back; 100 only when it is ready.
    pub progress: u8,
    /// Where it is in its life.
    pub state: BackingImageState,
    /// Why it failed, or what failed last; empty when nothing did.
    pub error: String,
}
