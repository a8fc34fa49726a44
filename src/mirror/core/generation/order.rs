//! A generation record on its way to a replica, with what it may take the place of.

use super::{Generation, GenerationRecord, RecordError};

/// What the record may take the place of. [`Generation::may_replace`] holds in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// Whatever is lower.
    Lower,
    /// Only what was read from the replica before, or what the same mirror has stored since; none when it had no record. What a
    /// mirror decides at its start holds only as long as no other has changed what that was decided by.
    Only(Option<Generation>),
}

/// What a mirror sends to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationOrder {
    /// To be stored.
    pub record: GenerationRecord,
    /// In the place of what.
    pub replaces: Replaces,
}

impl GenerationOrder {
    /// Whether a replica that holds `stored` takes it. It takes the same once more.
    pub fn may_replace(&self, stored: Option<Generation>) -> bool {
        let expected = match self.replaces {
            Replaces::Lower => true,
            Replaces::Only(expected) => {
                let raised_by = self.record.generation.incarnation();
                stored == expected || stored.is_some_and(|stored| stored.incarnation() == raised_by)
            }
        };
        expected && self.record.generation.may_replace(stored.unwrap_or(Generation::NONE))
    }

    /// The text on its way: the record's, after `only <generation>` (16 hex digits) or `only -` where it replaces only that.
    pub fn encode(&self) -> String {
        let record = self.record.encode();
        match self.replaces {
            Replaces::Lower => record,
            Replaces::Only(None) => format!("only - {record}"),
            Replaces::Only(Some(expected)) => format!("only {:016x} {record}", expected.raw()),
        }
    }

    /// Reads that text.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let Some(rest) = text.strip_prefix("only ") else {
            return Ok(Self { record: GenerationRecord::parse(text)?, replaces: Replaces::Lower });
        };
        let form = || RecordError::Form(text.chars().take(80).collect());
        let (expected, record) = rest.split_once(' ').ok_or_else(form)?;
        let expected = match expected {
            "-" => None,
            digits if digits.len() == 16 => {
                let raw = u64::from_str_radix(digits, 16).map_err(|_| form())?;
                Some(Generation::from_raw(raw))
            }
            _ => return Err(form()),
        };
        Ok(Self { record: GenerationRecord::parse(record)?, replaces: Replaces::Only(expected) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Incarnation;
    use super::*;

    fn order(replaces: Replaces) -> GenerationOrder {
        let base = Generation::NONE.next(Incarnation(1));
        let record = GenerationRecord { generation: base.next(Incarnation(2)), base, in_sync: vec![] };
        GenerationOrder { record, replaces }
    }

    #[test]
    fn orders_survive_the_way() {
        let some = Generation::from_raw(0x0000_0005_dead_beef);
        for replaces in [Replaces::Lower, Replaces::Only(None), Replaces::Only(Some(some))] {
            let order = order(replaces);
            assert_eq!(GenerationOrder::parse(&order.encode()), Ok(order));
        }
        for text in ["only", "only -", "only 5 1 5 4 a", "only + 1 00000005deadbeef 0000000400000001 a"] {
            assert!(GenerationOrder::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_order_of_a_start_replaces_only_what_was_read() {
        let (none, read) = (order(Replaces::Only(None)), Generation::NONE.next(Incarnation(1)));
        let raised = none.record.generation;
        assert!(none.may_replace(None) && !none.may_replace(Some(read)) && none.may_replace(Some(raised)));
        let only = order(Replaces::Only(Some(read)));
        let another = Generation::NONE.next(Incarnation(3));
        assert!(only.may_replace(Some(read)) && only.may_replace(Some(raised)));
        assert!(!only.may_replace(None) && !only.may_replace(Some(another)), "another has gone on");
        assert!(order(Replaces::Lower).may_replace(Some(another)));
        assert!(!order(Replaces::Lower).may_replace(Some(raised.next(Incarnation(1)))));
    }
}
