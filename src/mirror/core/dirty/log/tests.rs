use super::super::super::view::Epoch;
use super::*;

fn member(index: usize) -> MemberIndex {
    MemberIndex::new(index).expect("a place")
}

fn mask(members: &[usize]) -> MemberMask {
    members.iter().map(|index| member(*index)).collect()
}

fn view(rw: &[usize], wo: &[usize], unfenced: &[usize]) -> IoView {
    let (rw, wo, unfenced) = (mask(rw), mask(wo), mask(unfenced));
    IoView { epoch: Epoch(1), rw, wo, unfenced, local: MemberMask::EMPTY, absent: MemberMask::EMPTY, writable: true }
}

fn set(regions: &[usize]) -> RegionSet {
    let mut set = RegionSet::EMPTY;
    regions.iter().for_each(|region| set.insert(*region));
    set
}

/// Published, and in force on all channels.
fn view_changes(log: &mut DirtyLog, view: &IoView) {
    log.set_view(view);
    log.view_in_force();
}

fn todos(log: &mut DirtyLog) -> Vec<Todo> {
    std::iter::from_fn(|| log.next_todo()).collect()
}

/// The stores among them: which member, which store, which regions.
fn stores(todos: &[Todo]) -> Vec<(usize, StoreId, RegionSet)> {
    let store = |todo: &Todo| match *todo {
        Todo::Store { member, store, regions, .. } => Some((member.get(), store, regions)),
        _ => None,
    };
    todos.iter().filter_map(store).collect()
}

fn answer_all(log: &mut DirtyLog) -> Vec<Todo> {
    let mut seen = Vec::new();
    loop {
        let step = todos(log);
        if step.is_empty() {
            return seen;
        }
        for (place, store, _) in stores(&step) {
            log.stored(member(place), store, true);
        }
        seen.extend(step);
    }
}

fn hot_on_two(regions: &[usize]) -> DirtyLog {
    let mut log = DirtyLog::new(&view(&[0, 1], &[], &[]), RegionSet::EMPTY, StoreId(0));
    log.want(&set(regions));
    assert!(answer_all(&mut log).contains(&Todo::Admit(set(regions))));
    log
}

#[test]
fn a_region_is_hot_only_when_every_member_holds_it() {
    let mut log = DirtyLog::new(&view(&[0, 1], &[], &[]), RegionSet::EMPTY, StoreId(0));
    assert_eq!(todos(&mut log), [], "nothing is dirty, nothing is stored");
    log.want(&set(&[3]));
    let sent = stores(&todos(&mut log));
    assert_eq!(
        sent.iter().map(|(place, _, regions)| (*place, *regions)).collect::<Vec<_>>(),
        [(0, set(&[3])), (1, set(&[3]))]
    );
    log.stored(member(0), sent[0].1, true);
    assert_eq!(todos(&mut log), []);
    log.stored(member(1), sent[1].1, true);
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[3]))]);
}

#[test]
fn what_is_wanted_while_a_store_runs_goes_with_the_next_one() {
    let mut log = DirtyLog::new(&view(&[0, 1], &[], &[]), RegionSet::EMPTY, StoreId(0));
    log.want(&set(&[1]));
    let sent = stores(&todos(&mut log));
    for region in [2, 3, 4] {
        log.want(&set(&[region]));
    }
    assert_eq!(todos(&mut log), [], "one store at a time for each member");
    log.stored(member(0), sent[0].1, true);
    let next = stores(&todos(&mut log));
    assert_eq!(
        next.iter().map(|(place, _, regions)| (*place, *regions)).collect::<Vec<_>>(),
        [(0, set(&[1, 2, 3, 4]))]
    );
}

#[test]
fn a_mirror_of_one_needs_no_log_and_gets_one_with_the_second_member() {
    let mut log = DirtyLog::new(&view(&[0], &[], &[]), set(&[9]), StoreId(0));
    assert_eq!(todos(&mut log), [Todo::AdmitAll]);
    log.want(&set(&[1]));
    assert_eq!(todos(&mut log), []);
    log.set_view(&view(&[0], &[1], &[]));
    let step = todos(&mut log);
    assert_eq!(step[0], Todo::AdmitNone);
    for (place, store, regions) in stores(&step) {
        assert_eq!(regions, set(&[9]));
        log.stored(member(place), store, true);
    }
    log.want(&set(&[1]));
    assert!(answer_all(&mut log).contains(&Todo::Admit(set(&[1]))));
}

#[test]
fn a_member_that_is_out_counts_until_that_is_durable() {
    let mut log = hot_on_two(&[1]);
    view_changes(&mut log, &view(&[0], &[], &[1]));
    log.want(&set(&[2]));
    let sent = stores(&todos(&mut log));
    assert_eq!(sent.len(), 1, "only the survivor is asked, and it is asked");
    log.set_view(&view(&[0], &[], &[]));
    assert_eq!(todos(&mut log), [Todo::AdmitAll]);
}

#[test]
fn a_new_member_learns_what_is_dirty_before_anything_is_hot_again() {
    let mut log = hot_on_two(&[1, 2]);
    log.set_view(&view(&[0, 1], &[2], &[]));
    let step = todos(&mut log);
    assert_eq!(step[0], Todo::AdmitNone);
    let sent = stores(&step);
    assert_eq!((sent.len(), sent[0].0, sent[0].2), (1, 2, set(&[1, 2])));
    assert!(matches!(step[1], Todo::Store { claims: true, .. }), "its replica is another mirror's");
    log.stored(member(2), sent[0].1, true);
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[1, 2]))]);
    log.want(&set(&[3]));
    assert!(todos(&mut log).iter().all(|todo| matches!(todo, Todo::Store { claims: false, .. })));
}

#[test]
fn a_quiet_region_is_taken_off_after_its_writes_have_ended() {
    let mut log = hot_on_two(&[1, 2]);
    assert!(log.may_clear());
    log.clear(&set(&[1]));
    assert_eq!(todos(&mut log), [Todo::Drain]);
    assert_eq!(*log.dirty(), set(&[1, 2]), "not before");
    log.drained();
    let sent = stores(&todos(&mut log));
    assert_eq!(sent.iter().map(|(_, _, regions)| *regions).collect::<Vec<_>>(), [set(&[2]), set(&[2])]);
    assert!(!log.may_clear());
}

#[test]
fn a_write_into_a_region_that_is_being_taken_off_keeps_it() {
    let mut log = hot_on_two(&[1, 2]);
    log.clear(&set(&[1, 2]));
    assert_eq!(todos(&mut log), [Todo::Drain]);
    log.want(&set(&[1]));
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[1]))], "all members hold it still");
    log.drained();
    assert_eq!(stores(&todos(&mut log))[0].2, set(&[1]));
}

#[test]
fn a_region_wanted_while_it_is_being_taken_off_with_the_members_is_stored_anew() {
    let mut log = hot_on_two(&[1]);
    log.clear(&set(&[1]));
    todos(&mut log);
    log.drained();
    let off = stores(&todos(&mut log));
    log.want(&set(&[1]));
    assert_eq!(todos(&mut log), [], "a member may hold either by now");
    for (place, store, _) in off {
        log.stored(member(place), store, true);
    }
    assert!(answer_all(&mut log).contains(&Todo::Admit(set(&[1]))));
}

#[test]
fn a_failed_store_blocks_until_the_member_is_out_or_tried_again() {
    let mut log = DirtyLog::new(&view(&[0, 1], &[], &[]), RegionSet::EMPTY, StoreId(0));
    log.want(&set(&[1]));
    let sent = stores(&todos(&mut log));
    log.stored(member(0), sent[0].1, true);
    log.stored(member(1), sent[1].1, false);
    assert_eq!(todos(&mut log), []);
    let mut without = log.clone();
    view_changes(&mut without, &view(&[0], &[], &[1]));
    assert_eq!(todos(&mut without), [Todo::Admit(set(&[1]))]);
    log.retry(member(1));
    assert_eq!(stores(&todos(&mut log)).len(), 1);
}

#[test]
fn a_late_answer_about_an_earlier_store_is_not_taken() {
    let mut log = hot_on_two(&[1]);
    log.want(&set(&[2]));
    let sent = stores(&todos(&mut log));
    log.stored(member(0), sent[0].1, true);
    log.stored(member(1), StoreId(0), true);
    assert_eq!(todos(&mut log), []);
    log.stored(member(1), sent[1].1, true);
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[2]))]);
}

#[test]
fn where_members_differ_from_before_stays_dirty() {
    let mut log = DirtyLog::new(&view(&[0, 1], &[], &[]), set(&[5, 6]), StoreId(0));
    answer_all(&mut log);
    log.clear(&RegionSet::EMPTY);
    assert_eq!(todos(&mut log), []);
    log.set_equal(&set(&[5]));
    log.clear(&RegionSet::EMPTY);
    assert_eq!(todos(&mut log), [Todo::Drain]);
    log.drained();
    assert_eq!(*log.dirty(), set(&[6]));
    assert_eq!(log.at_stop(), set(&[6]));
}

#[test]
fn nothing_is_taken_off_while_a_member_is_out_and_not_durably_so() {
    let mut log = hot_on_two(&[1, 2]);
    log.clear(&set(&[1]));
    assert_eq!(todos(&mut log), [Todo::Drain]);
    log.set_view(&view(&[0], &[], &[1]));
    log.drained();
    assert_eq!((todos(&mut log), *log.dirty()), (vec![], set(&[1, 2])), "a write may have ended that one lacks");
    assert!(!log.may_clear());
    let mut stuck = hot_on_two(&[1]);
    stuck.set_view(&IoView { writable: false, ..view(&[0, 1], &[], &[]) });
    assert!(!stuck.may_clear());
}

#[test]
fn what_could_not_be_flushed_stays_and_is_tried_again() {
    let mut log = hot_on_two(&[1]);
    log.clear(&set(&[1]));
    todos(&mut log);
    log.keep();
    assert_eq!((todos(&mut log), *log.dirty()), (vec![], set(&[1])));
    assert!(log.may_clear());
    log.clear(&RegionSet::EMPTY);
    assert_eq!(todos(&mut log), [Todo::Drain]);
}

#[test]
fn a_region_is_not_hot_while_a_channel_may_write_it_to_a_member_that_does_not_hold_it() {
    let mut log = DirtyLog::new(&view(&[0, 1, 2], &[], &[]), RegionSet::EMPTY, StoreId(0));
    log.want(&set(&[1]));
    for (place, store, _) in stores(&todos(&mut log)) {
        log.stored(member(place), store, place != 1);
    }
    log.set_view(&view(&[0, 2], &[], &[1]));
    assert_eq!(todos(&mut log), [], "member 1 is out, and not every channel knows");
    log.view_in_force();
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[1]))]);
}

fn with_absent(view: IoView, absent: &[usize]) -> IoView {
    IoView { absent: mask(absent), ..view }
}

#[test]
fn what_a_member_misses_is_all_that_was_dirty_when_it_left_and_what_is_written_since() {
    let mut log = hot_on_two(&[1]);
    log.want(&set(&[2]));
    assert_eq!(log.missed(member(1)), None);
    log.set_view(&with_absent(view(&[0], &[], &[1]), &[1]));
    assert_eq!(log.missed(member(1)), Some(&set(&[1, 2])), "a write may be under way in both");
    view_changes(&mut log, &with_absent(view(&[0], &[], &[]), &[1]));
    answer_all(&mut log);
    log.want(&set(&[5]));
    assert_eq!(todos(&mut log), [Todo::Admit(set(&[5]))], "nobody is there that could differ, so nothing is stored");
    assert_eq!(log.missed(member(1)), Some(&set(&[1, 2, 5])));
    assert!(!log.stores() && !log.may_clear());

    view_changes(&mut log, &with_absent(view(&[0], &[1], &[]), &[1]));
    let both = answer_all(&mut log);
    assert_eq!(both.first(), Some(&Todo::AdmitNone));
    assert!(stores(&both).iter().any(|(place, _, regions)| *place == 1 && *regions == set(&[1, 2, 5])));
    assert_eq!(log.missed(member(1)), Some(&set(&[1, 2, 5])), "until it is in sync");
    view_changes(&mut log, &view(&[0, 1], &[], &[]));
    assert_eq!(log.missed(member(1)), None);
}

#[test]
fn regions_that_are_taken_off_meanwhile_stay_missed() {
    let mut log = DirtyLog::new(&view(&[0, 1, 2], &[], &[]), RegionSet::EMPTY, StoreId(0));
    log.want(&set(&[1]));
    answer_all(&mut log);
    view_changes(&mut log, &with_absent(view(&[0, 1], &[], &[2]), &[2]));
    view_changes(&mut log, &with_absent(view(&[0, 1], &[], &[]), &[2]));
    assert!(log.may_clear(), "the two that are left need no more than before");
    log.clear(&set(&[1]));
    todos(&mut log);
    log.drained();
    answer_all(&mut log);
    assert_eq!((log.dirty().count(), log.missed(member(2))), (0, Some(&set(&[1]))));
    log.want(&set(&[7]));
    view_changes(&mut log, &with_absent(view(&[0], &[], &[1]), &[1, 2]));
    assert_eq!(log.missed(member(1)), Some(&set(&[7])), "each for itself");
    assert_eq!(log.missed(member(2)), Some(&set(&[1, 7])));
}

#[test]
fn one_that_leaves_again_before_it_is_in_sync_misses_both() {
    let mut log = hot_on_two(&[1]);
    for view in [view(&[0], &[], &[1]), view(&[0], &[], &[]), view(&[0], &[1], &[])] {
        view_changes(&mut log, &with_absent(view, &[1]));
        answer_all(&mut log);
    }
    log.want(&set(&[4]));
    answer_all(&mut log);
    view_changes(&mut log, &with_absent(view(&[0], &[], &[1]), &[1]));
    assert_eq!(log.missed(member(1)), Some(&set(&[1, 4])));
    view_changes(&mut log, &view(&[0], &[], &[]));
    assert_eq!(todos(&mut log), [Todo::AdmitAll], "awaited no more");
    assert_eq!(log.missed(member(1)), None);
}

#[test]
fn of_one_that_is_absent_when_the_log_begins_nothing_is_known() {
    let log = DirtyLog::new(&with_absent(view(&[0], &[], &[]), &[1]), RegionSet::EMPTY, StoreId(0));
    assert_eq!(log.missed(member(1)), Some(&RegionSet::ALL));
}
