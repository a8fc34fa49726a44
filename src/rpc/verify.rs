//! BackingImageVerify: an image read again, its progress and its result as a stream. It ends when nobody listens.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::BoxStream;
use uuid::Uuid;

use super::until_stop::until_stop;
use crate::backing_image::{BackingImages, VerifyProgress};
use crate::error::{Error, Result};
use crate::name::BackingImageName;
use crate::node::Stopping;
use crate::wire::corriente::v1 as own;
use crate::wire::field::{backing_image_name, uuid};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Messages that wait for the client; progress that finds no place is left out.
const MESSAGES: usize = 4;

type Message = std::result::Result<own::BackingImageVerifyResponse, Status>;

/// Starts it, or says why not.
pub(super) async fn start(
    images: &BackingImages,
    request: &own::BackingImageVerifyRequest,
    stopping: &Stopping,
) -> Result<BoxStream<own::BackingImageVerifyResponse>> {
    let name = backing_image_name("name", &request.name)?;
    let lvs_uuid =
        uuid("lvs_uuid", &request.lvs_uuid)?.ok_or_else(|| Error::invalid("lvs_uuid", "must not be empty"))?;
    let total_bytes = images.get(&name, lvs_uuid).await?.size;
    let (messages, receiver) = mpsc::channel(MESSAGES);
    tokio::spawn(follow(images.clone(), (name, lvs_uuid), total_bytes, messages));
    Ok(until_stop(stopping, ReceiverStream::new(receiver)))
}

async fn follow(
    images: BackingImages,
    (name, lvs_uuid): (BackingImageName, Uuid),
    total_bytes: u64,
    messages: mpsc::Sender<Message>,
) {
    let progress = VerifyProgress::default();
    let outcome = tokio::select! {
        outcome = images.verify(&name, lvs_uuid, &progress) => outcome,
        () = tell_progress(&progress, total_bytes, &messages) => return,
        () = messages.closed() => {
            tracing::info!(image = %name, "a verification was called off: nobody listens any more");
            return;
        }
    };
    // The client may have gone away, which is its own affair.
    let _ = match outcome {
        Ok(found) => messages.send(Ok(response(total_bytes, total_bytes, found.to_string()))).await,
        Err(error) => messages.send(Err(error.into())).await,
    };
}

async fn tell_progress(progress: &VerifyProgress, total_bytes: u64, messages: &mpsc::Sender<Message>) {
    let mut told = None;
    loop {
        let done = progress.done_bytes();
        if told != Some(done) && messages.try_send(Ok(response(done, total_bytes, String::new()))).is_ok() {
            told = Some(done);
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
}

fn response(done_bytes: u64, total_bytes: u64, checksum: String) -> own::BackingImageVerifyResponse {
    own::BackingImageVerifyResponse { done_bytes, total_bytes, checksum }
}
