//! What a replica's chain stands on: nothing, or an lvol that is not the replica's and never changes.
//!
//! It is seen in the store, as the parent of the oldest lvols of the chain. While a replica is rebuilt there is no chain;
//! so it is kept as an attribute as well, with the head and with what is in its place.

use serde::{Deserialize, Serialize};

use crate::name::{BackingImageName, LvolName};

/// What the oldest lvols of a replica are based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The entry point of a linked clone, in the same store.
    EntryPoint {
        /// Its lvol, a snapshot of the source replica.
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

    /// As the attribute has it.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).expect("names have a JSON form")
    }

    /// From the attribute.
    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_is_read_back() {
        let lvol = LvolName::parse("bi-parrot-disk-0").unwrap();
        for base in [
            Base::Nothing,
            Base::EntryPoint { lvol: lvol.clone() },
            Base::BackingImage { name: BackingImageName::parse("parrot").unwrap(), lvol },
        ] {
            assert_eq!(Base::decode(&base.encode()), Some(base));
        }
        assert_eq!(Base::decode("{}"), None);
    }
}
