//! The identity of a block: SHA-512 of its uncompressed bytes, cut to 32 bytes (§1).

use std::fmt;

use aws_lc_rs::digest::{SHA512, digest};

use super::error::FormatError;

/// Bytes of SHA-512 that are kept; 64 hexadecimal digits in a file name.
const DIGEST_LENGTH: usize = 32;

/// The digest of a block, which is also the name of its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_LENGTH]);

impl Digest {
    /// The digest of a block's uncompressed bytes. CPU work: about 1.4 s per GiB, so not on an async thread.
    pub fn of(content: &[u8]) -> Self {
        let full = digest(&SHA512, content);
        let mut kept = [0; DIGEST_LENGTH];
        kept.copy_from_slice(&full.as_ref()[..DIGEST_LENGTH]);
        Self(kept)
    }

    /// Parses 64 lower-case hexadecimal digits. Upper case is refused: it would name another file.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let refused = || FormatError::Digest(text.chars().take(80).collect());
        let digits = text.as_bytes();
        if digits.len() != 2 * DIGEST_LENGTH {
            return Err(refused());
        }
        let mut kept = [0; DIGEST_LENGTH];
        for (byte, pair) in kept.iter_mut().zip(digits.chunks_exact(2)) {
            let high = nibble(pair[0]).ok_or_else(refused)?;
            let low = nibble(pair[1]).ok_or_else(refused)?;
            *byte = high << 4 | low;
        }
        Ok(Self(kept))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The first four hexadecimal digits of SHA-512 of a name, which spread volumes over directories.
pub(super) fn name_prefix(name: &str) -> String {
    let full = digest(&SHA512, name.as_bytes());
    full.as_ref()[..2].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_only_lower_case_is_taken() {
        let digest = Digest::of(b"abc");
        // FIPS 180-2, appendix C.1: SHA-512("abc") starts with these 32 bytes.
        let text = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::parse(text), Ok(digest));
        for refused in ["", "dd", &text.to_uppercase(), &text.replace('d', "g"), &format!("{text}0")] {
            assert!(Digest::parse(refused).is_err(), "{refused:?} was taken");
        }
    }

    #[test]
    fn text_of_multibyte_characters_is_refused_without_a_panic() {
        assert!(Digest::parse(&"é".repeat(32)).is_err());
    }
}
