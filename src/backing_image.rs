//! Backing images on disks of this node: read-only images that replicas stand on, made once for each disk.
//!
//! An image is a snapshot without a replica. It is written to a temporary head, read back, compared with its checksum, and
//! only then made a snapshot under its name ([`make`], [`store`]); what it is stays with it ([`record`]), so that a
//! restart finds it again ([`discover`]).
//!
//! - [`request`]: what an image is asked to be. [`view`]: an image as it is shown. `instance`: one image.
//! - `make`: from its source to its disk. `piece`: an image in pieces. `http`, `file`, `peer`,
//!   `remote`: its sources. `authorities`: who may certify them.
//! - `expose`: an image as the source of another node's. `verify`: an image read again.

mod authorities;
mod checksum;
mod discover;
mod expose;
mod file;
mod http;
mod instance;
mod make;
mod peer;
mod piece;
mod record;
mod remote;
pub mod request;
mod store;
mod verify;
pub mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::changes::Changes;
use crate::config::NodeConfig;
use crate::disk::Disks;
use crate::name::BackingImageName;
use crate::peer::Peers;
use crate::ports::Ports;
use crate::spdk::Control;
use crate::task::to_its_end;
use crate::telemetry::Events;
use crate::telemetry::events::ObjectKind;
use crate::{Error, Result};

use authorities::Authorities;
use instance::Image;

pub use authorities::require_authorities;
pub use checksum::ImageChecksum;
pub(crate) use record::{ImageRecord, Outcome, REPLICA};
pub(crate) use remote::RemoteImage;
pub use request::{ImageRequest, ImageSource};
pub use verify::VerifyProgress;
pub use view::{BackingImageState, BackingImageView, ImageLvol};

/// How often a creation may find an image that it is to replace.
const REPLACEMENTS: usize = 4;

/// An image is known by its name and the lvstore it is in.
type Key = (BackingImageName, Uuid);

/// All backing images of the node. Cheap to clone.
#[derive(Clone)]
pub struct BackingImages(Arc<Shared>);

struct Shared {
    control: Control,
    disks: Disks,
    ports: Ports,
    peers: Peers,
    data_ip: IpAddr,
    changes: Changes,
    events: Events,
    limits: ImageLimits,
    images: Mutex<BTreeMap<Key, Arc<Image>>>,
}

/// Limits of the making of images.
struct ImageLimits {
    /// Images that are made or read again at once; further ones wait.
    at_once: Semaphore,
    /// Reaching a source.
    connect: Duration,
    /// A source that gives nothing for so long has failed.
    stall: Duration,
    /// What is put in front of the path of a file.
    host_prefix: Option<PathBuf>,
    /// Who may certify a server that is downloaded from.
    authorities: Authorities,
}

impl BackingImages {
    /// Images on `disks`, which they must observe to be found again. Those of other nodes are reached by `peers`.
    pub fn new(
        control: Control,
        disks: Disks,
        ports: Ports,
        peers: Peers,
        config: &NodeConfig,
        events: Events,
    ) -> Self {
        let limits = ImageLimits {
            at_once: Semaphore::new(config.limits.backing_images.get()),
            connect: config.timeouts.attach,
            stall: config.timeouts.backing_image_stall,
            host_prefix: config.host_prefix.0.clone(),
            authorities: Authorities::of(config),
        };
        let (data_ip, changes, images) = (config.data_ip, Changes::new(), Mutex::default());
        Self(Arc::new(Shared { control, disks, ports, peers, data_ip, changes, events, limits, images }))
    }

    /// Announces every change of an image.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Begins to make an image and returns at once. One of the same name and lvstore is replaced when it is of another
    /// making; otherwise it is there already, whatever its state.
    pub async fn create(&self, request: ImageRequest) -> Result<Arc<BackingImageView>> {
        let images = self.clone();
        to_its_end("the creation of a backing image", async move { images.create_now(request).await }).await
    }

    async fn create_now(&self, request: ImageRequest) -> Result<Arc<BackingImageView>> {
        let disk = self.0.disks.ready_by_uuid(request.lvs_uuid)?;
        let record = ImageRecord {
            name: request.name.clone(),
            id: Some(request.id.clone()),
            checksum: Some(request.checksum.clone()),
            found: None,
            size: Some(request.size),
            outcome: None,
            error: String::new(),
        };
        for _ in 0..REPLACEMENTS {
            let known = {
                let mut images = self.images();
                let key = (request.name.clone(), request.lvs_uuid);
                match images.get(&key) {
                    Some(known) => known.clone(),
                    None => {
                        let tell = (self.0.changes.clone(), self.0.events.clone());
                        let image = Image::new(&self.0.control, &disk, &record, BackingImageState::Starting, tell);
                        let (name, message) = (request.name.clone(), format!("on disk {}", disk.name()));
                        // Before anybody can find it: who deletes it ends this too.
                        self.make(&image, request);
                        images.insert(key, image.clone());
                        drop(images);
                        self.0.events.tell(ObjectKind::BackingImage, &name, "created", message);
                        self.0.changes.announce();
                        return Ok(image.view());
                    }
                }
            };
            if known.view().id.as_ref() == Some(&request.id) {
                let detail = format!(" on disk {} in state {}", disk.name(), known.view().state.as_str());
                return Err(Error::AlreadyExists { kind: "backing image", name: request.name.to_string(), detail });
            }
            self.delete_now(&known).await?;
        }
        Err(Error::internal(format!("backing image {}", request.name), "it is created by others again and again"))
    }

    /// An image as it is.
    pub async fn get(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Result<Arc<BackingImageView>> {
        let image = self.known(name, lvs_uuid)?;
        image.refresh().await?;
        Ok(image.view())
    }

    /// All images, by name and lvstore.
    pub async fn list(&self) -> Result<Vec<Arc<BackingImageView>>> {
        let all: Vec<_> = self.images().values().cloned().collect();
        let mut views = Vec::with_capacity(all.len());
        for image in all {
            image.refresh().await?;
            views.push(image.view());
        }
        Ok(views)
    }

    /// Deletes an image, also one that is being made. An unknown one is no error. Refused, and nothing changed, while
    /// replicas stand on it.
    pub async fn delete(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Result<()> {
        let Some(image) = self.find(name, lvs_uuid) else { return Ok(()) };
        let images = self.clone();
        to_its_end("the deletion of a backing image", async move { images.delete_now(&image).await }).await
    }

    async fn delete_now(&self, image: &Arc<Image>) -> Result<()> {
        let mut turn = match image.turn().await {
            Ok(turn) => turn,
            // Deleted by another call meanwhile.
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        image.cancel_making().await?;
        let users = image.store.users().await?;
        if !users.is_empty() {
            let problem = format!("{} stand on it; delete them first", users.join(", "));
            return Err(Error::precondition(image.object(), problem));
        }
        self.take_down(image, &mut turn).await?;
        if let Err(error) = image.store.delete().await {
            image.show(|view| view.error = format!("it could not be deleted: {error}"));
            return Err(error);
        }
        turn.gone = true;
        drop(turn);
        self.forget(image);
        tracing::info!(image = %image.view().name, disk = %image.disk.name(), "a backing image is deleted");
        self.0.events.tell(
            ObjectKind::BackingImage,
            &image.view().name,
            "deleted",
            format!("on disk {}", image.disk.name()),
        );
        Ok(())
    }

    /// Calls all makings off and ends all exposures, as the node goes down. What is not whole is deleted at the next start.
    pub async fn stop_all(&self) {
        let all: Vec<_> = self.images().values().cloned().collect();
        for image in all {
            let stopped = async {
                let mut turn = image.turn().await?;
                image.cancel_making().await?;
                self.take_down(&image, &mut turn).await
            };
            match stopped.await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(image = %image.object(), %error, "a backing image could not be stopped"),
            }
        }
    }

    fn find(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Option<Arc<Image>> {
        self.images().get(&(name.clone(), lvs_uuid)).cloned()
    }

    fn known(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Result<Arc<Image>> {
        self.find(name, lvs_uuid)
            .ok_or_else(|| Error::not_found("backing image", format!("{name} in lvstore {lvs_uuid}")))
    }

    fn add_found(&self, image: Arc<Image>) {
        let view = image.view();
        self.0.events.tell(ObjectKind::BackingImage, &view.name, "found", format!("on disk {}", image.disk.name()));
        self.images().insert((view.name.clone(), view.lvs_uuid), image);
        self.0.changes.announce();
    }

    fn forget(&self, image: &Arc<Image>) {
        let view = image.view();
        let key = (view.name.clone(), view.lvs_uuid);
        let mut images = self.images();
        if images.get(&key).is_some_and(|known| Arc::ptr_eq(known, image)) {
            images.remove(&key);
        }
        drop(images);
        self.0.changes.announce();
    }

    fn on_disk(&self, lvs_uuid: Uuid) -> Vec<Arc<Image>> {
        self.images().values().filter(|image| image.view().lvs_uuid == lvs_uuid).cloned().collect()
    }

    fn control(&self) -> &Control {
        &self.0.control
    }

    fn ports(&self) -> &Ports {
        &self.0.ports
    }

    fn peers(&self) -> &Peers {
        &self.0.peers
    }

    fn data_ip(&self) -> IpAddr {
        self.0.data_ip
    }

    fn events(&self) -> &Events {
        &self.0.events
    }

    fn limits(&self) -> &ImageLimits {
        &self.0.limits
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Image>>> {
        // No code between two changes of the map can panic.
        self.0.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
