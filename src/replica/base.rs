//! What a replica's chain stands on: nothing, or an lvol that is not the replica's and never changes.

use crate::name::{BackingImageName, LvolName};

/// What the oldest lvols of a replica are based on, as the store tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing: what was never written reads as zeroes.
    #[default]
    Nothing,
    /// A backing image of the same store: what was never written reads as the image has it.
    BackingImage {
        /// The image.
        name: BackingImageName,
        /// Its lvol.
        lvol: LvolName,
    },
    /// The entry point of a linked clone, in the same store: what was never written reads as the source's snapshot has it.
    EntryPoint {
        /// Its lvol, a snapshot above one of the source replica.
        lvol: LvolName,
    },
}

impl Base {
    /// The lvol that a new root of the chain is to be a clone of.
    pub(super) fn lvol(&self) -> Option<&LvolName> {
        match self {
            Self::Nothing => None,
            Self::BackingImage { lvol, .. } | Self::EntryPoint { lvol } => Some(lvol),
        }
    }

    /// The backing image, if it is one.
    pub(super) fn backing_image(&self) -> Option<&BackingImageName> {
        match self {
            Self::BackingImage { name, .. } => Some(name),
            Self::Nothing | Self::EntryPoint { .. } => None,
        }
    }
}
