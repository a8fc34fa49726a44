//! Streams to watchers: they end by themselves when the node begins to stop, so that it need not wait for a watcher.

use futures::{Stream, StreamExt, stream};
use tonic::Status;
use tonic::codegen::BoxStream;

use crate::node::Stopping;

/// The same stream, which ends with UNAVAILABLE when the node begins to stop.
pub(super) fn until_stop<T: Send + 'static>(
    stopping: &Stopping,
    items: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<T> {
    let stop = Box::pin(stopping.wait());
    let state = Some((Box::pin(items), stop));
    Box::pin(stream::unfold(state, |state| async move {
        let (mut items, mut stop) = state?;
        tokio::select! {
            biased;
            () = &mut stop => Some((Err(Status::unavailable("the node is stopping")), None)),
            item = items.next() => item.map(|item| (item, Some((items, stop)))),
        }
    }))
}
