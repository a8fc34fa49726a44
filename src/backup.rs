//! Longhorn's backup store: its format, where it lives, and how volumes get into it and out of it again.
//!
//! Reading order:
//! - [`format`]: what the files say. Pure: bytes in, types out, and back.
//! - [`url`]: how a backup, a volume and a target are named on the wire.
//! - [`target`]: where the files are (a directory today).
//! - [`plan`]: which blocks a backup or a restore has to move. Pure.
//! - [`lock`]: how several nodes agree not to delete what another one reads.
//! - [`store`]: a volume of a target, its cfg files read as types.
//! - [`create`] and [`restore`]: the pipelines that move the blocks, over traits that say nothing of SPDK.
//! - [`inspect`]: what is there, for people and managers.
//!
//! Facts and limits quoted as §n are those of the fact sheet `backupstore-format`.
#![forbid(unsafe_code)]

pub mod cancel;
pub mod create;
pub mod format;
pub mod inspect;
pub mod lock;
pub mod plan;
mod pool;
pub mod progress;
pub mod restore;
pub mod settings;
pub mod store;
pub mod target;
pub mod url;

pub use cancel::{Cancel, CancelHandle};
pub use create::{BackupJob, BackupReport, BackupRequest, BackupSource};
pub use format::backup_config::BackupConfig;
pub use format::block::{BackupBlock, BlockList, BlockSize, ByteOffset};
pub use format::compression::CompressionMethod;
pub use format::digest::Digest;
pub use format::labels::{BackupLabels, BackupMode, BackupParameters};
pub use format::volume_config::VolumeConfig;
pub use lock::{LockKind, VolumeLock};
pub use plan::changed::{ChangedMap, Extent};
pub use plan::restore::{RestoreOnto, RestorePlan};
pub use progress::Progress;
pub use restore::{RestoreReport, RestoreSink, restore};
pub use settings::{CreateSettings, LockSettings, RestoreSettings, RetrySettings};
pub use target::Target;
pub use url::{BackupUrl, TargetUrl};
