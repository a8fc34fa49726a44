//! An image of another node, open for reading while that node exposes it for us.

use std::time::Duration;

use uuid::Uuid;

use crate::name::{BackingImageName, HostPort, LvolName};
use crate::peer::Peer;
use crate::remote_bdev::RemoteBdev;
use crate::spdk::Control;
use crate::spdk::client::BdevClient;
use crate::wire::spdkrpc as wire;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use crate::{Error, Result};

const KIND: &str = "backing image";

/// The image. [`RemoteImage::close`] lets go of it; dropping it leaves it attached and exposed.
pub(crate) struct RemoteImage {
    remote: RemoteBdev,
    peer: Peer,
    name: BackingImageName,
    lvs_uuid: Uuid,
}

impl RemoteImage {
    /// How its node describes an image.
    pub(crate) async fn describe(peer: &Peer, name: &BackingImageName, lvs_uuid: Uuid) -> Result<wire::BackingImage> {
        let mut client = SpdkServiceClient::new(peer.channel());
        let call = client.backing_image_get(request(name, lvs_uuid));
        peer.answer_about("description", (KIND, name.as_str()), call).await
    }

    /// Has the node expose the image, and opens it within `limit`. After an error nothing of it is left.
    pub(crate) async fn open(
        control: &Control,
        peer: Peer,
        name: &BackingImageName,
        lvs_uuid: Uuid,
        limit: Duration,
    ) -> Result<Self> {
        let mut client = SpdkServiceClient::new(peer.channel());
        let call = client.backing_image_expose(request(name, lvs_uuid));
        let exposed = peer.answer_about("exposure", (KIND, name.as_str()), call).await?;
        let opened = match HostPort::parse(&exposed.exposed_snapshot_lvol_address) {
            Ok(address) => {
                let (what, lvol) = (format!("{KIND} {name}"), LvolName::backing_image(name, lvs_uuid));
                RemoteBdev::open(control, &what, &lvol, address, false, limit).await
            }
            Err(error) => Err(Error::peer(peer.title(), format!("the address of the exposed image {error}"))),
        };
        match opened {
            Ok(remote) => Ok(Self { remote, peer, name: name.clone(), lvs_uuid }),
            Err(error) => {
                unexpose(&peer, name, lvs_uuid).await;
                Err(error)
            }
        }
    }

    /// The bdev.
    pub(crate) fn bdev(&self) -> &BdevClient {
        self.remote.bdev()
    }

    /// Lets go of it, and tells its node that it need not be exposed for us any more. Without `orderly` I/O in flight is
    /// aborted.
    pub(crate) async fn close(self, orderly: bool) {
        self.remote.close(orderly).await;
        unexpose(&self.peer, &self.name, self.lvs_uuid).await;
    }
}

fn request(name: &BackingImageName, lvs_uuid: Uuid) -> wire::BackingImageGetRequest {
    wire::BackingImageGetRequest { name: name.to_string(), lvs_uuid: lvs_uuid.to_string() }
}

/// It costs the node a port if it fails, and the next copy from there takes it back.
async fn unexpose(peer: &Peer, name: &BackingImageName, lvs_uuid: Uuid) {
    let mut client = SpdkServiceClient::new(peer.channel());
    let call = client.backing_image_unexpose(request(name, lvs_uuid));
    if let Err(error) = peer.answer_about("end of the exposure", (KIND, name.as_str()), call).await {
        tracing::warn!(image = %name, node = %peer.title(), %error, "a backing image is left exposed");
    }
}
