//! Assembly and salvage, one rule a test.

use super::super::members::tests::open;
use super::*;

const SIZE: u64 = 1 << 30;
const NOW: Incarnation = Incarnation(99);

fn generation(counter: u32, incarnation: u32) -> Generation {
    Generation::from_raw((counter as u64) << 32 | incarnation as u64)
}

fn name(number: usize) -> ReplicaName {
    open(number).replica
}

fn holding(number: usize, at: Generation, base: Generation, in_sync: &[usize]) -> Candidate {
    let in_sync = in_sync.iter().map(|number| name(*number)).collect();
    let record = GenerationRecord { generation: at, base, in_sync };
    Candidate { replica: name(number), found: Found::Opened(open(number), Some(record)) }
}

fn new(number: usize) -> Candidate {
    Candidate { replica: name(number), found: Found::Opened(open(number), None) }
}

fn down(number: usize) -> Candidate {
    Candidate { replica: name(number), found: Found::Unreachable("refused".into()) }
}

fn strict(candidates: Vec<Candidate>) -> Result<Assembly, AssemblyError> {
    assemble(candidates, SIZE, NOW, Missing::Refuse)
}

fn names(assembly: &Assembly) -> Vec<ReplicaName> {
    assembly.members.iter().map(|(_, member)| member.replica.clone()).collect()
}

#[test]
fn new_replicas_make_a_new_mirror_only_when_all_answer() {
    let assembly = strict(vec![new(0), new(1)]).expect("starts");
    assert_eq!(
        (names(&assembly), assembly.newest, assembly.laggards),
        (vec![name(0), name(1)], generation(1, 99), assembly.members.mask())
    );
    for candidates in [
        vec![new(0), down(1)],
        vec![down(0)],
        vec![new(0), holding(1, Generation::NONE, Generation::NONE, &[])],
        vec![],
    ] {
        let outcome = assemble(candidates, SIZE, NOW, Missing::Tolerate);
        assert_eq!(outcome.map(|assembly| names(&assembly)), Err(AssemblyError::NothingInSync));
    }
}

#[test]
fn a_stale_replica_is_refused_and_said_to_be() {
    let (old, newer) = (generation(4, 1), generation(5, 1));
    let assembly =
        strict(vec![holding(0, old, generation(3, 1), &[0, 1]), holding(1, newer, old, &[1])]).expect("starts");
    assert_eq!(names(&assembly), [name(1)]);
    assert_eq!(assembly.refused[0].reason, RefusedReason::Stale { found: old, newest: newer });
    assert!(assembly.refused[0].open.is_some(), "to be closed");
}

#[test]
fn a_raise_cut_short_makes_nobody_stale() {
    let (base, first, second) = (generation(4, 1), generation(5, 2), generation(6, 2));
    let assembly = strict(vec![
        holding(0, second, base, &[0, 1, 2]),
        holding(1, first, base, &[0, 1, 2, 3]),
        holding(2, base, generation(3, 1), &[0, 1, 2, 3]),
        holding(3, base, generation(3, 1), &[0, 1, 2, 3]),
    ])
    .expect("starts");
    assert_eq!(names(&assembly), [name(0), name(1), name(2)]);
    assert_eq!(assembly.laggards.iter().map(|index| index.get()).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(assembly.refused[0].reason, RefusedReason::Stale { .. }), "3 was being fenced");
}

#[test]
fn a_first_start_cut_short_starts_again() {
    let begun = holding(0, generation(1, 1), Generation::NONE, &[0, 1]);
    let assembly = strict(vec![begun.clone(), new(1)]).expect("starts");
    assert_eq!(names(&assembly), [name(0), name(1)]);
    assert_eq!(assembly.laggards.count(), 1);
    let foreign = strict(vec![begun, new(1), new(2)]).expect("starts");
    assert_eq!(foreign.refused[0].reason, RefusedReason::NeverInSync);
}

#[test]
fn an_emptied_replica_of_a_known_name_is_not_in_sync() {
    let found = vec![holding(0, generation(2, 1), generation(1, 1), &[0, 1]), new(1)];
    let refused = Err(AssemblyError::Unverified(vec![name(1)]));
    assert_eq!(strict(found.clone()).map(|_| ()), refused, "what it knew is gone");
    let assembly = assemble(found, SIZE, NOW, Missing::Tolerate).expect("starts");
    assert_eq!(names(&assembly), [name(0)]);
    assert_eq!(assembly.refused[0].reason, RefusedReason::NeverInSync);
}

#[test]
fn a_void_replica_tells_that_others_went_on() {
    let (old, reached) = (generation(14, 1), generation(17, 1));
    let stale = holding(1, old, generation(13, 1), &[0, 1]);
    let void = |base| holding(0, Generation::NONE, base, &[2]);
    let behind = AssemblyError::Behind { newest: reached, holders: vec![name(2)] };
    let found = vec![void(reached), stale.clone(), down(2)];
    let tolerant = assemble(found.clone(), SIZE, NOW, Missing::Tolerate);
    assert_eq!(tolerant.map(|_| ()), Err(behind), "known to be stale, not only possibly");
    let (_, lost) = salvage(found, SIZE, NOW).expect("starts");
    assert_eq!(lost, [Loss::Newer(name(2))]);
    assert!(strict(vec![void(old), stale]).is_ok());
}

#[test]
fn two_engines_writes_are_never_mixed() {
    let base = generation(4, 1);
    let (one, other) = (generation(5, 1), generation(5, 2));
    let apart = vec![holding(0, one, base, &[0]), holding(1, other, base, &[1])];
    assert_eq!(strict(apart.clone()).map(|_| ()), Err(AssemblyError::Diverged(vec![name(0), name(1)])));
    let (assembly, lost) = salvage(apart, SIZE, NOW).expect("chooses");
    assert_eq!((names(&assembly), lost), (vec![name(1)], vec![Loss::Diverged(name(0))]));

    let hidden = vec![holding(0, generation(6, 1), base, &[0, 1]), holding(1, generation(5, 2), base, &[1])];
    assert_eq!(strict(hidden).map(|assembly| names(&assembly)), Ok(vec![name(1)]), "0 has nothing that 1 lacks");
    let exclusive = vec![holding(0, generation(6, 1), base, &[0]), holding(1, generation(5, 2), base, &[0, 1])];
    assert_eq!(strict(exclusive).map(|assembly| names(&assembly)), Ok(vec![name(0)]), "1 has nothing that 0 lacks");
}

#[test]
fn a_replica_that_may_be_newer_must_be_asked() {
    let at = generation(4, 1);
    let alone = holding(1, at, generation(3, 1), &[1]);
    let paired = holding(1, at, generation(3, 1), &[0, 1]);
    assert!(strict(vec![down(0), alone]).is_ok(), "0 was out already");
    for candidates in [vec![down(0), paired.clone()], vec![paired.clone()]] {
        assert_eq!(strict(candidates).map(|_| ()), Err(AssemblyError::Unverified(vec![name(0)])));
    }
    let assembly = assemble(vec![down(0), paired.clone()], SIZE, NOW, Missing::Tolerate).expect("starts");
    assert_eq!((names(&assembly), assembly.unverified), (vec![name(1)], vec![name(0)]));
    let (_, lost) = salvage(vec![down(0), paired], SIZE, NOW).expect("starts");
    assert_eq!(lost, [Loss::Unverified(name(0))]);
}

#[test]
fn a_member_of_another_size_does_not_take_part() {
    let (at, base) = (generation(4, 1), generation(3, 1));
    let resized = |number, size_bytes| {
        let mut candidate = holding(number, at, base, &[0, 1]);
        if let Found::Opened(open, _) = &mut candidate.found {
            open.size_bytes = size_bytes;
        }
        candidate
    };
    let assembly = strict(vec![resized(0, SIZE), resized(1, SIZE / 2)]).expect("starts");
    assert_eq!(names(&assembly), [name(0)]);
    assert_eq!(assembly.refused[0].reason, RefusedReason::Size { found: SIZE / 2, expected: SIZE });
    assert_eq!(
        strict(vec![resized(0, 5), resized(1, 5)]).map(|_| ()),
        Err(AssemblyError::Size { found: 5, expected: SIZE })
    );
}

#[test]
fn a_rebuild_that_was_not_finished_is_not_a_member() {
    let void = holding(1, Generation::NONE, Generation::NONE, &[]);
    let assembly = strict(vec![holding(0, generation(4, 1), generation(3, 1), &[0]), void.clone()]);
    assert_eq!(names(&assembly.expect("starts")), [name(0)]);
    assert_eq!(salvage(vec![void], SIZE, NOW).map(|_| ()), Err(AssemblyError::NothingInSync));
}

#[test]
fn who_lacks_nothing_is_known_before_anything_is_opened() {
    let (base, newest) = (generation(4, 1), generation(5, 1));
    let cases = [
        vec![new(0), new(1)],
        vec![new(0), holding(1, Generation::NONE, Generation::NONE, &[])],
        vec![holding(0, base, base, &[0, 1]), holding(1, newest, base, &[1])],
        vec![holding(0, base, base, &[0, 1]), holding(1, newest, base, &[0, 1])],
        vec![holding(0, newest, base, &[0]), new(1), holding(2, Generation::NONE, base, &[0])],
    ];
    for candidates in cases {
        let records: Vec<_> = candidates
            .iter()
            .map(|candidate| match &candidate.found {
                Found::Opened(_, record) => (candidate.replica.clone(), record.clone()),
                Found::Unreachable(_) => unreachable!("all are opened"),
            })
            .collect();
        let taken = match assemble(candidates, SIZE, NOW, Missing::Tolerate) {
            Ok(assembly) => names(&assembly),
            Err(_) => Vec::new(),
        };
        assert_eq!(complete(&records), taken, "{records:?}");
    }
}
