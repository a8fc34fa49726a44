//! A number of bytes, as people write it.

use super::value::Value;

/// Bytes. Written with a binary unit, as `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Largest first, so that the first that divides a size is the shortest way to write it.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteSize {
    /// That many MiB; a constant of the program.
    pub const fn mib(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Value for ByteSize {
    const FORM: &'static str = "SIZE";

    /// A whole number with a unit. A bare number is refused: whether it meant bytes or MiB would be a guess.
    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a size like 4096B, 64KiB, 512MiB, 2GiB or 1TiB");
        let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(form)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| form())?;
        let unit = unit.trim_start();
        let factor = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => *factor,
            None if unit == "B" => 1,
            None => return Err(form()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text} is more than 64 bits can hold"))
    }

    fn show(&self) -> String {
        match UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((name, factor)) => format!("{}{name}", self.0 / factor),
            None => format!("{}B", self.0),
        }
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}
