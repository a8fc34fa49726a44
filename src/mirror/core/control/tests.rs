//! The control core, one rule a test.

use super::super::assembly::{Candidate, Found, Missing, Standing, assemble};
use super::super::members::tests::open;
use super::super::view::{FailureCause, MemberOp};
use super::*;

/// A core with what it did since it was last asked.
struct Run {
    core: MirrorCore,
    done: Vec<Action>,
}

fn at(index: usize) -> MemberIndex {
    MemberIndex::new(index).expect("a place")
}

fn mask(members: &[usize]) -> MemberMask {
    members.iter().map(|index| at(*index)).collect()
}

impl Run {
    /// A new mirror with so many members, not started.
    fn begun(count: usize) -> Self {
        let new = |number| Candidate { replica: open(number).replica, found: Found::Opened(open(number), None) };
        let all = (0..count).map(new).collect();
        let assembly = assemble(all, 1 << 30, Incarnation(7), Missing::Refuse).expect("starts");
        let mut out = Actions::new();
        let core = MirrorCore::start(&assembly, &mut out);
        Self { core, done: out.drain().collect() }
    }

    /// One that has started.
    fn started(count: usize) -> Self {
        let mut run = Self::begun(count);
        run.persist_all();
        run.persist_all();
        run.done.clear();
        run
    }

    fn tell(&mut self, event: Event) {
        self.ask(event).expect("accepted");
    }

    fn ask(&mut self, event: Event) -> Result<(), Refusal> {
        let mut out = Actions::new();
        let answer = self.core.handle(event, &mut out);
        self.done.extend(out.drain());
        answer
    }

    fn fails(&mut self, member: usize, op: MemberOp, cause: FailureCause) {
        self.tell(Event::MemberIoError { member: at(member), op, cause });
    }

    fn update_channels(&mut self) {
        self.tell(Event::ChannelsUpdated { epoch: self.core.epoch });
    }

    /// The members asked to persist since the last look, with what they were asked.
    fn asked(&mut self) -> Vec<(MemberIndex, Generation)> {
        let asked = self.done.drain(..).filter_map(|action| match action {
            Action::PersistGeneration { member, generation, .. } => Some((member, generation)),
            _ => None,
        });
        asked.collect()
    }

    fn persist_all(&mut self) {
        for (member, generation) in self.asked() {
            self.tell(Event::FencePersisted { member, generation });
        }
    }

    fn did(&self, action: Action) -> bool {
        self.done.contains(&action)
    }

    fn noticed(&self, notice: Notice) -> bool {
        self.did(Action::Notify(notice))
    }

    fn mode(&self, member: usize) -> Option<MemberMode> {
        self.core.status().members[member]
    }

    /// Adds a member at a place and lets it join.
    fn join(&mut self, member: usize) {
        self.tell(Event::AddMember { member: at(member), local: false });
        self.tell(Event::FencePersisted { member: at(member), generation: Generation::NONE });
        self.tell(Event::PauseRequested);
        let pause = self.core_pause();
        self.tell(Event::ChannelsQuiesced { pause });
        self.tell(Event::Resume { pause });
        self.update_channels();
        self.done.clear();
    }

    fn core_pause(&self) -> PauseId {
        let asked = self.done.iter().rev().find_map(|action| match action {
            Action::PauseChannels(pause) => Some(*pause),
            _ => None,
        });
        asked.expect("a pause")
    }
}

#[test]
fn a_new_mirror_starts_after_two_durable_generations() {
    let mut run = Run::begun(2);
    assert_eq!(run.core.status().health, Health::Faulted);
    run.persist_all();
    assert!(!run.core.view().writable, "all have the first, which only promises a start");
    run.persist_all();
    assert!(run.core.view().writable);
    assert_eq!(run.core.status().health, Health::Optimal);
    assert_eq!(run.core.status().generation.counter(), 2);
}

#[test]
fn a_fence_needs_the_survivors_records_and_the_channels_views() {
    let mut run = Run::started(3);
    run.fails(2, MemberOp::Write, FailureCause::Medium);
    assert_eq!(run.mode(2), Some(MemberMode::Err(OutReason::WriteFailed)));
    assert_eq!((run.core.view().rw, run.core.view().unfenced), (mask(&[0, 1]), mask(&[2])));
    let asked = run.asked();
    assert_eq!(asked.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [at(0), at(1)]);
    for (member, generation) in asked {
        assert_eq!(run.core.view().unfenced, mask(&[2]));
        run.tell(Event::FencePersisted { member, generation });
    }
    assert_eq!(run.core.view().unfenced, mask(&[2]), "a channel may still read from it");
    assert!(!run.did(Action::CloseMember(at(2))), "a channel may still use it");
    run.update_channels();
    assert!(run.did(Action::CloseMember(at(2))));
    assert_eq!(run.core.view().unfenced, MemberMask::EMPTY);
    assert_eq!(run.core.status().health, Health::Degraded);
}

#[test]
fn a_second_failure_starts_the_fence_over_one_higher() {
    let mut run = Run::started(3);
    run.fails(2, MemberOp::Flush, FailureCause::Medium);
    let first = run.asked();
    run.tell(Event::FencePersisted { member: first[0].0, generation: first[0].1 });
    run.fails(1, MemberOp::Write, FailureCause::Gone);
    let second = run.asked();
    assert_eq!(second.len(), 1);
    assert!(second[0].1 > first[0].1);
    run.update_channels();
    run.tell(Event::FencePersisted { member: at(0), generation: first[0].1 });
    assert_eq!(run.core.view().unfenced, mask(&[1, 2]), "an answer to the earlier one");
    run.tell(Event::FencePersisted { member: at(0), generation: second[0].1 });
    assert_eq!(run.core.view().unfenced, MemberMask::EMPTY);
}

#[test]
fn a_survivor_that_cannot_store_is_dropped_too() {
    let mut run = Run::started(3);
    run.fails(2, MemberOp::Write, FailureCause::Medium);
    let (member, generation) = run.asked()[1];
    run.tell(Event::FenceFailed { member, generation });
    assert_eq!(run.mode(1), Some(MemberMode::Err(OutReason::FenceFailed)));
    run.update_channels();
    run.persist_all();
    assert_eq!(run.core.view().rw, mask(&[0]));
    assert!(run.core.view().writable && run.core.view().unfenced.is_empty());
}

#[test]
fn a_mirror_does_not_start_without_a_member_that_another_has_gone_on_with() {
    let mut run = Run::begun(2);
    for (member, generation) in run.asked() {
        if member == at(0) {
            run.tell(Event::FenceRefused { member, generation });
        } else {
            run.tell(Event::FencePersisted { member, generation });
        }
    }
    run.update_channels();
    assert!(run.noticed(Notice::StartRefused(at(0))));
    assert!(!run.core.view().writable);
    assert_eq!(run.asked(), [], "nobody gets a generation above that of the other mirror");
}

#[test]
fn a_medium_error_on_a_read_costs_nobody_his_place() {
    let mut run = Run::started(2);
    run.fails(0, MemberOp::Read, FailureCause::Medium);
    assert_eq!(run.core.status().health, Health::Optimal);
    assert!(run.noticed(Notice::ReadError(at(0))));
}

#[test]
fn the_last_member_keeps_its_place_when_it_fails() {
    let mut run = Run::started(2);
    run.fails(1, MemberOp::Write, FailureCause::Medium);
    run.update_channels();
    run.persist_all();
    run.fails(0, MemberOp::Write, FailureCause::Medium);
    assert!(run.noticed(Notice::LastMemberError(at(0))));
    assert_eq!((run.mode(0), run.core.view().rw), (Some(MemberMode::Rw), mask(&[0])));
    assert_eq!(run.ask(Event::RemoveMember { member: at(0) }), Err(Refusal::LastMember(at(0))));
}

#[test]
fn the_last_member_is_waited_for_when_it_is_late() {
    let mut run = Run::started(2);
    run.fails(1, MemberOp::Write, FailureCause::Deadline);
    run.update_channels();
    run.persist_all();
    let view = run.core.view();
    run.fails(0, MemberOp::Write, FailureCause::Deadline);
    assert!(run.noticed(Notice::LastMemberLate(at(0))));
    assert_eq!(run.core.view(), view);
    assert_eq!(run.core.status().health, Health::Degraded);
}

#[test]
fn the_last_member_out_of_reach_stops_io_until_it_returns() {
    let mut run = Run::started(1);
    run.fails(0, MemberOp::Read, FailureCause::Gone);
    assert!(run.core.view().rw.is_empty());
    assert_eq!((run.mode(0), run.core.status().health), (Some(MemberMode::Rw), Health::Faulted));
    let returned = Event::MemberReturned { member: at(0) };
    assert!(run.ask(returned).is_err(), "not closed yet");
    run.update_channels();
    assert!(run.did(Action::CloseMember(at(0))));
    run.tell(Event::MemberClosed { member: at(0) });
    run.tell(returned);
    assert_eq!(run.core.status().health, Health::Optimal);
}

#[test]
fn a_fence_on_a_lost_last_member_is_stuck_until_it_returns() {
    let mut run = Run::started(2);
    run.fails(1, MemberOp::Write, FailureCause::Medium);
    run.fails(0, MemberOp::Write, FailureCause::Gone);
    run.update_channels();
    run.asked();
    run.tell(Event::MemberClosed { member: at(0) });
    assert!(!run.core.view().writable, "its persist will not be answered");
    assert_eq!(run.ask(Event::RetryFence), Err(Refusal::NoStuckFence));
    run.tell(Event::MemberReturned { member: at(0) });
    run.update_channels();
    run.persist_all();
    assert!(run.core.view().writable && run.core.view().unfenced.is_empty());
}

#[test]
fn a_stuck_fence_fails_writes_and_can_be_retried() {
    let mut run = Run::started(2);
    run.fails(1, MemberOp::Write, FailureCause::Gone);
    let (member, generation) = run.asked()[0];
    run.tell(Event::FenceFailed { member, generation });
    assert_eq!(run.core.status().health, Health::ReadOnly);
    assert_eq!(run.core.view().rw, mask(&[0]), "reads go on");
    run.tell(Event::RetryFence);
    run.update_channels();
    run.persist_all();
    assert_eq!(run.core.status().health, Health::Degraded);
    assert!(run.core.view().writable);
}

#[test]
fn a_new_member_joins_during_a_pause_and_is_recorded_last() {
    let mut run = Run::started(1);
    run.join(1);
    assert_eq!((run.core.view().rw, run.core.view().wo), (mask(&[0]), mask(&[1])));
    run.tell(Event::MemberSynced { member: at(1) });
    let first = run.asked();
    assert_eq!(first.len(), 1, "the survivor's record names it first");
    assert_eq!(first[0].0, at(0));
    run.update_channels();
    run.tell(Event::FencePersisted { member: at(0), generation: first[0].1 });
    assert_eq!(run.mode(1), Some(MemberMode::Wo));
    let second = run.asked();
    assert_eq!(second, [(at(1), first[0].1)]);
    run.tell(Event::FencePersisted { member: at(1), generation: first[0].1 });
    assert_eq!(run.core.view().rw, mask(&[0, 1]));
    assert_eq!(run.core.status().health, Health::Optimal);
}

#[test]
fn a_write_only_member_leaves_when_its_last_source_fails_a_write() {
    let mut run = Run::started(1);
    run.join(1);
    run.fails(0, MemberOp::Write, FailureCause::Medium);
    assert_eq!(run.mode(1), Some(MemberMode::Err(OutReason::SourceFailed)));
    assert_eq!(run.mode(0), Some(MemberMode::Rw));
}

#[test]
fn a_write_only_member_is_no_reason_to_drop_the_last_source() {
    let mut run = Run::started(1);
    run.join(1);
    assert_eq!(run.ask(Event::RemoveMember { member: at(0) }), Err(Refusal::LastMember(at(0))));
    run.fails(0, MemberOp::Flush, FailureCause::Gone);
    assert_eq!((run.mode(0), run.core.view().rw), (Some(MemberMode::Rw), MemberMask::EMPTY));
}

#[test]
fn a_removed_members_place_is_free_when_closed_and_durably_out() {
    let mut run = Run::started(2);
    run.tell(Event::RemoveMember { member: at(1) });
    run.update_channels();
    run.tell(Event::MemberClosed { member: at(1) });
    assert_eq!(run.ask(Event::AddMember { member: at(1), local: false }), Err(Refusal::Taken(at(1))));
    run.persist_all();
    assert!(run.noticed(Notice::Freed(at(1))));
    run.tell(Event::AddMember { member: at(1), local: false });
}

#[test]
fn a_void_record_tells_who_went_on() {
    let mut run = Run::started(1);
    let settled = run.core.status().generation;
    run.tell(Event::AddMember { member: at(3), local: false });
    assert!(run.did(Action::PersistGeneration {
        member: at(3),
        generation: Generation::NONE,
        base: settled,
        in_sync: mask(&[0]),
    }));
    run.tell(Event::FenceFailed { member: at(3), generation: Generation::NONE });
    assert!(run.did(Action::CloseMember(at(3))));
}

#[test]
fn a_pause_that_outlasts_its_limit_is_broken() {
    let mut run = Run::started(1);
    run.tell(Event::PauseRequested);
    assert_eq!(run.ask(Event::PauseRequested), Err(Refusal::PauseBusy));
    let pause = run.core_pause();
    run.tell(Event::ChannelsQuiesced { pause });
    assert!(run.did(Action::PauseGranted(pause)));
    run.tell(Event::PauseTimedOut { pause });
    assert!(run.did(Action::ResumeChannels(pause)));
    assert_eq!(run.ask(Event::Resume { pause }), Err(Refusal::PauseOver));
    run.tell(Event::PauseRequested);
    assert_ne!(run.core_pause(), pause);
    run.done.clear();
    run.tell(Event::ChannelsQuiesced { pause });
    assert!(run.done.is_empty(), "an answer about the earlier one");
}

#[test]
fn more_failures_than_members_fit_the_action_buffer() {
    let mut run = Run::started(MAX_MEMBERS);
    for member in 0..MAX_MEMBERS {
        run.fails(member, MemberOp::Write, FailureCause::Gone);
    }
    run.update_channels();
    assert_eq!(run.mode(MAX_MEMBERS - 1), Some(MemberMode::Rw));
    assert_eq!(run.core.status().lost, mask(&[MAX_MEMBERS - 1]));
}

/// How the members of a mirror that sleeps are found to stand.
fn standing(run: &Run, stale: &[usize], may_lose: bool) -> Standing {
    let newest = run.core.status().generation;
    Standing { newest, base: newest, highest: newest, laggards: MemberMask::EMPTY, stale: mask(stale), may_lose }
}

#[test]
fn a_mirror_that_sleeps_raises_nothing_until_it_wakes() {
    let mut run = Run::started(2);
    run.tell(Event::Slept);
    run.fails(1, MemberOp::Write, FailureCause::Gone);
    assert_eq!(run.asked(), []);
    let status = run.core.status();
    assert_eq!((status.members[1], status.fencing), (Some(MemberMode::Err(OutReason::Gone)), true));
    assert_eq!(run.core.view().unfenced, mask(&[1]));
    run.tell(Event::Wakes(standing(&run, &[], true)));
    run.update_channels();
    run.persist_all();
    assert!(run.core.view().unfenced.is_empty() && run.core.view().writable);
}

#[test]
fn a_mirror_wakes_without_those_that_another_has_gone_on_without() {
    let mut run = Run::started(3);
    run.tell(Event::Slept);
    run.tell(Event::Wakes(standing(&run, &[1], false)));
    assert_eq!(run.mode(1), Some(MemberMode::Err(OutReason::Stale)));
    let asked = run.asked();
    assert_eq!(asked.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [at(0), at(2)]);
}

#[test]
fn a_mirror_that_wakes_sleeps_on_when_one_fails_that_may_be_newer() {
    for may_lose in [false, true] {
        let mut run = Run::started(2);
        run.tell(Event::Slept);
        run.tell(Event::Wakes(standing(&run, &[], may_lose)));
        let (member, generation) = run.asked()[1];
        run.tell(Event::FenceFailed { member, generation });
        assert_eq!(run.noticed(Notice::StartRefused(at(1))), !may_lose);
        assert_eq!(run.asked().len(), usize::from(may_lose), "the survivor's next generation");
        assert!(!run.core.view().writable);
    }
}

#[test]
fn a_mirror_that_wakes_next_to_another_asks_anew() {
    let mut run = Run::started(2);
    run.tell(Event::Slept);
    run.tell(Event::Wakes(standing(&run, &[], true)));
    let first = run.asked();
    run.tell(Event::FencePersisted { member: first[0].0, generation: first[0].1 });
    run.tell(Event::FenceRefused { member: first[1].0, generation: first[1].1 });
    assert!(run.noticed(Notice::StartRefused(at(1))));
    run.tell(Event::Wakes(standing(&run, &[], true)));
    let second = run.asked();
    assert!(second[0].1 > first[0].1, "no generation stands for two memberships");
}

#[test]
fn a_superseded_mirror_serves_nothing_and_raises_nothing() {
    let mut run = Run::started(2);
    run.tell(Event::Superseded);
    let view = run.core.view();
    assert!(view.rw.is_empty() && view.wo.is_empty() && run.core.status().superseded);
    run.update_channels();
    run.done.clear();
    run.fails(1, MemberOp::Write, FailureCause::Gone);
    assert_eq!(run.asked(), []);
    run.tell(Event::Superseded);
    assert!(!run.noticed(Notice::Superseded), "told once");
}

impl Run {
    /// A started mirror whose failed members may come back.
    fn awaiting(count: usize) -> Self {
        let mut run = Self::started(count);
        run.core = run.core.clone().awaiting_returns(true);
        run
    }

    /// The member fails, is closed, and durably out.
    fn leaves(&mut self, member: usize) {
        self.fails(member, MemberOp::Write, FailureCause::Gone);
        self.update_channels();
        self.persist_all();
        self.tell(Event::MemberClosed { member: at(member) });
        self.update_channels();
        self.done.clear();
    }

    /// A member that left joins write-only.
    fn comes_back(&mut self, member: usize) {
        self.tell(Event::MemberBack { member: at(member) });
        self.tell(Event::FencePersisted { member: at(member), generation: Generation::NONE });
        self.tell(Event::PauseRequested);
        let pause = self.core_pause();
        self.tell(Event::ChannelsQuiesced { pause });
        self.tell(Event::Resume { pause });
        self.update_channels();
        self.done.clear();
    }
}

#[test]
fn a_member_that_failed_comes_back_void_and_write_only_and_is_in_sync_by_a_generation_that_names_it() {
    let mut run = Run::awaiting(2);
    run.fails(1, MemberOp::Write, FailureCause::Gone);
    assert_eq!(run.core.view().absent, mask(&[1]));
    assert_eq!(run.ask(Event::MemberBack { member: at(1) }), Err(Refusal::WrongMode(at(1))), "not durably out");
    run.update_channels();
    run.persist_all();
    assert!(run.core.status().may_return.is_empty(), "it is not closed");
    run.tell(Event::MemberClosed { member: at(1) });
    run.update_channels();
    assert_eq!(run.core.status().may_return, mask(&[1]));
    run.tell(Event::MemberBack { member: at(1) });
    assert_eq!(run.asked(), [(at(1), Generation::NONE)]);
    let mut run = Run::awaiting(2);
    run.leaves(1);
    run.comes_back(1);
    assert_eq!((run.mode(1), run.core.view().absent), (Some(MemberMode::Wo), mask(&[1])));
    assert!(run.core.view().rw == mask(&[0]), "it is not read");
    run.tell(Event::MemberSynced { member: at(1) });
    run.update_channels();
    let survivor = run.asked();
    assert_eq!(survivor.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [at(0)], "its own record is last");
    run.tell(Event::FencePersisted { member: at(0), generation: survivor[0].1 });
    assert_eq!(run.mode(1), Some(MemberMode::Wo));
    run.persist_all();
    assert_eq!((run.mode(1), run.core.view().absent), (Some(MemberMode::Rw), MemberMask::EMPTY));
}

#[test]
fn one_that_fails_again_on_its_way_back_is_awaited_still() {
    let mut run = Run::awaiting(2);
    run.leaves(1);
    run.tell(Event::MemberBack { member: at(1) });
    run.tell(Event::FenceFailed { member: at(1), generation: Generation::NONE });
    run.tell(Event::MemberClosed { member: at(1) });
    assert_eq!(run.core.status().may_return, mask(&[1]));
    run.comes_back(1);
    run.leaves(1);
    assert_eq!(run.core.status().may_return, mask(&[1]));
}

#[test]
fn only_one_that_was_in_sync_and_failed_is_awaited() {
    let mut run = Run::started(2);
    run.leaves(1);
    assert!(run.core.view().absent.is_empty(), "where nobody is");
    let mut run = Run::awaiting(3);
    run.tell(Event::RemoveMember { member: at(2) });
    assert!(run.core.view().absent.is_empty(), "taken out by request");
    let mut run = Run::awaiting(2);
    run.join(2);
    run.fails(2, MemberOp::Write, FailureCause::Gone);
    assert!(run.core.view().absent.is_empty(), "it never was in sync");
}

#[test]
fn one_that_is_awaited_no_more_does_not_come_back() {
    let stops = [
        |run: &mut Run| run.tell(Event::MemberForgotten { member: at(1) }),
        |run: &mut Run| run.tell(Event::RemoveMember { member: at(1) }),
        |run: &mut Run| run.tell(Event::Slept),
        |run: &mut Run| run.tell(Event::Superseded),
    ];
    for stop in stops {
        let mut run = Run::awaiting(2);
        run.leaves(1);
        stop(&mut run);
        assert!(run.core.view().absent.is_empty());
        assert!(run.ask(Event::MemberBack { member: at(1) }).is_err());
    }
}
