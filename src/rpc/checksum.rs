//! VolumeChecksum: a checksum in the background, its progress and its result as a stream. It ends when nobody listens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::until_stop::until_stop;
use crate::engine::checksum::{Checksum, ChecksumProgress, VolumeDigests};
use crate::engine::instance::Engine;
use crate::error::{Error, Result};
use crate::node::Stopping;
use crate::wire::corriente::v1 as own;
use crate::wire::corriente::v1::volume_checksum_response::Step;

const ALGORITHM: &str = "sha256";
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Messages that wait for the client; progress that finds no place is left out.
const MESSAGES: usize = 4;

type Message = std::result::Result<own::VolumeChecksumResponse, Status>;

/// Starts it, or says why not.
pub(super) fn start(
    engine: &Arc<Engine>,
    request: &own::VolumeChecksumRequest,
    stopping: &Stopping,
) -> Result<BoxStream<own::VolumeChecksumResponse>> {
    if !["", ALGORITHM].contains(&request.algorithm.as_str()) {
        return Err(Error::invalid("algorithm", format!("{:?} is not {ALGORITHM:?}", request.algorithm)));
    }
    let checksum = engine.checksum(request.members)?;
    let (messages, receiver) = mpsc::channel(MESSAGES);
    tokio::spawn(follow(engine.clone(), checksum, messages));
    Ok(until_stop(stopping, ReceiverStream::new(receiver)))
}

async fn follow(engine: Arc<Engine>, checksum: Checksum, messages: mpsc::Sender<Message>) {
    let progress = ChecksumProgress::default();
    let outcome = tokio::select! {
        outcome = checksum.run(&progress) => outcome,
        () = tell_progress(&progress, &messages) => return,
        () = messages.closed() => {
            tracing::info!(engine = %engine.name, volume = %engine.volume, "a checksum was called off: nobody listens any more");
            return;
        }
    };
    // The client may have gone away, which is its own affair.
    let _ = match outcome {
        Ok(digests) => messages.send(Ok(step(Step::Result(describe(digests))))).await,
        Err(error) => messages.send(Err(error.into())).await,
    };
}

async fn tell_progress(progress: &ChecksumProgress, messages: &mpsc::Sender<Message>) {
    let mut told = None;
    loop {
        let now =
            own::VolumeChecksumProgress { done_bytes: progress.done_bytes(), total_bytes: progress.total_bytes() };
        if now.total_bytes > 0
            && told.as_ref() != Some(&now)
            && messages.try_send(Ok(step(Step::Progress(now)))).is_ok()
        {
            told = Some(now);
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
}

fn step(step: Step) -> own::VolumeChecksumResponse {
    own::VolumeChecksumResponse { step: Some(step) }
}

fn describe(digests: VolumeDigests) -> own::VolumeChecksumResult {
    let equal = digests.equal();
    let member = |(replica, digest): (crate::name::ReplicaName, Result<String>)| {
        let (digest, error) = match digest {
            Ok(digest) => (digest, String::new()),
            Err(error) => (String::new(), error.to_string()),
        };
        own::MemberChecksum { replica_name: replica.to_string(), digest, error }
    };
    own::VolumeChecksumResult {
        algorithm: ALGORITHM.into(),
        members: digests.members.into_iter().map(member).collect(),
        equal,
        digest: digests.mirror,
    }
}
