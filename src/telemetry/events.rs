//! What happens on a node, told to whoever watches, without ever waiting for one of them.
//!
//! All watchers read from one ring of a fixed length. One that is too slow loses the oldest events and is told how many.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// This node: what concerns a reader of its events alone.
    Node,
    /// A disk.
    Disk,
    /// A replica of this node.
    Replica,
    /// An engine of this node.
    Engine,
    /// A frontend of this node.
    Frontend,
    /// A replica as a member of the mirror of an engine of this node.
    Member,
    /// A restore into an engine; it has the engine's name.
    Restore,
    /// A backup that a replica of this node makes.
    Backup,
    /// A backing image on a disk of this node.
    BackingImage,
}

/// All kinds.
const KINDS: [ObjectKind; 9] = [
    ObjectKind::Node,
    ObjectKind::Disk,
    ObjectKind::Replica,
    ObjectKind::Engine,
    ObjectKind::Frontend,
    ObjectKind::Member,
    ObjectKind::Restore,
    ObjectKind::Backup,
    ObjectKind::BackingImage,
];

impl ObjectKind {
    /// The word of a kind, or the list of those there are.
    pub fn parse(word: &str) -> Result<Self, String> {
        KINDS.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
            let known = KINDS.map(Self::as_str).join(", ");
            format!("{word:?} is not one of {known}")
        })
    }

    /// Its word, which never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Disk => "disk",
            Self::Replica => "replica",
            Self::Engine => "engine",
            Self::Frontend => "frontend",
            Self::Member => "member",
            Self::Restore => "restore",
            Self::Backup => "backup",
            Self::BackingImage => "backing-image",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number since the node's start, from 1.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub unix_time_ms: i64,
    /// What kind of object it is about.
    pub kind: ObjectKind,
    /// Which object.
    pub name: String,
    /// A stable word for what happened.
    pub what: &'static str,
    /// The same for people.
    pub message: String,
}

/// Where events are told. All clones tell the same watchers.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    sender: broadcast::Sender<Arc<Event>>,
    /// The number of the last event; held while one is sent, so that the ring is in their order.
    last: Mutex<u64>,
}

impl Events {
    /// No event yet. At least `depth` events are kept for a slow watcher.
    pub fn new(depth: usize) -> Self {
        Self(Arc::new(Shared { sender: broadcast::Sender::new(depth.max(1)), last: Mutex::new(0) }))
    }

    /// Something happened. Never waits.
    pub fn tell(&self, kind: ObjectKind, name: impl fmt::Display, what: &'static str, message: impl Into<String>) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nothing between two changes of the number can panic.
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let event = Event {
            sequence: *last,
            unix_time_ms: i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX),
            kind,
            name: name.to_string(),
            what,
            message: message.into(),
        };
        // An error means that nobody watches.
        let _ = self.0.sender.send(Arc::new(event));
    }

    /// A watcher of all events from now on.
    pub fn watch(&self) -> EventWatcher {
        EventWatcher(self.0.sender.subscribe())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// Reads events.
#[derive(Debug)]
pub struct EventWatcher(broadcast::Receiver<Arc<Event>>);

/// What a watcher is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An event.
    Event(Arc<Event>),
    /// The watcher was too slow; so many events are lost.
    Lost(u64),
}

impl EventWatcher {
    /// Waits for the next event. `None` when nobody can tell one any more.
    pub async fn next(&mut self) -> Option<Told> {
        match self.0.recv().await {
            Ok(event) => Some(Told::Event(event)),
            Err(RecvError::Lagged(count)) => Some(Told::Lost(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_watcher_loses_the_oldest_and_is_told_how_many() {
        let events = Events::new(4);
        let mut watcher = events.watch();
        for index in 0..10 {
            events.tell(ObjectKind::Disk, index, "created", "");
        }
        assert_eq!(watcher.next().await, Some(Told::Lost(6)));
        for expected in 7..=10 {
            let Some(Told::Event(event)) = watcher.next().await else { panic!("an event is due") };
            assert_eq!((event.sequence, event.name.as_str()), (expected, (expected - 1).to_string().as_str()));
        }
        drop(events);
        assert_eq!(watcher.next().await, None);
    }

    #[test]
    fn a_kinds_word_is_its_own_and_others_are_refused() {
        for kind in KINDS {
            assert_eq!(ObjectKind::parse(kind.as_str()), Ok(kind));
        }
        for wrong in ["", "Disk", "volume"] {
            assert!(ObjectKind::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
