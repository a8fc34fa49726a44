//! Which readable member serves a read.

use std::fmt;
use std::str::FromStr;

use super::mask::{MAX_MEMBERS, MemberIndex, MemberMask};

/// How reads are spread over the members that are in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ReadPolicy {
    /// From a member on this node when there is one; among equals in turn.
    #[default]
    LocalFirst,
    /// From each in turn.
    RoundRobin,
    /// From the one with the fewest I/Os outstanding on this channel; among equals in turn.
    LeastPending,
}

/// Not the name of a read policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a read policy: local-first, round-robin or least-pending")]
pub struct UnknownReadPolicy(String);

impl ReadPolicy {
    /// Chooses among `candidates`; `None` when there is none. `turn` is the place after the one chosen last.
    #[inline]
    pub fn choose(
        self,
        candidates: MemberMask,
        local: MemberMask,
        pending: &[u32; MAX_MEMBERS],
        turn: u32,
    ) -> Option<MemberIndex> {
        match self {
            Self::LocalFirst => {
                let near = candidates.and(local);
                if near.is_empty() { candidates } else { near }.from_place(turn)
            }
            Self::RoundRobin => candidates.from_place(turn),
            Self::LeastPending => least_pending(candidates, pending, turn),
        }
    }

    /// As the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalFirst => "local-first",
            Self::RoundRobin => "round-robin",
            Self::LeastPending => "least-pending",
        }
    }
}

/// The one with the fewest pending; the first of equals, going round from `turn`.
#[inline]
fn least_pending(candidates: MemberMask, pending: &[u32; MAX_MEMBERS], turn: u32) -> Option<MemberIndex> {
    let mut best = candidates.from_place(turn)?;
    let mut rest = candidates.without(best);
    while let Some(next) = rest.from_place(turn) {
        if pending[next.get()] < pending[best.get()] {
            best = next;
        }
        rest = rest.without(next);
    }
    Some(best)
}

impl FromStr for ReadPolicy {
    type Err = UnknownReadPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::LocalFirst, Self::RoundRobin, Self::LeastPending]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| UnknownReadPolicy(text.chars().take(64).collect()))
    }
}

impl fmt::Display for ReadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(members: &[usize]) -> MemberMask {
        members.iter().filter_map(|index| MemberIndex::new(*index)).collect()
    }

    fn chosen(policy: ReadPolicy, candidates: &[usize], local: &[usize]) -> Vec<usize> {
        let pending = [5, 1, 1, 9, 0, 0, 0, 0];
        let mut turn = 0;
        let choices = (0..4).filter_map(|_| {
            let chosen = policy.choose(mask(candidates), mask(local), &pending, turn)?.get();
            turn = chosen as u32 + 1;
            Some(chosen)
        });
        choices.collect()
    }

    #[test]
    fn local_first_leaves_the_node_only_when_it_must() {
        assert_eq!(chosen(ReadPolicy::LocalFirst, &[0, 1, 2], &[1]), [1, 1, 1, 1]);
        assert_eq!(chosen(ReadPolicy::LocalFirst, &[0, 2], &[1]), [0, 2, 0, 2]);
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(chosen(ReadPolicy::RoundRobin, &[0, 2, 3], &[0]), [0, 2, 3, 0]);
    }

    #[test]
    fn least_pending_takes_turns_among_equals() {
        assert_eq!(chosen(ReadPolicy::LeastPending, &[0, 1, 2, 3], &[0]), [1, 2, 1, 2]);
        assert!(chosen(ReadPolicy::LeastPending, &[], &[0]).is_empty());
    }

    #[test]
    fn policies_parse_from_their_own_spelling_only() {
        for policy in [ReadPolicy::LocalFirst, ReadPolicy::RoundRobin, ReadPolicy::LeastPending] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for wrong in ["", "Local-First", "local_first", "least"] {
            assert!(wrong.parse::<ReadPolicy>().is_err(), "{wrong:?}");
        }
    }
}
