//! Whether a mirror that sleeps may go on with its members. It knows nothing of them for sure: another mirror may have served the
//! volume since, put members out and taken new ones in. So it asks every member's replica, and decides as an assembly does.
//!
//! One that does not answer may be the only one with what another mirror acknowledged last. Replicas tell whether that can be:
//! the mirror that claimed them last has released them, or has not. One that rested does not go on without a replica that it has
//! released, so that the next may. Else the mirror goes on only when all answer that may be newer; whoever looks
//! after the volume may create it anew without them.

use super::assembly::{Assembly, AssemblyError, Standing, stand};
use super::dirty::ReplicaRecords;
use super::generation::{Generation, Incarnation};
use super::mask::{MemberIndex, MemberMask};
use crate::name::ReplicaName;

/// What a mirror remembers from its assembly for when it wakes.
#[derive(Debug, Clone)]
pub struct Waking {
    incarnation: Incarnation,
    /// The generation that counted then.
    assembled: Generation,
    /// Replicas that it was assembled without: they lack something, or its owner knew of them.
    left_out: Vec<ReplicaName>,
}

/// What becomes of the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It starts from there.
    Wakes(Standing),
    /// Replicas that may be newer do not answer. It sleeps on.
    Unsure(Vec<ReplicaName>),
    /// Others have gone on without all its members, or with replicas that it does not have.
    Superseded,
}

/// A member's place, its replica, and what that answered.
pub type Answer = (MemberIndex, ReplicaName, ReplicaRecords);

impl Waking {
    /// Of a mirror that was assembled so.
    pub fn new(assembly: &Assembly) -> Self {
        let refused = assembly.refused.iter().map(|refused| &refused.replica);
        let left_out = assembly.unverified.iter().chain(refused).cloned().collect();
        Self { incarnation: assembly.incarnation, assembled: assembly.newest, left_out }
    }

    /// Whether nobody may be using the volume, so that the mirror need not sleep until a client comes: all answer, and are free.
    pub fn may_wake_at_once(&self, found: &[Answer], in_sync: MemberMask) -> bool {
        let answered: MemberMask = found.iter().map(|(member, ..)| *member).collect();
        in_sync.minus(answered).is_empty() && found.iter().all(|(.., records)| records.is_free())
    }

    /// Decides by what the members hold that answered. `in_sync` are the members that count; `is_member` also tells of those that
    /// have left since.
    pub fn judge(&self, found: &[Answer], in_sync: MemberMask, is_member: impl Fn(&ReplicaName) -> bool) -> Verdict {
        let answered: MemberMask = found.iter().map(|(member, ..)| *member).collect();
        let is_new = found.iter().all(|(.., records)| records.generation.is_none());
        if found.is_empty() || (is_new && !in_sync.minus(answered).is_empty()) {
            return Verdict::Unsure(Vec::new());
        }
        let held: Vec<_> = found
            .iter()
            .map(|(member, replica, records)| (*member, replica.clone(), records.generation.clone()))
            .collect();
        let (standing, named) = match stand(&held, self.incarnation) {
            Ok(stand) => stand,
            Err(AssemblyError::NothingInSync) if !in_sync.minus(answered).is_empty() => {
                return Verdict::Unsure(Vec::new());
            }
            Err(_) => return Verdict::Superseded,
        };
        let was_left_out = |replica: &ReplicaName| self.assembled == standing.newest && self.left_out.contains(replica);
        // One that has left but answers cannot be claimed, and so another may go on with it still.
        let takes_part = |replica: &ReplicaName| {
            found.iter().any(|(member, answered, _)| answered == replica && in_sync.contains(*member))
        };
        let (lost, others): (Vec<_>, Vec<_>) =
            named.into_iter().filter(|replica| !takes_part(replica) && !was_left_out(replica)).partition(is_member);
        let may_lose = found.iter().all(|(.., records)| records.is_left_to(self.incarnation));
        let remaining = in_sync.and(answered).minus(standing.stale);
        if !others.is_empty() || (remaining.is_empty() && lost.is_empty()) {
            Verdict::Superseded
        } else if remaining.is_empty() || (!may_lose && !lost.is_empty()) {
            Verdict::Unsure(lost)
        } else {
            Verdict::Wakes(Standing { may_lose, ..standing })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dirty::{DirtyRecord, FoundDirty, RegionSet, Regions};
    use super::super::generation::GenerationRecord;
    use super::super::members::tests::open;
    use super::*;

    const OWN: Incarnation = Incarnation(9);
    const OTHER: Incarnation = Incarnation(1);

    fn name(number: usize) -> ReplicaName {
        open(number).replica
    }

    fn base() -> Generation {
        Generation::NONE.next(OTHER).next(OTHER)
    }

    fn claimed(by: Incarnation, released: bool) -> FoundDirty {
        let (regions, dirty) = (Regions::of_volume(1 << 30), RegionSet::EMPTY);
        FoundDirty::Known(Box::new(DirtyRecord { regions, incarnation: by, sequence: 0, dirty, released }))
    }

    /// A member that holds a generation with those in sync.
    fn holds(member: usize, generation: Generation, in_sync: &[usize], dirty: FoundDirty) -> Answer {
        let in_sync = in_sync.iter().map(|number| name(*number)).collect();
        let base = Generation::from_raw(generation.raw() - (1 << 32));
        let generation = Some(GenerationRecord { generation, base, in_sync });
        let index = MemberIndex::new(member).expect("a place");
        (index, name(member), ReplicaRecords { generation, dirty })
    }

    fn judge(waking: &Waking, found: &[Answer]) -> Verdict {
        let two = (0..2).filter_map(MemberIndex::new).collect();
        waking.judge(found, two, |replica| (0..2).any(|number| name(number) == *replica))
    }

    fn asleep() -> Waking {
        Waking { incarnation: OWN, assembled: base(), left_out: Vec::new() }
    }

    #[test]
    fn a_mirror_wakes_with_those_that_the_last_one_left_in_sync() {
        let newer = base().next(OTHER);
        let both = [holds(0, newer, &[0], claimed(OTHER, true)), holds(1, base(), &[0, 1], claimed(OTHER, false))];
        let Verdict::Wakes(standing) = judge(&asleep(), &both) else { panic!("it wakes") };
        assert_eq!((standing.newest, standing.stale), (newer, MemberMask::of(both[1].0)));
    }

    #[test]
    fn one_that_does_not_answer_may_be_newer_unless_the_others_were_released() {
        let one = |released| [holds(1, base(), &[0, 1], claimed(OTHER, released))];
        assert_eq!(judge(&asleep(), &one(false)), Verdict::Unsure(vec![name(0)]));
        for released in [false, true] {
            let own = [holds(1, base(), &[0, 1], claimed(OWN, released))];
            assert_eq!(judge(&asleep(), &own), Verdict::Unsure(vec![name(0)]), "another may have gone on since");
        }
        assert!(matches!(judge(&asleep(), &one(true)), Verdict::Wakes(standing) if standing.may_lose));
    }

    #[test]
    fn a_new_mirror_begins_only_when_all_answer() {
        let new = |member| {
            let index = MemberIndex::new(member).expect("a place");
            (index, name(member), ReplicaRecords { generation: None, dirty: FoundDirty::Nothing })
        };
        let waking = asleep();
        assert_eq!(judge(&waking, &[new(0)]), Verdict::Unsure(vec![]));
        assert!(matches!(judge(&waking, &[new(0), new(1)]), Verdict::Wakes(_)));
        assert!(waking.may_wake_at_once(&[new(0), new(1)], (0..2).filter_map(MemberIndex::new).collect()));
    }

    #[test]
    fn a_mirror_whose_volume_went_on_elsewhere_is_superseded() {
        let newer = base().next(OTHER);
        let moved = |member| holds(member, newer, &[0, 1, 2], claimed(OTHER, true));
        assert_eq!(judge(&asleep(), &[moved(0), moved(1)]), Verdict::Superseded, "with a third replica");
        let tolerant = Waking { assembled: newer, left_out: vec![name(2)], ..asleep() };
        assert!(matches!(judge(&tolerant, &[moved(0), moved(1)]), Verdict::Wakes(_)), "its owner knew of it");
    }
}
