//! Lock files and who goes first (§10).

use std::time::{Duration, SystemTime};

use serde::de::MapAccess;

use super::error::FormatError;
use super::json::{self, Fields, ObjectWriter};

/// How old a lock file's last write may be before nobody heeds it any more.
pub const LOCK_LIFE: Duration = Duration::from_secs(150);

/// What a lock protects. Different types exclude each other, equal ones never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockType(pub i64);

impl LockType {
    /// Creating and restoring backups.
    pub const BACKUP: Self = Self(1);
    /// Deleting a backup or a volume.
    pub const DELETE: Self = Self(2);
}

/// The content of a `.lck` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    /// `lock-` and 16 hexadecimal digits.
    pub name: String,
    /// What it protects.
    pub kind: LockType,
    /// Whether its owner has seen that nobody goes first.
    pub acquired: bool,
}

impl LockFile {
    /// Parses a file; missing keys are the zero values.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let raw: RawLock = json::parse(bytes)?;
        Ok(Self { name: raw.name, kind: LockType(raw.kind), acquired: raw.acquired })
    }

    /// The bytes that Longhorn would write.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut object = ObjectWriter::new();
        object.string("Name", &self.name);
        object.raw("Type", &self.kind.0.to_string());
        object.raw("Acquired", if self.acquired { "true" } else { "false" });
        object.into_text().into_bytes()
    }
}

#[derive(Default)]
struct RawLock {
    name: String,
    kind: i64,
    acquired: bool,
}

impl Fields for RawLock {
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => json::scalar(&mut self.name, map),
            "type" => json::scalar(&mut self.kind, map),
            "acquired" => json::scalar(&mut self.acquired, map),
            _ => json::skip(map),
        }
    }
}

/// A lock file as it lies in the store: its content and the store's time of its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLock {
    /// Its content.
    pub file: LockFile,
    /// By the store's clock.
    pub modified: SystemTime,
}

impl StoredLock {
    /// Whether nobody heeds it any more; a time in the future is not expired.
    fn is_expired(&self, now: SystemTime) -> bool {
        now.duration_since(self.modified).is_ok_and(|age| age > LOCK_LIFE)
    }

    /// Ascending: acquired ones first, then the longest unwritten, then by name.
    fn rank(&self) -> (bool, SystemTime, &str) {
        (!self.file.acquired, self.modified, &self.file.name)
    }
}

/// The lock that `mine` must give way to, if there is one.
pub fn blocking<'a>(mine: &StoredLock, others: &'a [StoredLock], now: SystemTime) -> Option<&'a StoredLock> {
    others
        .iter()
        .filter(|other| other.file.kind != mine.file.kind && !other.is_expired(now))
        .find(|other| other.rank() < mine.rank())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, kind: LockType, acquired: bool, seconds: u64) -> StoredLock {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        StoredLock { file: LockFile { name: name.into(), kind, acquired }, modified }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn content_is_as_longhorn_writes_it() {
        let text = br#"{"Name":"lock-67be94b357f04316","Type":1,"Acquired":true}"#;
        let file = LockFile::parse(text).unwrap();
        assert_eq!(file.to_bytes(), text);
        assert_eq!(LockFile::parse(b"{}").unwrap().kind, LockType(0));
    }

    #[test]
    fn only_other_types_that_rank_before_block() {
        let mine = lock("lock-m", LockType::BACKUP, false, 1000);
        let blocks = |other| blocking(&mine, std::slice::from_ref(&other), at(1002)).is_some();
        assert!(!blocks(lock("lock-a", LockType::BACKUP, true, 900)));
        assert!(blocks(lock("lock-z", LockType::DELETE, true, 1001)));
        assert!(blocks(lock("lock-z", LockType::DELETE, false, 999)));
        assert!(!blocks(lock("lock-z", LockType::DELETE, false, 1001)));
        assert!(blocks(lock("lock-a", LockType::DELETE, false, 1000)));
        assert!(!blocks(lock("lock-z", LockType::DELETE, false, 1000)));
        assert!(blocks(lock("lock-a", LockType(0), true, 1000)));
    }

    #[test]
    fn an_expired_lock_blocks_nobody_and_one_from_the_future_does() {
        let mine = lock("lock-m", LockType::BACKUP, false, 1000);
        let other = [lock("lock-a", LockType::DELETE, true, 850)];
        assert!(blocking(&mine, &other, at(1000)).is_some());
        assert!(blocking(&mine, &other, at(1001)).is_none());
        let future = [lock("lock-a", LockType::DELETE, true, 5000)];
        assert!(blocking(&mine, &future, at(1001)).is_some());
    }
}
