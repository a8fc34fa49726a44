//! Kubernetes quantities, as far as a block size may be written as one (§7).

/// Parses a whole number of bytes: digits and an optional decimal (`k`, `M`, …), binary (`Ki`, `Mi`, …) or
/// exponent (`e6`) suffix. `None` for anything else, for fractions and for what does not fit 64 bits.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    number.checked_mul(multiplier(suffix)?)
}

fn multiplier(suffix: &str) -> Option<u64> {
    let power = |base: u64, exponent: u32| base.checked_pow(exponent);
    match suffix {
        "" => Some(1),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            power(10, exponent.parse().ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn binary_and_decimal_suffixes_differ() {
        assert_eq!(parse_bytes("2097152"), Some(2_097_152));
        assert_eq!(parse_bytes("2Mi"), Some(2_097_152));
        assert_eq!(parse_bytes("16Mi"), Some(16_777_216));
        assert_eq!(parse_bytes("2M"), Some(2_000_000));
        assert_eq!(parse_bytes("2e6"), Some(2_000_000));
        for refused in ["", "Mi", "-2", "2 Mi", "2mi", "1.5Mi", "99999999999999999999", "9e30", "2Ti0"] {
            assert_eq!(parse_bytes(refused), None, "{refused:?} was taken");
        }
    }
}
