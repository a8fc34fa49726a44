//! Labels of a snapshot: what its user noted with it, as keys and values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NameError;

/// The most that the labels of one snapshot take, in bytes of their stored form (JSON). One attribute of an lvol holds
/// [`crate::spdk::xattr::XATTR_VALUE_LIMIT`]; this leaves the rest of its page for the snapshot's other attributes.
pub const LABELS_LIMIT: usize = 2048;

const CHARACTERS: &str = "all but control characters";

/// Labels that can be stored: no empty key, no control characters, at most [`LABELS_LIMIT`] bytes in all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct SnapshotLabels(BTreeMap<String, String>);

impl SnapshotLabels {
    /// Takes them, or says what is wrong with one.
    pub fn parse(labels: BTreeMap<String, String>) -> Result<Self, NameError> {
        for (key, value) in &labels {
            if key.is_empty() {
                return Err(NameError::Empty);
            }
            for text in [key, value] {
                if let Some((at, character)) = text.char_indices().find(|(_, character)| character.is_control()) {
                    return Err(NameError::Character { character, at, allowed: CHARACTERS });
                }
            }
        }
        let labels = Self(labels);
        match labels.encode().len() {
            length if length > LABELS_LIMIT => Err(NameError::TooLong { length, limit: LABELS_LIMIT }),
            _ => Ok(labels),
        }
    }

    /// As they are stored.
    pub fn encode(&self) -> String {
        // A map of texts serialises without fail.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for SnapshotLabels {
    type Error = NameError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, NameError> {
        Self::parse(labels)
    }
}

impl From<SnapshotLabels> for BTreeMap<String, String> {
    fn from(labels: SnapshotLabels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(labels: &[(&str, &str)]) -> Result<SnapshotLabels, NameError> {
        SnapshotLabels::parse(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn what_can_be_stored_is_read_back_and_the_rest_is_refused() {
        let labels = parse(&[("app", "db \"1\""), ("recurring.longhorn.io/job", ""), ("ключ", "值")]).unwrap();
        assert_eq!(serde_json::from_str::<SnapshotLabels>(&labels.encode()).unwrap(), labels);
        assert!(parse(&[]).unwrap().is_empty());
        assert_eq!(parse(&[("", "x")]), Err(NameError::Empty));
        assert!(matches!(parse(&[("a", "x\0")]), Err(NameError::Character { .. })));
        assert!(matches!(parse(&[("a\n", "x")]), Err(NameError::Character { .. })));
        assert!(parse(&[("a", &"x".repeat(LABELS_LIMIT - 8))]).is_ok());
        assert!(matches!(parse(&[("a", &"x".repeat(LABELS_LIMIT - 7))]), Err(NameError::TooLong { .. })));
        assert!(serde_json::from_str::<SnapshotLabels>(r#"{"":"x"}"#).is_err());
    }
}
