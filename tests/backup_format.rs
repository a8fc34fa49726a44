//! The backup store against Longhorn's golden fixtures, against injected failures, and against a model.

#[path = "backup_format/create_failures.rs"]
mod create_failures;
#[path = "backup_format/differential.rs"]
mod differential;
#[path = "backup_format/fixtures.rs"]
mod fixtures;
#[path = "backup_format/golden.rs"]
mod golden;
#[path = "backup_format/image.rs"]
mod image;
#[path = "backup_format/inspect.rs"]
mod inspect;
#[path = "backup_format/memory.rs"]
mod memory;
#[path = "backup_format/replay.rs"]
mod replay;
#[path = "backup_format/restore_failures.rs"]
mod restore_failures;
#[path = "backup_format/scene.rs"]
mod scene;
