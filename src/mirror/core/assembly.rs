//! Who may take part in a mirror that starts, by what each replica durably knows.
//!
//! The highest generation wins. A replica below it lacks writes that were acknowledged and is refused, unless the
//! highest one's record names it in sync and it holds the generation that was being raised, or its base: then the engine
//! died between two durable writes of one raise, and it lacks nothing. Generations of two engines that each could raise on a part of
//! the others only count as what they were raised from ([`rivals`]). A new mirror's first generation is only a promise
//! to start: all hold it before the second is raised and I/O begins, so a replica without a record that it names is
//! as empty as it should be. Every start raises the generation
//! again before the first write, so what is left out now can never pass for current later.

use super::generation::{Generation, GenerationRecord, Incarnation};
use super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};
use super::members::{Members, OpenMember};
use crate::name::{NonEmpty, ReplicaName};

mod rivals;
mod types;

#[cfg(test)]
mod tests;

pub use types::{Assembly, AssemblyError, Candidate, Found, Loss, Missing, Refused, RefusedReason, Standing};

/// Decides who takes part. `size_bytes` is the size the mirror must have; `incarnation` is drawn at random by the caller.
pub fn assemble(
    candidates: Vec<Candidate>,
    size_bytes: u64,
    incarnation: Incarnation,
    missing: Missing,
) -> Result<Assembly, AssemblyError> {
    let (candidates, held) = effective(candidates);
    let newest = newest_records(&candidates);
    let rivals = rivals(&candidates, &newest);
    if !rivals.is_empty() {
        return Err(AssemblyError::Diverged(rivals));
    }
    if let Some(beyond) = beyond(&candidates, &newest) {
        let GenerationRecord { base, in_sync, .. } = beyond.clone();
        return Err(AssemblyError::Behind { newest: base, holders: in_sync });
    }
    let assembly = build(candidates, &newest, size_bytes, incarnation, &held)?;
    if missing == Missing::Refuse && !assembly.unverified.is_empty() {
        return Err(AssemblyError::Unverified(assembly.unverified));
    }
    Ok(assembly)
}

/// Starts from the highest generation there is, whoever cannot be asked or disagrees, and says what that gives up. Only
/// an operator's word may lead here.
pub fn salvage(
    candidates: Vec<Candidate>,
    size_bytes: u64,
    incarnation: Incarnation,
) -> Result<(Assembly, Vec<Loss>), AssemblyError> {
    let (candidates, held) = effective(candidates);
    let newest = newest_records(&candidates);
    let diverged = rivals(&candidates, &newest);
    let newer = beyond(&candidates, &newest).map_or_else(Vec::new, |record| record.in_sync.clone());
    let assembly = build(candidates, &newest, size_bytes, incarnation, &held)?;
    let lost = diverged
        .into_iter()
        .filter(|replica| assembly.members.find(replica).is_none())
        .map(Loss::Diverged)
        .chain(newer.into_iter().map(Loss::Newer))
        .chain(assembly.unverified.iter().cloned().map(Loss::Unverified))
        .collect();
    Ok((assembly, lost))
}

/// The replicas that lack nothing, as far as their records tell: the ones that [`assemble`] takes if they can be opened
/// and have the mirror's size. For who must know before anything is opened.
pub fn complete(found: &[(ReplicaName, Option<GenerationRecord>)]) -> Vec<ReplicaName> {
    let found = rivals::effective(found);
    let newest = newest_of(found.iter().filter_map(|(_, record)| record.as_ref()));
    if newest.is_none() && found.iter().any(|(_, record)| record.is_some()) {
        return Vec::new();
    }
    let names = found.iter().filter(|(replica, record)| lack(&newest, replica, record.as_ref()).is_none());
    names.map(|(replica, _)| replica.clone()).collect()
}

/// How the members of a mirror that wakes stand, by what they hold now: another may have gone on since it was assembled. With them the
/// replicas that the newest names in sync. An error when no member is known to be complete.
pub fn stand(
    found: &[(MemberIndex, ReplicaName, Option<GenerationRecord>)],
    incarnation: Incarnation,
) -> Result<(Standing, Vec<ReplicaName>), AssemblyError> {
    let known: Vec<_> = found.iter().map(|(_, replica, record)| (replica.clone(), record.clone())).collect();
    let counts = rivals::effective(&known);
    let newest = newest_of(counts.iter().filter_map(|(_, record)| record.as_ref()));
    if newest.is_none() && counts.iter().any(|(_, record)| record.is_some()) {
        return Err(AssemblyError::NothingInSync);
    }
    let rivals: Vec<_> = newest.iter().flat_map(|newest| rivals_of(&counts, newest)).collect();
    if !rivals.is_empty() {
        return Err(AssemblyError::Diverged(rivals));
    }
    let holds = known.iter().map(|(_, record)| record.as_ref().map(|record| record.generation));
    let highest = holds.clone().flatten().max().unwrap_or(Generation::NONE);
    let start = newest.as_ref().map_or(highest.next(incarnation), |newest| newest.generation);
    let mut standing = Standing {
        newest: start,
        base: newest.as_ref().map_or(Generation::NONE, |newest| newest.base),
        highest: highest.max(start),
        laggards: MemberMask::EMPTY,
        stale: MemberMask::EMPTY,
        may_lose: false,
    };
    for ((member, replica, _), ((_, counts), holds)) in found.iter().zip(counts.iter().zip(holds)) {
        if lack(&newest, replica, counts.as_ref()).is_some() {
            standing.stale = standing.stale.with(*member);
        } else if lags(holds, start) {
            standing.laggards = standing.laggards.with(*member);
        }
    }
    if standing.stale.count() as usize == found.len() {
        return Err(AssemblyError::NothingInSync);
    }
    Ok((standing, newest.map_or_else(Vec::new, |newest| newest.in_sync)))
}

/// Whether a replica that holds that must be brought to the generation that a mirror starts from first.
fn lags(holds: Option<Generation>, start: Generation) -> bool {
    holds.is_none_or(|holds| holds.counter() < start.counter())
}

/// The candidates with their records as they count, and what each holds really.
fn effective(mut candidates: Vec<Candidate>) -> (Vec<Candidate>, Vec<rivals::Known>) {
    let known = |candidate: &Candidate| match &candidate.found {
        Found::Opened(_, record) => Some((candidate.replica.clone(), record.clone())),
        Found::Unreachable(_) => None,
    };
    let held: Vec<_> = candidates.iter().filter_map(known).collect();
    let opened = candidates.iter_mut().filter_map(|candidate| match &mut candidate.found {
        Found::Opened(_, record) => Some(record),
        Found::Unreachable(_) => None,
    });
    for (record, (_, counts)) in opened.zip(rivals::effective(&held)) {
        *record = counts;
    }
    (candidates, held)
}

/// What the replicas' records stand for together: one of a generation that cannot be complete ([`rivals`]) stands for its base.
pub fn records_that_count(found: &[(ReplicaName, Option<GenerationRecord>)]) -> Vec<GenerationRecord> {
    rivals::effective(found).into_iter().filter_map(|(_, record)| record).collect()
}

/// The records of the highest generation; none when no candidate has a real one.
struct Newest {
    generation: Generation,
    base: Generation,
    in_sync: Vec<ReplicaName>,
}

impl Newest {
    fn of(record: &GenerationRecord) -> Self {
        let GenerationRecord { generation, base, in_sync } = record.clone();
        Self { generation, base, in_sync }
    }

    fn names(&self, replica: &ReplicaName) -> bool {
        self.in_sync.contains(replica)
    }

    /// Whether a replica with that record lacks nothing (see the module's description).
    fn accepts(&self, replica: &ReplicaName, found: Generation) -> bool {
        let raising = found.incarnation() == self.generation.incarnation()
            && found.counter() > self.base.counter()
            && found <= self.generation;
        found == self.generation || (self.names(replica) && (found == self.base || raising))
    }

    /// Whether the mirror has never run, so that a replica without any record lacks nothing.
    fn never_ran(&self) -> bool {
        self.base == Generation::NONE
    }

    /// Whether a replica has writes of its own: another engine counted on from a state it shared with the newest.
    fn disagrees(&self, replica: &ReplicaName, found: Generation) -> bool {
        found.diverges_from(self.generation)
            || (self.names(replica) && found.counter() >= self.base.counter() && !self.accepts(replica, found))
    }
}

fn record(candidate: &Candidate) -> Option<&GenerationRecord> {
    match &candidate.found {
        Found::Opened(_, Some(record)) if record.generation != Generation::NONE => Some(record),
        _ => None,
    }
}

fn newest_records(candidates: &[Candidate]) -> Option<Newest> {
    newest_of(candidates.iter().filter_map(record))
}

fn newest_of<'a>(records: impl Iterator<Item = &'a GenerationRecord> + Clone) -> Option<Newest> {
    let real = records.filter(|record| record.generation != Generation::NONE);
    let highest = real.clone().max_by_key(|record| record.generation)?;
    let mut newest = Newest::of(highest);
    for same in real {
        if same.generation == newest.generation {
            for replica in &same.in_sync {
                if !newest.names(replica) {
                    newest.in_sync.push(replica.clone());
                }
            }
        }
    }
    Some(newest)
}

/// The void record that tells of the highest generation beyond all that were found.
fn beyond<'a>(candidates: &'a [Candidate], newest: &Option<Newest>) -> Option<&'a GenerationRecord> {
    let newest = newest.as_ref()?;
    candidates
        .iter()
        .filter_map(|candidate| match &candidate.found {
            Found::Opened(_, Some(record)) if record.generation == Generation::NONE => Some(record),
            _ => None,
        })
        .filter(|void| void.base > newest.generation)
        .max_by_key(|void| void.base)
}

/// All that disagree with the newest, and the newest themselves; empty when nobody does.
fn rivals(candidates: &[Candidate], newest: &Option<Newest>) -> Vec<ReplicaName> {
    let Some(newest) = newest else {
        return Vec::new();
    };
    let known: Vec<_> = candidates
        .iter()
        .filter_map(|candidate| Some((candidate.replica.clone(), Some(record(candidate)?.clone()))))
        .collect();
    rivals_of(&known, newest)
}

fn rivals_of(known: &[rivals::Known], newest: &Newest) -> Vec<ReplicaName> {
    let having = |test: &dyn Fn(&ReplicaName, Generation) -> bool| -> Vec<ReplicaName> {
        let real = known.iter().filter_map(|(replica, record)| Some((replica, record.as_ref()?.generation)));
        let real = real.filter(|(_, found)| *found != Generation::NONE);
        real.filter(|(replica, found)| test(replica, *found)).map(|(replica, _)| replica.clone()).collect()
    };
    let mut rivals = having(&|replica, found| newest.disagrees(replica, found));
    if !rivals.is_empty() {
        rivals.extend(having(&|_, found| found == newest.generation));
    }
    rivals
}

fn build(
    candidates: Vec<Candidate>,
    newest: &Option<Newest>,
    size_bytes: u64,
    incarnation: Incarnation,
    held: &[rivals::Known],
) -> Result<Assembly, AssemblyError> {
    let all_new = candidates.iter().all(|candidate| matches!(candidate.found, Found::Opened(_, None)));
    if newest.is_none() && !all_new {
        return Err(AssemblyError::NothingInSync);
    }
    let unverified = unverified(&candidates, newest);
    let (mut chosen, mut refused) = (Vec::new(), Vec::new());
    let mut wrong_size = None;
    for candidate in candidates {
        match judge(candidate, newest, size_bytes) {
            Ok(open) => chosen.push(open),
            Err(no) => {
                if let RefusedReason::Size { found, .. } = no.reason {
                    wrong_size = Some(found);
                }
                refused.push(no);
            }
        }
    }
    let Some(chosen) = NonEmpty::from_vec(chosen) else {
        return Err(match wrong_size {
            Some(found) => AssemblyError::Size { found, expected: size_bytes },
            None => AssemblyError::NothingInSync,
        });
    };
    let members = Members::new(chosen)?;
    let real = held.iter().filter_map(|(_, record)| Some(record.as_ref()?.generation));
    let highest = real.max().unwrap_or(Generation::NONE);
    let start = newest.as_ref().map_or(highest.next(incarnation), |newest| newest.generation);
    let mut holds = [None; MAX_MEMBERS];
    for (replica, record) in held {
        if let Some(member) = members.find(replica) {
            holds[member.get()] = record.as_ref().map(|record| record.generation);
        }
    }
    Ok(Assembly {
        laggards: members.mask().iter().filter(|member| lags(holds[member.get()], start)).collect(),
        members,
        refused,
        unverified,
        newest: start,
        base: newest.as_ref().map_or(Generation::NONE, |newest| newest.base),
        highest: highest.max(start),
        holds,
        incarnation,
    })
}

/// Those the newest records name in sync whose own record was not seen: not reached, or emptied since.
fn unverified(candidates: &[Candidate], newest: &Option<Newest>) -> Vec<ReplicaName> {
    let seen = |replica: &ReplicaName| {
        candidates.iter().any(|candidate| {
            candidate.replica == *replica
                && match &candidate.found {
                    Found::Opened(_, Some(_)) => true,
                    Found::Opened(_, None) => newest.as_ref().is_some_and(Newest::never_ran),
                    Found::Unreachable(_) => false,
                }
        })
    };
    let named = newest.iter().flat_map(|newest| &newest.in_sync);
    named.filter(|replica| !seen(replica)).cloned().collect()
}

/// The member a candidate makes, or why it makes none.
fn judge(candidate: Candidate, newest: &Option<Newest>, size_bytes: u64) -> Result<OpenMember, Refused> {
    let replica = candidate.replica;
    let (open, record) = match candidate.found {
        Found::Opened(open, record) => (open, record),
        Found::Unreachable(problem) => {
            return Err(Refused { replica, open: None, reason: RefusedReason::Unreachable(problem) });
        }
    };
    let reason = lack(newest, &replica, record.as_ref());
    let size = RefusedReason::Size { found: open.size_bytes, expected: size_bytes };
    let wrong_size = (open.size_bytes != size_bytes).then_some(size);
    match reason.or(wrong_size) {
        Some(reason) => Err(Refused { replica, open: Some(open), reason }),
        None => Ok(open),
    }
}

/// What a replica with that record lacks beside the newest.
fn lack(newest: &Option<Newest>, replica: &ReplicaName, record: Option<&GenerationRecord>) -> Option<RefusedReason> {
    let found = record.map_or(Generation::NONE, |record| record.generation);
    match newest {
        None => None,
        Some(newest) if record.is_none() && newest.never_ran() && newest.names(replica) => None,
        Some(_) if found == Generation::NONE => Some(RefusedReason::NeverInSync),
        Some(newest) if newest.accepts(replica, found) => None,
        Some(newest) if newest.disagrees(replica, found) => {
            Some(RefusedReason::Diverged { found, chosen: newest.generation })
        }
        Some(newest) => Some(RefusedReason::Stale { found, newest: newest.generation }),
    }
}
