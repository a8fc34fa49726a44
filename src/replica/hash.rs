//! Hashes of snapshots.

/// What is known of a snapshot's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashStatus {
    /// How far it is.
    pub phase: HashPhase,
    /// The checksum as last read, decimal; empty when there is none.
    pub checksum: String,
    /// Why hashing failed; empty when it did not.
    pub error: String,
    /// The snapshot, which cannot change, reads differently from when it was hashed first.
    pub silently_corrupted: bool,
}

/// Where hashing a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashPhase {
    /// It was never asked for, or was cancelled.
    None,
    /// It waits for its turn.
    Starting,
    /// Clusters are being read.
    InProgress,
    /// The checksum is known, and durable.
    Complete,
    /// It failed.
    Error,
}

impl HashPhase {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "starting",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }

    /// From the wire's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Starting, Self::InProgress, Self::Complete, Self::Error]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }
}
