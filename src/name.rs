//! The names of things, as types.
//!
//! Longhorn's v2 engine once built a RAID bdev from empty strings (longhorn#10139). Here a name is
//! made only by parsing, and a value that exists is valid: not empty, not blank, within its length
//! limit, of its character set, and not one of the words reserved for something else. Nothing below
//! the wire layer takes a `&str` for a name.
//!
//! - [`object`]: what users and peers name (volumes, engines, replicas, snapshots, disks, backups).
//! - [`spdk`]: what SPDK names (bdevs, lvstores, lvols, NQNs, NGUIDs), and how they derive from the former.
//! - [`address`]: where a replica or a node answers.
//! - [`nonempty`]: a list that has at least one element.
//! - [`labels`]: what a user notes with a snapshot.

pub mod address;
pub mod labels;
pub mod nonempty;
pub mod object;
pub mod spdk;

pub use address::{HostPort, ReplicaAddress};
pub use labels::SnapshotLabels;
pub use nonempty::NonEmpty;
pub use object::{
    BackingImageId, BackingImageName, BackupName, DiskName, EngineName, FrontendName, ReplicaName, SnapshotName,
    VolumeName,
};
pub use spdk::{BdevName, LvolAlias, LvolName, LvsName, Nguid, Nqn};

/// Why a text is not a name. The wire layer adds the field it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters at all.
    #[error("must not be empty")]
    Empty,
    /// The text has only white space.
    #[error("must not be blank")]
    Blank,
    /// The text is longer than what the layer below can hold.
    #[error("is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// The length found, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A character outside the allowed set.
    #[error("has the character {character:?} at byte {at}; allowed are {allowed}")]
    Character {
        /// The offending character.
        character: char,
        /// Its byte offset.
        at: usize,
        /// The allowed set, in words.
        allowed: &'static str,
    },
    /// A word that is reserved for something else.
    #[error("{word:?} is reserved: {reason}")]
    Reserved {
        /// The reserved word found.
        word: String,
        /// What it is reserved for.
        reason: &'static str,
    },
    /// The text does not have the form of this kind of name.
    #[error("{problem}")]
    Form {
        /// What is wrong with the form.
        problem: String,
    },
}

/// Limits common to every name: something in it, no control characters, a bounded length.
fn check_text(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { length: text.len(), limit });
    }
    if text.trim().is_empty() {
        return Err(NameError::Blank);
    }
    Ok(())
}

/// The set most names share: what a Kubernetes name, a file name and an NQN all can hold.
fn check_characters(text: &str, allowed: impl Fn(char) -> bool, words: &'static str) -> Result<(), NameError> {
    match text.char_indices().find(|(_, character)| !allowed(*character)) {
        None => Ok(()),
        Some((at, character)) => Err(NameError::Character { character, at, allowed: words }),
    }
}

/// Declares a name type: private text, `parse` as the only way in, and the traits a name needs.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Parses `text`, refusing all that this kind of name cannot hold.
            pub fn parse(text: &str) -> Result<Self, $crate::name::NameError> {
                let check: fn(&str) -> Result<(), $crate::name::NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The text of the name; never empty.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::name::NameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use name_type;

#[cfg(test)]
mod tests;
