//! The mirror's core under virtual time with seeded faults: member errors, lost answers, slow, frozen and vanished
//! members, failed and late persists, pauses, rebuilds, members that come back for what they missed, switch-overs from one engine to another, and crashes at any step.
//!
//! `CORRIENTE_SIM_SEED=n` runs that one seed, `CORRIENTE_SIM_SEEDS=n` so many from `CORRIENTE_SIM_FIRST` on;
//! `CORRIENTE_SIM_TRACE=1` prints each step. Seeds that failed once stand in seeds.txt and are run every time.

mod check;
mod client;
mod control;
mod dirty;
mod faults;
mod oracle;
mod outage;
mod random;
mod replica;
mod sleep;
mod switch;
mod time;
mod world;

use check::{Bug, Checker, Violation};
use world::{Tally, World};

fn run(seed: u64) -> (Tally, Option<Violation>) {
    World::new(seed, None, None).run()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Seeds that failed once, one a line; `#` begins a remark.
fn once_failed() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed")).collect()
}

#[test]
fn seeds_that_failed_once_pass() {
    for seed in once_failed() {
        if let (_, Some(violation)) = run(seed) {
            panic!("CORRIENTE_SIM_SEED={seed} fails again: {violation:?}");
        }
    }
}

#[test]
fn the_mirror_keeps_its_promises() {
    let seeds = match number("CORRIENTE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("CORRIENTE_SIM_FIRST").unwrap_or(0);
            first..first + number("CORRIENTE_SIM_SEEDS").unwrap_or(300)
        }
    };
    for seed in seeds {
        if let (_, Some(violation)) = run(seed) {
            let Violation { checker, at_us, what } = violation;
            panic!("CORRIENTE_SIM_SEED={seed}: {checker:?} at {at_us} us: {what}");
        }
    }
}

#[test]
fn a_seed_is_one_run() {
    let (one, other) = (run(11), run(11));
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

/// A simulator in which nothing happens proves nothing.
#[test]
fn the_runs_visit_what_they_are_for() {
    let mut sum = Tally::default();
    for seed in 0..150 {
        let tally = run(seed).0;
        sum.acknowledged += tally.acknowledged;
        sum.errors += tally.errors;
        sum.fences += tally.fences;
        sum.crashes += tally.crashes;
        sum.caught_up += tally.caught_up;
        sum.rebuilt += tally.rebuilt;
        sum.pauses += tally.pauses;
        sum.broken_pauses += tally.broken_pauses;
        sum.lost += tally.lost;
        sum.stuck += tally.stuck;
        sum.retried_reads += tally.retried_reads;
        sum.abandoned += tally.abandoned;
        sum.dirty_stores += tally.dirty_stores;
        sum.cleared += tally.cleared;
        sum.equalized += tally.equalized;
        sum.waited_for_pieces += tally.waited_for_pieces;
        sum.stops += tally.stops;
        sum.wakes += tally.wakes;
        sum.switches += tally.switches;
        sum.switches_back += tally.switches_back;
        sum.superseded += tally.superseded;
        sum.taken_over += tally.taken_over;
        sum.refused += tally.refused;
        sum.asked_anew += tally.asked_anew;
        sum.slept_on += tally.slept_on;
        sum.salvaged += tally.salvaged;
        sum.returned += tally.returned;
        sum.returned_pieces += tally.returned_pieces;
        sum.returns_failed += tally.returns_failed;
        sum.returns_forgotten += tally.returns_forgotten;
        sum.cut_off += tally.cut_off;
    }
    println!("{sum:?}");
    let Tally { acknowledged, errors, fences, crashes, caught_up, rebuilt, .. } = sum;
    let Tally { pauses, broken_pauses, lost, stuck, retried_reads, abandoned, .. } = sum;
    let Tally { dirty_stores, cleared, equalized, waited_for_pieces, stops, .. } = sum;
    let Tally { wakes, switches, switches_back, superseded, taken_over, asked_anew, slept_on, .. } = sum;
    let Tally { returned, returned_pieces, returns_failed, cut_off, .. } = sum;
    for (count, least) in [
        (acknowledged, 50_000),
        (errors, 100),
        (fences, 200),
        (crashes, 60),
        (caught_up, 2),
        (rebuilt, 100),
        (pauses, 1_000),
        (broken_pauses, 10),
        (lost, 10),
        (stuck, 2),
        (retried_reads, 100),
        (abandoned, 50),
        (dirty_stores, 2_000),
        (cleared, 200),
        (equalized, 200),
        (waited_for_pieces, 50),
        (stops, 20),
        (wakes, 300),
        (switches, 200),
        (switches_back, 50),
        (superseded, 1),
        (taken_over, 5),
        (asked_anew, 3),
        (slept_on, 5),
        (returned, 30),
        (returned_pieces, 400),
        (returns_failed, 15),
        (cut_off, 40),
    ] {
        assert!(count >= least, "{sum:?}: {count} should be at least {least}");
    }
}

/// Each checker finds the bug that it is there for, within a few seeds.
fn finds(bug: Bug, checker: Checker) {
    finds_from(0, bug, checker);
}

/// As [`finds`], from a seed that is near one that finds it.
fn finds_from(first: u64, bug: Bug, checker: Checker) {
    for seed in first..first + 500 {
        if let (_, Some(violation)) = World::new(seed, Some(bug), Some(checker)).run() {
            assert_eq!(violation.checker, checker);
            println!("found with seed {seed}");
            return;
        }
    }
    panic!("no seed made {checker:?} find {bug:?}");
}

#[test]
fn data_checker_finds_a_persist_that_was_not_done() {
    finds(Bug::FakePersist, Checker::Data);
}

#[test]
fn data_checker_finds_an_acknowledgement_before_the_fence() {
    finds(Bug::AcknowledgeEarly, Checker::Data);
}

#[test]
fn equal_checker_finds_a_swallowed_error() {
    finds(Bug::SwallowLegError, Checker::Equal);
}

#[test]
fn status_checker_finds_a_rosy_status() {
    finds(Bug::RosyStatus, Checker::Status);
}

#[test]
fn last_member_checker_finds_a_dropped_last_member() {
    finds(Bug::DropLast, Checker::LastMember);
}

#[test]
fn answered_checker_finds_a_lost_wakeup() {
    finds(Bug::LostWakeup, Checker::Answered);
}

#[test]
fn no_error_checker_finds_a_read_without_retry() {
    finds(Bug::NoRetry, Checker::NoError);
}

#[test]
fn out_unused_checker_finds_a_view_confirmed_early() {
    finds(Bug::ConfirmViewEarly, Checker::OutUnused);
}

#[test]
fn pause_checker_finds_a_hasty_quiesce() {
    finds(Bug::HastyQuiesce, Checker::Pause);
}

#[test]
fn dirty_checker_finds_a_write_that_begins_too_early() {
    finds(Bug::AdmitEarly, Checker::Dirty);
}

#[test]
fn dirty_checker_finds_a_region_taken_off_too_early() {
    finds(Bug::HastyDrain, Checker::Dirty);
}

#[test]
fn equal_checker_finds_a_start_that_forgets_what_was_dirty() {
    finds(Bug::ForgetDirty, Checker::Equal);
}

#[test]
fn dirty_checker_finds_a_stop_that_forgets_what_differs() {
    finds(Bug::ForgetAtStop, Checker::Dirty);
}

#[test]
fn one_writer_checker_finds_a_mirror_that_does_not_sleep() {
    finds(Bug::EagerWake, Checker::OneWriter);
}

#[test]
fn one_writer_checker_finds_an_engine_that_is_left_with_writes_under_way() {
    finds(Bug::HastyClose, Checker::OneWriter);
}

#[test]
fn data_checker_finds_a_mirror_that_wakes_without_the_newest_member() {
    finds_from(1_180, Bug::WakeWithoutNewest, Checker::Data);
}

#[test]
fn dirty_checker_finds_a_claim_that_forgets_what_was_dirty() {
    finds(Bug::ForgetAtClaim, Checker::Dirty);
}

#[test]
fn equal_checker_finds_a_region_that_is_forgotten_in_what_was_missed() {
    finds(Bug::ForgetMissed, Checker::Equal);
}

#[test]
fn data_checker_finds_a_returned_member_that_is_read_too_early() {
    finds(Bug::SyncedEarly, Checker::Data);
}

#[test]
fn equal_checker_finds_a_copy_that_crosses_a_write() {
    finds(Bug::CopyUnlocked, Checker::Equal);
}

#[test]
fn equal_checker_finds_a_write_from_before_an_outage_that_lands_after_it() {
    finds_from(225, Bug::NoCutOff, Checker::Equal);
}

#[test]
fn data_checker_finds_a_block_that_is_read_in_two_versions() {
    finds(Bug::ServeUnequal, Checker::Data);
}
