//! The harness itself: what the other tests trust.

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use support::address::Address;
use support::disk::Disk;
use support::fixtures::{BackupState, Fixtures};
use support::process::Process;
use support::random::{Random, pattern};
use support::wait::wait_until;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory")
}

#[test]
fn patterns_are_those_of_the_fixtures() {
    // Both values are the self-check of the fixtures' README.
    assert_eq!(pattern(101, 64, 16), 0x0c1a_bb5a_db5c_8eb6_d2c7_8b32_8139_02f9_u128.to_be_bytes());
    let expected = "53a2458a8b12a376973094b229f05118954476fdf114b147de44c39bab30cb65";
    assert_eq!(sha256(&pattern(103, 4096, 2 << 20)), expected);
}

#[test]
fn fixture_images_have_the_checksums_of_the_manifest() {
    let fixtures = Fixtures::load();
    for volume in &fixtures.volumes {
        for backup in &volume.backups {
            let image = sha256(&volume.image(&backup.name));
            match &backup.image_sha256 {
                Some(expected) => assert_eq!(image, *expected, "{} {}", volume.name, backup.name),
                None => assert_ne!(backup.state, BackupState::Complete, "{} {}", volume.name, backup.name),
            }
        }
    }
}

#[test]
fn addresses_are_leased_once() {
    let addresses: Vec<Address> = (0..20).map(|_| Address::lease()).collect();
    let distinct: HashSet<_> = addresses.iter().map(Address::ip).collect();
    assert_eq!(distinct.len(), addresses.len());
}

#[test]
fn disks_are_sparse_and_show_what_was_written() {
    let directory = scratch();
    let disk = Disk::create(directory.path(), "disk", 1 << 30);
    assert_eq!(disk.allocated(), 0);
    disk.overwrite(512 << 20, &Random::from_clock().bytes(4096));
    assert!((4096..1 << 20).contains(&disk.allocated()), "{} bytes for one page", disk.allocated());
}

#[tokio::test]
#[should_panic(expected = "the moon is full: not within 50ms; last: it is new")]
async fn waiting_ends_and_says_what_was_last() {
    wait_until(Duration::from_millis(50), "the moon is full", async || Err::<(), _>("it is new".to_string())).await;
}

#[tokio::test]
#[should_panic(expected = "an answer comes: not within 50ms")]
async fn waiting_ends_when_no_answer_comes() {
    wait_until(Duration::from_millis(50), "an answer comes", async || std::future::pending::<Result<(), _>>().await)
        .await;
}

#[tokio::test]
async fn a_process_is_frozen_thawed_and_stopped_and_keeps_its_log() {
    let directory = scratch();
    let script = "trap 'echo stopped; exit 0' TERM; echo started; while :; do sleep 0.01; done";
    let mut process =
        Process::spawn("script", Path::new("/bin/sh"), &["-c", script], &[], directory.path().join("log"));
    let log_has = |process: &Process, text: &str| match process.log() {
        log if log.contains(text) => Ok(()),
        log => Err(format!("its log is {log:?}")),
    };
    wait_until(Duration::from_secs(10), "the script starts", async || log_has(&process, "started")).await;
    process.freeze();
    wait_until(Duration::from_secs(10), "it stands still", async || match state_of(process.pid()) {
        'T' => Ok(()),
        other => Err(format!("its state is {other}")),
    })
    .await;
    process.thaw();
    assert!(process.stop(Duration::from_secs(10)).await.success());
    log_has(&process, "stopped").expect("the trap ran");
}

#[tokio::test]
async fn a_dropped_process_is_gone() {
    let directory = scratch();
    let process = Process::spawn("sleep", Path::new("/bin/sleep"), &["1000"], &[], directory.path().join("log"));
    let entry = format!("/proc/{}", process.pid());
    assert!(Path::new(&entry).exists());
    drop(process);
    assert!(!Path::new(&entry).exists());
}

/// The state letter of proc(5).
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state in /proc/PID/stat")
}
