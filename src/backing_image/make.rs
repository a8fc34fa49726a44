//! The making of an image, in the background: copied into its temporary head, read back and compared with its checksum,
//! then made what it is for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::SHA512;

use super::checksum::ImageChecksum;
use super::http::HttpLimits;
use super::instance::{Image, Making};
use super::piece::{self, Pieces};
use super::record::Outcome;
use super::request::{ImageRequest, ImageSource};
use super::view::BackingImageState;
use super::{BackingImages, file, http};
use crate::backup::Cancel;
use crate::digest::digest_device;
use crate::disk::host_path;
use crate::faults::{self, Point};
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// How far a making is: each byte counts once when it is copied and once when it is read back.
struct Progress<'a> {
    image: &'a Image,
    done: AtomicU64,
    total: u64,
}

impl Progress<'_> {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // At most 99: what is left is to make it durable.
        let percent = (done.min(self.total) * 99 / self.total.max(1)) as u8;
        if self.image.view().progress < percent {
            self.image.show(|view| view.progress = view.progress.max(percent));
        }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl BackingImages {
    /// Makes an image in the background.
    pub(super) fn make(&self, image: &Arc<Image>, request: ImageRequest) {
        let (cancel, cancelled) = Cancel::pair();
        let task = tokio::spawn(self.clone().make_and_note(image.clone(), request, cancelled));
        *image.making() = Some(Making { cancel, task });
    }

    async fn make_and_note(self, image: Arc<Image>, request: ImageRequest, cancel: Cancel) {
        let made = self.make_now(&image, &request, &cancel).await;
        if cancel.is_cancelled() {
            // Whoever cancels deletes what there is, or the node goes down and its next start does.
            return tracing::info!(image = %request.name, "the making of a backing image is called off");
        }
        let (outcome, error) = match &made {
            Ok(()) => (Outcome::Ready, String::new()),
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        let finished = image.store.finish(&image.record(Some(outcome), error)).await;
        let (lvol, error) = match (made, finished) {
            (Ok(()), Ok(lvol)) => (Some(lvol), None),
            (Ok(()), Err(error)) => (None, Some(error)),
            (Err(error), Ok(lvol)) => (Some(lvol), Some(error)),
            (Err(error), Err(lost)) => {
                tracing::warn!(image = %request.name, disk = %image.disk.name(), %lost,
                    "that a backing image could not be made is not on the disk; its next start deletes what there is");
                (None, Some(error))
            }
        };
        match &error {
            None => {
                tracing::info!(image = %request.name, disk = %image.disk.name(), size = request.size, "a backing image is ready")
            }
            Some(error) => {
                tracing::error!(image = %request.name, disk = %image.disk.name(), %error, "a backing image failed")
            }
        }
        image.show(|view| {
            view.lvol = lvol.as_ref().map(super::store::shown);
            view.error = error.as_ref().map(ToString::to_string).unwrap_or_default();
            view.state = if error.is_none() { BackingImageState::Ready } else { BackingImageState::Failed };
            view.progress = if error.is_none() { 100 } else { view.progress };
        });
    }

    /// Up to the point where all bytes are durable in the temporary head and what they must be.
    async fn make_now(&self, image: &Arc<Image>, request: &ImageRequest, cancel: &Cancel) -> Result<()> {
        let _hold = image.disk.hold(format!("backing image {} is being made", request.name))?;
        let _turn = unless(cancel, async {
            self.limits().at_once.acquire().await.map_err(|_| Error::internal(image.object(), "no turn comes"))
        })
        .await?;
        tracing::info!(image = %request.name, disk = %image.disk.name(), size = request.size, source = %request.source,
            "a backing image is being made");
        image.show(|view| view.state = BackingImageState::InProgress);
        image.store.begin(&image.record(None, String::new()), request.size).await?;
        faults::pass(Point::ImageBegun).await?;
        let device = BdevClient::open(self.control(), image.store.temp_head().bdev(), true).await?;
        let progress = Progress { image, done: AtomicU64::new(0), total: request.size.saturating_mul(2) };
        let copy = Copy { device: &device, progress: &progress, stall: self.limits().stall, cancel };
        if let Err(error) = self.copy(request, &copy).await {
            return Err(image.disk.explain(error, "the image").await);
        }
        image.disk.flush().await?;
        faults::pass(Point::ImageCopied).await?;
        let digest = unless(cancel, digest_device(&device, request.size, &SHA512, |bytes| progress.add(bytes))).await?;
        let found = ImageChecksum::of(digest.as_ref());
        image.show(|view| view.found = Some(found.clone()));
        if found != request.checksum {
            let problem = format!("its SHA-512 is {found}, and should be {}", request.checksum);
            return Err(Error::Corruption { object: image.object(), problem });
        }
        faults::pass(Point::ImageVerified).await
    }

    async fn copy(&self, request: &ImageRequest, copy: &Copy<'_>) -> Result<()> {
        match &request.source {
            ImageSource::Http(url) => {
                let limits = HttpLimits { connect: self.limits().connect, stall: copy.stall };
                let authorities = self.limits().authorities.read()?;
                let pieces = unless(copy.cancel, http::open(url, request.size, limits, authorities)).await?;
                copy.run(pieces, request).await
            }
            ImageSource::File(path) => {
                let path = host_path(self.limits().host_prefix.as_ref(), path);
                copy.run(file::open(path, request.size).await?, request).await
            }
            ImageSource::Peer { node, lvs_uuid } => {
                let source = self.open_peer(request, *node, *lvs_uuid).await?;
                let copied = match piece::of_device(source.bdev(), request.size) {
                    Ok(pieces) => copy.run(pieces, request).await,
                    Err(error) => Err(error),
                };
                // Whatever came of it: nothing of another node may be left attached.
                source.close(copied.is_ok()).await;
                copied
            }
        }
    }
}

/// Where the pieces of an image go, and what can end that.
struct Copy<'a> {
    device: &'a BdevClient,
    progress: &'a Progress<'a>,
    stall: Duration,
    cancel: &'a Cancel,
}

impl Copy<'_> {
    /// Copies all pieces.
    async fn run(&self, pieces: Pieces<'_>, request: &ImageRequest) -> Result<()> {
        let copy = piece::write_all(self.device, pieces, |bytes| self.progress.add(bytes));
        tokio::select! {
            copied = unless(self.cancel, copy) => copied,
            error = self.stalled(request) => Err(error),
        }
    }

    /// Ends when nothing came for the limit.
    async fn stalled(&self, request: &ImageRequest) -> Error {
        loop {
            let before = self.progress.done();
            tokio::time::sleep(self.stall).await;
            if self.progress.done() == before {
                let what = format!("a piece of backing image {} from {}", request.name, request.source);
                return Error::Timeout { what, limit: self.stall };
            }
        }
    }
}

/// Work that a cancel ends.
async fn unless<T>(cancel: &Cancel, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = cancel.cancelled() => Err(Error::Canceled { what: "the making of a backing image".into() }),
    }
}
