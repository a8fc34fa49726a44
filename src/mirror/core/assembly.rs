//! Who may take part in a mirror that starts, by what each replica durably knows.
//!
//! The highest generation wins. A replica below it lacks writes that were acknowledged and is refused, unless the
//! highest one's record names it in sync and it holds the generation that was being raised, or its base: then the engine
//! died between two durable writes of one raise, and it lacks nothing. Every start raises the generation
//! again before the first write, so what is left out now can never pass for current later.

use super::generation::{Generation, GenerationRecord, Incarnation};
use super::mask::MemberMask;
use super::members::{Members, MembersError, OpenMember};
use crate::name::{NonEmpty, ReplicaName};

#[cfg(test)]
mod tests;

/// A replica that the mirror is asked to have.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub replica: ReplicaName,
    /// What was found there.
    pub found: Found,
}

/// What was found at a candidate's address.
#[derive(Debug, Clone)]
pub enum Found {
    /// It was opened; its record, if it ever was in a mirror.
    Opened(OpenMember, Option<GenerationRecord>),
    /// It could not be reached or opened.
    Unreachable(String),
}

/// What to do when a replica that may be newer cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Refuse to start: it may hold acknowledged writes that nobody else has.
    Refuse,
    /// Start, and say so ([`Assembly::unverified`]). For callers who know that the missing ones are not newer, such as
    /// Longhorn's manager, which lists replicas by their recorded failures.
    Tolerate,
}

/// Why a candidate does not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// It could not be reached or opened.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It lacks acknowledged writes.
    #[error("stale: it has generation {found}, the newest is {newest}")]
    Stale {
        /// Its generation.
        found: Generation,
        /// The highest.
        newest: Generation,
    },
    /// Another engine went on from it; it has writes that the chosen ones lack.
    #[error("diverged: it has generation {found}, the chosen ones have {chosen}")]
    Diverged {
        /// Its generation.
        found: Generation,
        /// The one that was chosen.
        chosen: Generation,
    },
    /// Its rebuild was not finished, or it is new.
    #[error("not in sync: its content was never complete")]
    NeverInSync,
    /// It has another size than the mirror.
    #[error("it has {found} bytes, the mirror has {expected}")]
    Size {
        /// Its size in bytes.
        found: u64,
        /// The mirror's size in bytes.
        expected: u64,
    },
}

/// A candidate that does not take part.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Which.
    pub replica: ReplicaName,
    /// To be closed, when it was opened.
    pub open: Option<OpenMember>,
    /// Why.
    pub reason: RefusedReason,
}

/// Why no mirror can start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// No replica is known to be complete. New replicas only make a new mirror when all of them answer.
    #[error("no reachable replica is known to be in sync")]
    NothingInSync,
    /// Two engines went on from one state. Salvage chooses one.
    #[error("replicas {0:?} diverged: each has writes that the other lacks; salvage chooses one")]
    Diverged(Vec<ReplicaName>),
    /// Every complete replica that answered is stale for sure: a void one tells that others had gone on.
    #[error(
        "replicas {holders:?} hold generation {newest} or newer and cannot be asked; all others are stale"
    )]
    Behind {
        /// The generation the mirror is known to have reached.
        newest: Generation,
        /// Who has it.
        holders: Vec<ReplicaName>,
    },
    /// Replicas that may be newer did not answer.
    #[error("replicas {0:?} may be newer and cannot be asked")]
    Unverified(Vec<ReplicaName>),
    /// Every replica in sync has another size than the mirror.
    #[error("the replicas in sync have {found} bytes, the mirror has {expected}")]
    Size {
        /// Their size in bytes.
        found: u64,
        /// The mirror's in bytes.
        expected: u64,
    },
    /// The members do not fit together.
    #[error(transparent)]
    Members(#[from] MembersError),
}

/// A mirror that can start: hand it to [`super::MirrorCore::start`].
#[derive(Debug, Clone)]
pub struct Assembly {
    /// Who takes part, all in sync.
    pub members: Members,
    /// Who does not, and why.
    pub refused: Vec<Refused>,
    /// Replicas that were in sync with the chosen ones and could not be asked; they may hold newer writes.
    pub unverified: Vec<ReplicaName>,
    /// The highest generation found; [`Generation::NONE`] for a new mirror.
    pub newest: Generation,
    /// The base of that generation.
    pub base: Generation,
    /// Members that must first be brought to `newest`: a raise was cut short.
    pub laggards: MemberMask,
    /// Who raises generations from now on.
    pub incarnation: Incarnation,
}

/// What a salvage gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The replica's own acknowledged writes since the two went apart.
    Diverged(ReplicaName),
    /// The acknowledged writes since the replica, which could not be asked, went on without the others.
    Newer(ReplicaName),
    /// Whatever the replica, which could not be asked, may have on top.
    Unverified(ReplicaName),
}

/// Decides who takes part. `size_bytes` is the size the mirror must have; `incarnation` is drawn at random by the caller.
pub fn assemble(
    candidates: Vec<Candidate>,
    size_bytes: u64,
    incarnation: Incarnation,
    missing: Missing,
) -> Result<Assembly, AssemblyError> {
    let newest = newest_records(&candidates);
    let rivals = rivals(&candidates, &newest);
    if !rivals.is_empty() {
        return Err(AssemblyError::Diverged(rivals));
    }
    if let Some(beyond) = beyond(&candidates, &newest) {
        let GenerationRecord { base, in_sync, .. } = beyond.clone();
        return Err(AssemblyError::Behind {
            newest: base,
            holders: in_sync,
        });
    }
    let assembly = build(candidates, &newest, size_bytes, incarnation)?;
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
    let newest = newest_records(&candidates);
    let diverged = rivals(&candidates, &newest);
    let newer = beyond(&candidates, &newest).map_or_else(Vec::new, |record| record.in_sync.clone());
    let assembly = build(candidates, &newest, size_bytes, incarnation)?;
    let lost = diverged
        .into_iter()
        .filter(|replica| assembly.members.find(replica).is_none())
        .map(Loss::Diverged)
        .chain(newer.into_iter().map(Loss::Newer))
        .chain(assembly.unverified.iter().cloned().map(Loss::Unverified))
        .collect();
    Ok((assembly, lost))
}

/// The records of the highest generation; none when no candidate has a real one.
struct Newest {
    generation: Generation,
    base: Generation,
    in_sync: Vec<ReplicaName>,
}

impl Newest {
    fn of(record: &GenerationRecord) -> Self {
        let GenerationRecord {
            generation,
            base,
            in_sync,
        } = record.clone();
        Self {
            generation,
            base,
            in_sync,
        }
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

    /// Whether a replica has writes of its own: another engine counted on from a state it shared with the newest.
    fn disagrees(&self, replica: &ReplicaName, found: Generation) -> bool {
        found.diverges_from(self.generation)
            || (self.names(replica)
                && found.counter() >= self.base.counter()
                && !self.accepts(replica, found))
    }
}

fn record(candidate: &Candidate) -> Option<&GenerationRecord> {
    match &candidate.found {
        Found::Opened(_, Some(record)) if record.generation != Generation::NONE => Some(record),
        _ => None,
    }
}

fn newest_records(candidates: &[Candidate]) -> Option<Newest> {
    let highest = candidates
        .iter()
        .filter_map(record)
        .max_by_key(|record| record.generation)?;
    let mut newest = Newest::of(highest);
    for same in candidates.iter().filter_map(record) {
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
fn beyond<'a>(
    candidates: &'a [Candidate],
    newest: &Option<Newest>,
) -> Option<&'a GenerationRecord> {
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
    let having = |test: &dyn Fn(&ReplicaName, Generation) -> bool| -> Vec<ReplicaName> {
        candidates
            .iter()
            .filter(|candidate| {
                record(candidate).is_some_and(|record| test(&candidate.replica, record.generation))
            })
            .map(|candidate| candidate.replica.clone())
            .collect()
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
) -> Result<Assembly, AssemblyError> {
    let all_new = candidates
        .iter()
        .all(|candidate| matches!(candidate.found, Found::Opened(_, None)));
    if newest.is_none() && !all_new {
        return Err(AssemblyError::NothingInSync);
    }
    let unverified = unverified(&candidates, newest);
    let (mut chosen, mut lagging, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut wrong_size = None;
    for candidate in candidates {
        let replica = candidate.replica.clone();
        match judge(candidate, newest, size_bytes) {
            Ok((open, laggard)) => {
                if laggard {
                    lagging.push(replica);
                }
                chosen.push(open);
            }
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
            Some(found) => AssemblyError::Size {
                found,
                expected: size_bytes,
            },
            None => AssemblyError::NothingInSync,
        });
    };
    let members = Members::new(chosen)?;
    Ok(Assembly {
        laggards: lagging
            .iter()
            .filter_map(|replica| members.find(replica))
            .collect(),
        members,
        refused,
        unverified,
        newest: newest
            .as_ref()
            .map_or(Generation::NONE, |newest| newest.generation),
        base: newest
            .as_ref()
            .map_or(Generation::NONE, |newest| newest.base),
        incarnation,
    })
}

/// Those the newest records name in sync whose own record was not seen: not reached, or emptied since.
fn unverified(candidates: &[Candidate], newest: &Option<Newest>) -> Vec<ReplicaName> {
    let seen = |replica: &ReplicaName| {
        candidates.iter().any(|candidate| {
            candidate.replica == *replica && matches!(candidate.found, Found::Opened(_, Some(_)))
        })
    };
    let named = newest.iter().flat_map(|newest| &newest.in_sync);
    named.filter(|replica| !seen(replica)).cloned().collect()
}

/// The member a candidate makes and whether it lags, or why it makes none.
fn judge(
    candidate: Candidate,
    newest: &Option<Newest>,
    size_bytes: u64,
) -> Result<(OpenMember, bool), Refused> {
    let replica = candidate.replica;
    let (open, record) = match candidate.found {
        Found::Opened(open, record) => (open, record),
        Found::Unreachable(problem) => {
            return Err(Refused {
                replica,
                open: None,
                reason: RefusedReason::Unreachable(problem),
            });
        }
    };
    let found = record.map_or(Generation::NONE, |record| record.generation);
    let reason = match newest {
        None => None,
        Some(_) if found == Generation::NONE => Some(RefusedReason::NeverInSync),
        Some(newest) if newest.accepts(&replica, found) => None,
        Some(newest) if newest.disagrees(&replica, found) => Some(RefusedReason::Diverged {
            found,
            chosen: newest.generation,
        }),
        Some(newest) => Some(RefusedReason::Stale {
            found,
            newest: newest.generation,
        }),
    };
    let size = RefusedReason::Size {
        found: open.size_bytes,
        expected: size_bytes,
    };
    let wrong_size = (open.size_bytes != size_bytes).then_some(size);
    match reason.or(wrong_size) {
        Some(reason) => Err(Refused {
            replica,
            open: Some(open),
            reason,
        }),
        None => {
            let lags = newest
                .as_ref()
                .is_some_and(|newest| newest.generation != found);
            Ok((open, lags))
        }
    }
}
