//! The checksum of an image: SHA-512 over all its bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Digits of a SHA-512 in hexadecimal.
const DIGITS: usize = 128;

/// A SHA-512, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ImageChecksum(String);

impl ImageChecksum {
    /// Parses 128 hexadecimal digits, of either case.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() != DIGITS || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("is not a SHA-512: {DIGITS} hexadecimal digits"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Of a digest's bytes.
    pub(super) fn of(digest: &[u8]) -> Self {
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImageChecksum {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for ImageChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_128_digits_are_a_checksum() {
        let sum = ImageChecksum::parse(&"AB".repeat(64)).unwrap();
        assert_eq!(sum, ImageChecksum::of(&[0xab; 64]));
        for wrong in ["", "ab", &"g".repeat(128), &"a".repeat(127), &"a".repeat(129), &"ä".repeat(64)] {
            assert!(ImageChecksum::parse(wrong).is_err(), "{wrong}");
        }
    }
}
