//! A whole number within fixed limits.

use super::value::Value;

/// A number from `MIN` to `MAX`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The constant `N`; does not compile when it is out of the limits.
    pub const fn of<const N: u64>() -> Self {
        const { assert!(MIN <= N && N <= MAX, "a default must be within its limits") };
        Self(N)
    }

    /// The number.
    pub fn get(self) -> usize {
        // Lossless: SPDK and so this program exist on 64-bit machines only.
        self.0 as usize
    }
}

impl<const MIN: u64> Bounded<MIN, 65535> {
    /// The number as a port.
    pub fn port(self) -> u16 {
        self.0 as u16
    }
}

impl<const MIN: u64, const MAX: u64> Value for Bounded<MIN, MAX> {
    const FORM: &'static str = "NUMBER";

    fn parse(text: &str) -> Result<Self, String> {
        let number: u64 = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not from {MIN} to {MAX}"))
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}
