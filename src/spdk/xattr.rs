//! Extended attributes of lvols: what we note with a volume or snapshot, in the same write as its metadata.
//!
//! An lvol's metadata is a chain of pages of 4 KiB that its cluster map shares with its xattrs; one xattr, its name and 9
//! bytes of frame must fit into a page (4,072 bytes). The limits below leave room for the name and keep a margin. A
//! chain is replaced as a whole and in order: the new pages are written first, then the root page that leads to them.
//!
//! SPDK 20.07 forgets at a load which pages a chain has beside its root page. The first change after that does not give
//! those back, so a restart costs a page (of which a store has one for each cluster) for every replica whose metadata
//! is longer than one. The load after a crash finds them again.

use crate::name::NameError;

/// Longest name, in bytes.
pub const XATTR_NAME_LIMIT: usize = 63;
/// Longest value, in bytes: the record of a mirror of eight replicas with the longest names takes 2,067.
pub const XATTR_VALUE_LIMIT: usize = 3072;

/// The name of an xattr: printable ASCII, at most [`XATTR_NAME_LIMIT`] bytes, not one of the lvol module's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrName(Box<str>);

impl XattrName {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > XATTR_NAME_LIMIT {
            return Err(NameError::TooLong { length: text.len(), limit: XATTR_NAME_LIMIT });
        }
        if let Some((at, character)) = text.char_indices().find(|(_, character)| !character.is_ascii_graphic()) {
            return Err(NameError::Character { character, at, allowed: "printable ASCII without blanks" });
        }
        if matches!(text, "name" | "uuid") {
            return Err(NameError::Reserved { word: text.into(), reason: "the lvol module keeps its own data there" });
        }
        Ok(Self(text.into()))
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for XattrName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of an xattr: at most [`XATTR_VALUE_LIMIT`] bytes, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XattrValue(Box<[u8]>);

impl XattrValue {
    /// Takes `bytes` if they are not too many, nor none.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes.len() {
            0 => Err(NameError::Empty),
            length if length > XATTR_VALUE_LIMIT => Err(NameError::TooLong { length, limit: XATTR_VALUE_LIMIT }),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, without the NUL that C writers put at the end. `None` when they are not UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        let bytes = self.0.strip_suffix(&[0]).unwrap_or(&self.0);
        std::str::from_utf8(bytes).ok()
    }
}

/// One change of an lvol's xattrs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XattrChange {
    /// Which.
    pub name: XattrName,
    /// Its new value, or `None` to remove it.
    pub value: Option<XattrValue>,
}

impl XattrChange {
    /// Sets a value.
    pub fn set(name: XattrName, value: XattrValue) -> Self {
        Self { name, value: Some(value) }
    }

    /// Removes one; that it is not there is no error.
    pub fn remove(name: XattrName) -> Self {
        Self { name, value: None }
    }
}

#[cfg(test)]
mod tests {
    use super::{XATTR_NAME_LIMIT, XATTR_VALUE_LIMIT, XattrName, XattrValue};

    #[test]
    fn the_modules_own_names_and_impossible_ones_are_refused() {
        for text in ["", "name", "uuid", "a b", "a\0b", "a\u{e9}"] {
            assert!(XattrName::parse(text).is_err(), "{text:?}");
        }
        assert!(XattrName::parse(&"a".repeat(XATTR_NAME_LIMIT)).is_ok());
        assert!(XattrName::parse(&"a".repeat(XATTR_NAME_LIMIT + 1)).is_err());
    }

    #[test]
    fn values_are_bounded_and_lose_one_terminator_as_text() {
        assert!(XattrValue::new(&[]).is_err());
        assert!(XattrValue::new(&[0; XATTR_VALUE_LIMIT]).is_ok());
        assert!(XattrValue::new(&[0; XATTR_VALUE_LIMIT + 1]).is_err());
        let text = |bytes: &[u8]| XattrValue::new(bytes).expect("short").as_text().map(str::to_owned);
        assert_eq!(text(b"true\0").as_deref(), Some("true"));
        assert_eq!(text(b"true").as_deref(), Some("true"));
        assert_eq!(text(&[0xff]), None);
    }
}
