//! Faults that a test orders of a running node: an operation fails or panics, the node stops where it stands, or kills
//! itself.
//!
//! Off unless the environment names a directory at the start ([`VARIABLE`]); off, a point costs one load and a branch,
//! and none lies on the path of an I/O. On, every pass of a point looks for the file of the point's name in that
//! directory: an [`Order`]. So a test changes faults while the node runs, and an order that was carried out is gone.
//!
//! A `block` order holds whoever passes until its file is removed; meanwhile there is a file `<point>.reached`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The variable of the environment that names the directory of orders.
pub const VARIABLE: &str = "CORRIENTE_TEST_FAULTS";

/// How often a blocked point looks whether it may go on.
const BLOCK_STEP: Duration = Duration::from_millis(5);

static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Where a fault can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// An attach of a replica answers no bdev. Obeys `fail` only, like the next four.
    AttachNoName,
    /// An attach of a replica answers two bdevs.
    AttachTwoNames,
    /// An attach of a replica answers a bdev without a name.
    AttachEmptyName,
    /// A flush of any disk of the node.
    DiskFlush,
    /// A disk's lvstore is put away, and its device is about to be let go of.
    DiskLetGo,
    /// A write, an unmap or a write of zeroes to any replica of the node.
    ReplicaWrite,
    /// A volume's snapshot is about to be taken on a replica; passed once for each, those of the node first.
    SnapshotBegins,
    /// A volume's snapshot was taken on a replica.
    SnapshotTaken,
    /// A volume's snapshot is about to be deleted; all replicas were asked whether they must keep it.
    SnapshotDeletionBegins,
    /// A member of a volume is about to grow; passed once for each, those of the node first.
    ExpansionBegins,
    /// A member has grown and its size was seen.
    ExpansionGrown,
    /// All members that stay have the new size; the volume has the old one.
    ExpansionSeen,
    /// The volume has its new size; nothing is published or recorded.
    ExpansionServed,
    /// A replica of the node is about to grow.
    ReplicaGrows,
    /// A replica's lvol has grown; who has it open does not know yet.
    ReplicaGrown,
    /// A rebuild is about to have a snapshot copied; passed once for each snapshot of a round.
    RebuildCopies,
    /// All snapshots of a round of a rebuild are copied; nobody has looked for newer ones.
    RebuildCopied,
    /// A rebuild has found newer snapshots, and its next round is about to begin.
    RebuildGoesOn,
    /// A replica that is rebuilt gets all writes; its head lacks what came before.
    RebuildJoined,
    /// The head of a replica that is rebuilt is filled; it is not in sync yet.
    RebuildFilled,
    /// A replica that failed is back, and was seen to be the same copy; nothing has changed yet.
    ReturnProven,
    /// A replica that failed and is back gets all writes; it lacks what it missed.
    ReturnJoined,
    /// A replica that failed and is back has what it missed; it is not in sync yet.
    ReturnFilled,
    /// A restore has its claim; nothing was read or written.
    RestoreClaimed,
    /// A restore's marker is about to be stored with a replica; passed once for each, those of the node first, when the
    /// restore begins, and again when it is complete.
    MarkerBegins,
    /// A restore's marker was stored with a replica.
    MarkerStored,
    /// The replicas know that a restore is under way.
    RestoreMarked,
    /// A block is about to be written or a range to be zeroed.
    RestoreStepBegins,
    /// A block was written or a range zeroed.
    RestoreStepDone,
    /// All blocks are written and flushed.
    RestoreFlushed,
    /// The restore's snapshot is on all replicas.
    RestoreSnapshotsTaken,
    /// The replicas know that the restore is complete.
    RestoreMarkedComplete,
    /// The snapshot of the restore before is deleted.
    RestoreEarlierDeleted,
    /// Everything is proven, nothing published.
    RestoreProven,
    /// A generation is about to be stored with a member; passed once for each, those of the node first.
    GenerationBegins,
    /// A generation was stored with a member.
    GenerationStored,
    /// Dirty regions are about to be stored with a member; passed once for each, those of the node first.
    DirtyBegins,
    /// Dirty regions were stored with a member.
    DirtyStored,
    /// A piece in which members may differ is about to be compared. Obeys `fail` (it is then tried again) and `kill` only, like
    /// the next one.
    EqualizeBegins,
    /// A piece is the same on all members; nobody has been told.
    EqualizeDone,
    /// A block of a snapshot is about to be read for a backup.
    BackupReads,
    /// The temporary head of a linked clone's entry point is made.
    CloneEntryPointBegun,
    /// The entry point is made of its temporary head, which is there still.
    CloneEntryPointMade,
    /// The entry point is complete and has no clone yet.
    CloneEntryPointReady,
    /// The head of a clone is ready to take the old head's place.
    CloneHeadReady,
    /// An empty lvol says that a full copy goes on, and nothing is copied yet.
    CloneCopyBegun,
    /// All of a full copy is durable, beside the head's place.
    CloneCopied,
    /// What was in the head's place of a full copy is gone, and the copy not there yet.
    CloneHeadExchanged,
    /// The data of a linked clone is deleted, its entry point not yet.
    CloneDeleted,
    /// A backing image has what it is to be written to; nothing was copied.
    ImageBegun,
    /// All bytes of a backing image are copied and flushed, none was read back.
    ImageCopied,
    /// A backing image is what its checksum says; nothing tells so.
    ImageVerified,
    /// How the making of a backing image ended is stored with what it was written to.
    ImageRecorded,
    /// A backing image is there; what it was written to is so too.
    ImageTaken,
}

impl Point {
    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::AttachNoName => "attach-no-name",
            Self::AttachTwoNames => "attach-two-names",
            Self::AttachEmptyName => "attach-empty-name",
            Self::DiskFlush => "disk-flush",
            Self::DiskLetGo => "disk-let-go",
            Self::ReplicaWrite => "replica-write",
            Self::SnapshotBegins => "snapshot-begins",
            Self::SnapshotDeletionBegins => "snapshot-deletion-begins",
            Self::SnapshotTaken => "snapshot-taken",
            Self::ExpansionBegins => "expansion-begins",
            Self::ExpansionGrown => "expansion-grown",
            Self::ExpansionSeen => "expansion-seen",
            Self::ExpansionServed => "expansion-served",
            Self::ReplicaGrows => "replica-grows",
            Self::ReplicaGrown => "replica-grown",
            Self::RebuildCopies => "rebuild-copies",
            Self::RebuildCopied => "rebuild-copied",
            Self::RebuildGoesOn => "rebuild-goes-on",
            Self::RebuildJoined => "rebuild-joined",
            Self::RebuildFilled => "rebuild-filled",
            Self::ReturnProven => "return-proven",
            Self::ReturnJoined => "return-joined",
            Self::ReturnFilled => "return-filled",
            Self::RestoreClaimed => "restore-claimed",
            Self::MarkerBegins => "marker-begins",
            Self::MarkerStored => "marker-stored",
            Self::RestoreMarked => "restore-marked",
            Self::RestoreStepBegins => "restore-step-begins",
            Self::RestoreStepDone => "restore-step-done",
            Self::RestoreFlushed => "restore-flushed",
            Self::RestoreSnapshotsTaken => "restore-snapshots-taken",
            Self::RestoreMarkedComplete => "restore-marked-complete",
            Self::RestoreEarlierDeleted => "restore-earlier-deleted",
            Self::RestoreProven => "restore-proven",
            Self::GenerationBegins => "generation-begins",
            Self::GenerationStored => "generation-stored",
            Self::DirtyBegins => "dirty-begins",
            Self::DirtyStored => "dirty-stored",
            Self::EqualizeBegins => "equalize-begins",
            Self::EqualizeDone => "equalize-done",
            Self::BackupReads => "backup-reads",
            Self::CloneEntryPointBegun => "clone-entry-point-begun",
            Self::CloneEntryPointMade => "clone-entry-point-made",
            Self::CloneEntryPointReady => "clone-entry-point-ready",
            Self::CloneHeadReady => "clone-head-ready",
            Self::CloneCopyBegun => "clone-copy-begun",
            Self::CloneCopied => "clone-copied",
            Self::CloneHeadExchanged => "clone-head-exchanged",
            Self::CloneDeleted => "clone-deleted",
            Self::ImageBegun => "image-begun",
            Self::ImageCopied => "image-copied",
            Self::ImageVerified => "image-verified",
            Self::ImageRecorded => "image-recorded",
            Self::ImageTaken => "image-taken",
        }
    }

    /// The name of the file that tells that somebody is blocked here.
    pub fn reached_name(self) -> String {
        format!("{}.reached", self.file_name())
    }
}

/// What happens to who passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The operation fails.
    Fail,
    /// It waits until the order's file is removed.
    Block,
    /// The node ends by SIGKILL.
    Kill,
    /// It panics.
    Panic,
}

/// What is to happen at a point; JSON in the point's file. Written under another name and renamed, so that no half of one
/// is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What.
    pub action: Action,
    /// How many may pass unharmed before.
    #[serde(default)]
    pub skip: u32,
    /// To how many it happens after that.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

impl Order {
    /// Counts one who passes: what happens to it, and what is left of the order.
    fn count(self) -> (Option<Action>, Self) {
        match self {
            Self { skip: 1.., .. } => (None, Self { skip: self.skip - 1, ..self }),
            Self { times: 0, .. } => (None, self),
            Self { action, times, .. } => (Some(action), Self { times: times - 1, ..self }),
        }
    }

    /// A block's file is what it is lifted by, so it stays.
    fn is_spent(self) -> bool {
        self.times == 0 && self.action != Action::Block
    }
}

/// Turns faults on when the environment says so. Once, at the start of the process.
///
/// # Errors
/// [`Error::InvalidArgument`] when what the variable names is no directory.
pub fn read_environment() -> Result<()> {
    let Some(directory) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Ok(()) };
    if !directory.is_dir() {
        return Err(Error::invalid(VARIABLE, format!("{} is not a directory", directory.display())));
    }
    tracing::warn!(
        directory = %directory.display(), variable = VARIABLE,
        "TEST FAULTS ARE ON: this node fails, blocks and kills itself when a file in the directory says so; never serve data with it"
    );
    // A second call would find the same directory.
    let _ = SWITCH.set(Switch { directory, turn: Mutex::new(()) });
    Ok(())
}

/// Whether faults can be ordered at all.
pub fn are_on() -> bool {
    SWITCH.get().is_some()
}

/// Whether the operation at this point is to fail. For places that cannot wait; they obey an order to kill the node too.
pub fn fails(point: Point) -> bool {
    match SWITCH.get().and_then(|switch| switch.pass(point)) {
        Some(Action::Kill) => {
            let _ = kill(Pid::this(), Signal::SIGKILL);
            false
        }
        action => action == Some(Action::Fail),
    }
}

/// Passes a point: goes on, fails, waits or ends the process.
pub async fn pass(point: Point) -> Result<()> {
    match SWITCH.get() {
        None => Ok(()),
        Some(switch) => switch.obey(point).await,
    }
}

struct Switch {
    directory: PathBuf,
    /// Held while an order is read and counted.
    turn: Mutex<()>,
}

impl Switch {
    async fn obey(&self, point: Point) -> Result<()> {
        match self.pass(point) {
            None => Ok(()),
            Some(Action::Fail) => Err(Error::medium(format!("fault point {}", point.file_name()), "ordered to fail")),
            Some(Action::Block) => {
                self.block(point).await;
                Ok(())
            }
            Some(Action::Panic) => panic!("fault point {}: ordered to panic", point.file_name()),
            Some(Action::Kill) => {
                // Nothing of ours runs after it, so there is no error to tell.
                let _ = kill(Pid::this(), Signal::SIGKILL);
                std::future::pending().await
            }
        }
    }

    async fn block(&self, point: Point) {
        let (order, reached) = (self.path(point), self.directory.join(point.reached_name()));
        report(point, std::fs::write(&reached, ""));
        while order.exists() {
            tokio::time::sleep(BLOCK_STEP).await;
        }
        // Several may have been blocked here.
        let _ = std::fs::remove_file(reached);
    }

    fn pass(&self, point: Point) -> Option<Action> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(point);
        let order: Order = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(order) => order,
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "an order of a fault is not one");
                    return None;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                report(point, Err(error));
                return None;
            }
        };
        let (action, rest) = order.count();
        if rest.is_spent() {
            report(point, std::fs::remove_file(&path));
        } else if rest != order {
            report(point, store(&path, rest));
        }
        if let Some(action) = action {
            tracing::warn!(point = point.file_name(), ?action, "a fault as ordered");
        }
        action
    }

    fn path(&self, point: Point) -> PathBuf {
        self.directory.join(point.file_name())
    }
}

/// Puts an order in place as a whole.
pub fn store(path: &Path, order: Order) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&order)?)?;
    std::fs::rename(new, path)
}

fn report(point: Point, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(point = point.file_name(), %error, "the order of a fault could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> (tempfile::TempDir, Switch) {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch { directory: directory.path().into(), turn: Mutex::new(()) };
        (directory, switch)
    }

    #[test]
    fn an_order_counts_who_passes_and_is_gone_when_it_was_carried_out() {
        let (_directory, switch) = switch();
        let point = Point::DiskFlush;
        assert_eq!(switch.pass(point), None);
        store(&switch.path(point), Order { action: Action::Fail, skip: 1, times: 2 }).unwrap();
        let passed: Vec<_> = (0..4).map(|_| switch.pass(point)).collect();
        assert_eq!(passed, [None, Some(Action::Fail), Some(Action::Fail), None]);
        assert!(!switch.path(point).exists());
        assert_eq!(switch.pass(Point::ReplicaWrite), None, "another point has orders of its own");
    }

    #[test]
    fn what_is_no_order_does_nothing() {
        let (_directory, switch) = switch();
        for text in ["", "fail", r#"{"action":"explode"}"#, r#"{"action":"fail","time":1}"#] {
            std::fs::write(switch.path(Point::DiskFlush), text).unwrap();
            assert_eq!(switch.pass(Point::DiskFlush), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_block_holds_until_its_file_is_removed() {
        let (_directory, switch) = switch();
        let point = Point::RestoreMarked;
        std::fs::write(switch.path(point), r#"{"action":"block"}"#).unwrap();
        let reached = switch.directory.join(point.reached_name());
        let lifted = async {
            while !reached.exists() {
                tokio::task::yield_now().await;
            }
            assert_eq!(switch.pass(point), None, "one was to be blocked, the next passes");
            std::fs::remove_file(switch.path(point)).unwrap();
        };
        let (passed, ()) = tokio::join!(switch.obey(point), lifted);
        assert!(passed.is_ok() && !reached.exists());
    }

    #[tokio::test]
    async fn a_failure_names_its_point() {
        let (_directory, switch) = switch();
        store(&switch.path(Point::RestoreProven), Order { action: Action::Fail, skip: 0, times: 1 }).unwrap();
        let error = switch.obey(Point::RestoreProven).await.unwrap_err();
        assert!(error.to_string().contains("restore-proven"), "{error}");
        assert!(switch.obey(Point::RestoreProven).await.is_ok(), "once was ordered");
    }
}
