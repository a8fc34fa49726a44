//! Events: what happens on the node from now on, as a stream. A slow reader loses the oldest events and is told how many.

use futures::stream;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::until_stop::until_stop;
use crate::error::{Error, Result};
use crate::node::Stopping;
use crate::telemetry::Events;
use crate::telemetry::events::{Event, EventWatcher, ObjectKind, Told};
use crate::wire::corriente::v1 as own;

/// Starts the stream.
pub(super) fn start(
    events: &Events,
    request: &own::EventsRequest,
    stopping: &Stopping,
) -> Result<BoxStream<own::Event>> {
    let kinds = request.object_kinds.iter().map(|word| ObjectKind::parse(word)).collect::<std::result::Result<_, _>>();
    let kinds: Vec<_> = kinds.map_err(|problem| Error::invalid("object_kinds", problem))?;
    let messages = stream::unfold((events.watch(), kinds), next);
    Ok(until_stop(stopping, messages))
}

type State = (EventWatcher, Vec<ObjectKind>);

async fn next((mut watcher, kinds): State) -> Option<(std::result::Result<own::Event, Status>, State)> {
    loop {
        let message = match watcher.next().await? {
            Told::Event(event) if kinds.is_empty() || kinds.contains(&event.kind) => describe(&event),
            Told::Event(_) => continue,
            Told::Lost(count) => lost(count),
        };
        return Some((Ok(message), (watcher, kinds)));
    }
}

fn describe(event: &Event) -> own::Event {
    own::Event {
        sequence: event.sequence,
        unix_time_ms: event.unix_time_ms,
        object_kind: event.kind.as_str().into(),
        object_name: event.name.clone(),
        what: event.what.into(),
        message: event.message.clone(),
        lost_before: 0,
    }
}

/// Not an event of the node: only this reader is concerned.
fn lost(count: u64) -> own::Event {
    own::Event {
        unix_time_ms: jiff::Timestamp::now().as_millisecond(),
        object_kind: ObjectKind::Node.as_str().into(),
        what: "events-lost".into(),
        message: "this reader was too slow".into(),
        lost_before: count,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_kinds_are_left_out_and_lost_events_are_told_to_every_reader() {
        let events = Events::new(4);
        let mut state = (events.watch(), vec![ObjectKind::Disk]);
        for index in 0..8 {
            let kind = if index % 2 == 0 { ObjectKind::Disk } else { ObjectKind::Engine };
            events.tell(kind, index, "created", "");
        }
        let mut told = Vec::new();
        for _ in 0..3 {
            let (message, next_state) = next(state).await.expect("the events live");
            state = next_state;
            told.push(message.expect("no error"));
        }
        let shown: Vec<_> = told
            .iter()
            .map(|event| (event.object_kind.as_str(), event.object_name.as_str(), event.lost_before))
            .collect();
        assert_eq!(shown, [("node", "", 4), ("disk", "4", 0), ("disk", "6", 0)]);
    }
}
