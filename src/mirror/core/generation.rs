//! What a replica durably knows of its mirror: how recent it is, and with whom.

use std::fmt;

use crate::name::{NameError, ReplicaName};

mod order;

pub use order::{GenerationOrder, Replaces};

/// A number drawn at random for each assembly of a mirror. It tells the generations of two engines apart that counted
/// on from the same one without knowing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u32);

/// How recent a replica's content is: a counter in the upper 32 bits, the incarnation that raised it in the lower.
/// Higher is newer; the same counter with another incarnation is a divergence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Of a replica whose content is not complete: below every real one.
    pub const NONE: Self = Self(0);

    /// From its stored form.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Its stored form.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// How often generations were raised up to this one.
    pub const fn counter(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Who raised it.
    pub const fn incarnation(self) -> Incarnation {
        Incarnation(self.0 as u32)
    }

    /// The next one, raised by `incarnation`.
    pub const fn next(self, incarnation: Incarnation) -> Self {
        Self(((self.0 >> 32) + 1) << 32 | incarnation.0 as u64)
    }

    /// Whether a replica that holds `stored` may take this one instead. A replica keeps this rule itself, so that
    /// neither a late message nor an engine that was replaced can turn it back. [`Generation::NONE`] is the exception:
    /// it declares the content void before a rebuild, and only the engine that admits the replica sends it.
    pub const fn may_replace(self, stored: Self) -> bool {
        self.0 == stored.0 || self.counter() > stored.counter() || self.0 == 0
    }

    /// Whether both have the same counter from different incarnations: two engines went on from one state.
    pub const fn diverges_from(self, other: Self) -> bool {
        self.counter() == other.counter() && self.0 != other.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.counter(), self.incarnation().0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

/// What is stored with each replica (an xattr of its head), written before any write that depends on it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRecord {
    /// How recent this replica is.
    pub generation: Generation,
    /// The generation all of `in_sync` held when this one was raised. One of them that is found at `base`, or between,
    /// was about to be raised too when the engine died: nothing was acknowledged that it lacks.
    ///
    /// With [`Generation::NONE`], the generation the mirror had reached when this replica's content was declared void: what
    /// the replica knew is overwritten, that others went on is not forgotten.
    pub base: Generation,
    /// The replicas in sync by this generation, this one included; for a void one, those that went on.
    pub in_sync: Vec<ReplicaName>,
}

/// A stored record that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not three or more fields, or another version.
    #[error("{0:?} is not a generation record of version 1")]
    Form(String),
    /// A name in it is not a replica's.
    #[error("a replica name in the generation record {0}")]
    Name(NameError),
}

impl GenerationRecord {
    /// The stored text: `1 <generation> <base> <name>,<name>…`, numbers in 16 hex digits. Eight of the longest names make
    /// 2,067 bytes, which fits an lvol's xattr (a metadata page of 4,096).
    pub fn encode(&self) -> String {
        let names: Vec<_> = self.in_sync.iter().map(ReplicaName::as_str).collect();
        format!("1 {:016x} {:016x} {}", self.generation.raw(), self.base.raw(), names.join(","))
    }

    /// Reads the stored text.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let form = || RecordError::Form(text.chars().take(80).collect());
        let mut fields = text.split(' ');
        if fields.next() != Some("1") {
            return Err(form());
        }
        let mut number = || {
            let digits = fields.next().filter(|digits| digits.len() == 16).ok_or_else(form)?;
            u64::from_str_radix(digits, 16).map(Generation::from_raw).map_err(|_| form())
        };
        let (generation, base) = (number()?, number()?);
        let names = fields.next().ok_or_else(form)?;
        if fields.next().is_some() {
            return Err(form());
        }
        let in_sync = names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(|name| ReplicaName::parse(name).map_err(RecordError::Name))
            .collect::<Result<_, _>>()?;
        Ok(Self { generation, base, in_sync })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_generation_is_higher_whatever_the_incarnation() {
        let old = Generation::NONE.next(Incarnation(u32::MAX));
        let new = old.next(Incarnation(0));
        assert!(new > old && new.may_replace(old) && !old.may_replace(new));
    }

    #[test]
    fn two_engines_that_counted_on_from_one_state_diverge() {
        let start = Generation::NONE.next(Incarnation(7));
        let (one, other) = (start.next(Incarnation(8)), start.next(Incarnation(9)));
        assert!(one.diverges_from(other));
        assert!(!one.may_replace(other) && !other.may_replace(one));
        assert!(one.may_replace(one) && !one.diverges_from(one));
    }

    #[test]
    fn records_survive_storage() {
        let name = |text| ReplicaName::parse(text).expect("a name");
        let record = GenerationRecord {
            generation: Generation::from_raw(0x0000_0005_dead_beef),
            base: Generation::from_raw(0x0000_0004_0000_0001),
            in_sync: vec![name("vol-r-1"), name("vol-r-2")],
        };
        assert_eq!(record.encode(), "1 00000005deadbeef 0000000400000001 vol-r-1,vol-r-2");
        assert_eq!(GenerationRecord::parse(&record.encode()), Ok(record));
        let void = GenerationRecord { generation: Generation::NONE, base: Generation::NONE, in_sync: vec![] };
        assert_eq!(GenerationRecord::parse(&void.encode()), Ok(void));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            "",
            "1",
            "2 00000005deadbeef 0000000400000001 a",
            "1 5 4 a",
            "1 00000005deadbeef 0000000400000001",
            "1 00000005deadbeef 0000000400000001 a b",
            "1 00000005deadbeef 0000000400000001 a,/",
            "1 +0000005deadbeef 000000040000000g a",
        ] {
            assert!(GenerationRecord::parse(text).is_err(), "{text:?}");
        }
    }
}
