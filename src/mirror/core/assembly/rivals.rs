//! Generations that cannot be complete, whoever is asked.
//!
//! While an engine serves a volume and puts a member out, another may start: each raises a generation on a part of the
//! survivors, and neither can on the rest. A generation stands for acknowledged writes only once all that its record names hold
//! it. One of them that holds another, from a lower base and not lower itself, never held it and never will: a replica goes only
//! up, and a start replaces only what it has read. Nor does one that holds a lower one of another engine, which has gone on with
//! it from the base. So whoever holds such a generation is as recent as its base, no less and no more.

use super::super::generation::{Generation, GenerationRecord};
use crate::name::ReplicaName;

/// What a replica is known to hold.
pub(super) type Known = (ReplicaName, Option<GenerationRecord>);

/// The records as they count: that of a generation which cannot be complete counts as one of its base.
pub(super) fn effective(found: &[Known]) -> Vec<Known> {
    let counts = |(replica, record): &Known| {
        let record = record.clone().and_then(|record| match is_refuted(&record, found) {
            true => as_its_base(record),
            false => Some(record),
        });
        (replica.clone(), record)
    };
    found.iter().map(counts).collect()
}

fn is_refuted(record: &GenerationRecord, found: &[Known]) -> bool {
    let generation = record.generation;
    let never_held_it = |other: &GenerationRecord| match other.generation {
        same if same == generation => false,
        lower if lower.counter() < generation.counter() => {
            // One of the same engine only lags.
            lower.counter() > record.base.counter() && lower.incarnation() != generation.incarnation()
        }
        _ => other.base.counter() < generation.counter(),
    };
    let named = found.iter().filter(|(replica, _)| record.in_sync.contains(replica));
    generation != Generation::NONE && named.filter_map(|(_, other)| other.as_ref()).any(never_held_it)
}

/// The first generation of a mirror has none: it never ran.
fn as_its_base(record: GenerationRecord) -> Option<GenerationRecord> {
    let GenerationRecord { base, in_sync, .. } = record;
    (base != Generation::NONE).then_some(GenerationRecord { generation: base, base, in_sync })
}
