//! The CPU cores that reactors run on.

use std::collections::BTreeSet;

use super::value::Value;

/// The highest core number that the kernel's own affinity masks of 1024 bits can name.
const HIGHEST_CORE: u32 = 1023;

/// At least one core, each once, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreList(Vec<u32>);

impl CoreList {
    /// Only this core.
    pub fn one(core: u32) -> Self {
        Self(vec![core])
    }

    /// The core numbers, ascending; never empty.
    pub fn cores(&self) -> &[u32] {
        &self.0
    }

    /// From a hexadecimal mask like `0x5`, as SPDK's tools take it.
    fn from_mask(digits: &str) -> Result<BTreeSet<u32>, String> {
        let mut cores = BTreeSet::new();
        for (position, digit) in digits.chars().rev().enumerate() {
            let bits = digit.to_digit(16).ok_or_else(|| format!("{digit:?} is not a hexadecimal digit"))?;
            let base = u32::try_from(position).unwrap_or(u32::MAX).saturating_mul(4);
            cores.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| base.saturating_add(bit)));
        }
        Ok(cores)
    }

    /// From a list like `0,2-3`, as Linux writes it.
    fn from_list(text: &str) -> Result<BTreeSet<u32>, String> {
        let form = || format!("{text:?} is not a list of cores like 0,2-3 or a mask like 0xd");
        let mut cores = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| form())?;
            let last: u32 = last.parse().map_err(|_| form())?;
            if first > last || last > HIGHEST_CORE {
                return Err(form());
            }
            for core in first..=last {
                if !cores.insert(core) {
                    return Err(format!("core {core} is listed twice"));
                }
            }
        }
        Ok(cores)
    }
}

impl Value for CoreList {
    const FORM: &'static str = "CORES";

    fn parse(text: &str) -> Result<Self, String> {
        let cores = match text.strip_prefix("0x") {
            Some(digits) => Self::from_mask(digits)?,
            None => Self::from_list(text)?,
        };
        match cores.last() {
            None => Err("names no core".into()),
            Some(core) if *core > HIGHEST_CORE => Err(format!("core {core} is above {HIGHEST_CORE}")),
            Some(_) => Ok(Self(cores.into_iter().collect())),
        }
    }

    fn show(&self) -> String {
        self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}
