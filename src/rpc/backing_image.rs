//! Backing image calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use std::sync::Arc;

use uuid::Uuid;

use crate::backing_image::{BackingImageView, BackingImages, ImageChecksum, ImageLvol, ImageRequest, ImageSource};
use crate::name::BackingImageId;
use crate::name::spdk::backing_image_key;
use crate::wire::field::{backing_image_name, size, uuid};
use crate::wire::spdkrpc as wire;
use crate::{Error, Result};

/// BackingImageCreate.
pub async fn create(images: &BackingImages, request: wire::BackingImageCreateRequest) -> Result<wire::BackingImage> {
    Ok(message(&images.create(parse_create(&request)?).await?))
}

fn parse_create(request: &wire::BackingImageCreateRequest) -> Result<ImageRequest> {
    Ok(ImageRequest {
        name: backing_image_name("name", &request.name)?,
        id: BackingImageId::parse(&request.backing_image_uuid)
            .map_err(|error| Error::name("backing_image_uuid", error))?,
        lvs_uuid: lvstore(&request.lvs_uuid)?,
        size: size("size", request.size)?,
        checksum: ImageChecksum::parse(&request.checksum).map_err(|problem| Error::invalid("checksum", problem))?,
        source: ImageSource::parse(&request.from_address, uuid("src_lvs_uuid", &request.src_lvs_uuid)?)?,
    })
}

fn lvstore(text: &str) -> Result<Uuid> {
    uuid("lvs_uuid", text)?.ok_or_else(|| Error::invalid("lvs_uuid", "must not be empty"))
}

/// BackingImageGet.
pub async fn get(images: &BackingImages, request: wire::BackingImageGetRequest) -> Result<wire::BackingImage> {
    let (name, lvs_uuid) = (backing_image_name("name", &request.name)?, lvstore(&request.lvs_uuid)?);
    Ok(message(&images.get(&name, lvs_uuid).await?))
}

/// BackingImageList.
pub async fn list(images: &BackingImages) -> Result<wire::BackingImageListResponse> {
    let views = images.list().await?;
    let backing_images =
        views.iter().map(|view| (backing_image_key(&view.name, view.lvs_uuid), message(view))).collect();
    Ok(wire::BackingImageListResponse { backing_images })
}

/// BackingImageDelete.
pub async fn delete(images: &BackingImages, request: wire::BackingImageDeleteRequest) -> Result<()> {
    let (name, lvs_uuid) = (backing_image_name("name", &request.name)?, lvstore(&request.lvs_uuid)?);
    images.delete(&name, lvs_uuid).await
}

/// BackingImageExpose.
pub async fn expose(
    images: &BackingImages,
    request: wire::BackingImageGetRequest,
) -> Result<wire::BackingImageExposeResponse> {
    let (name, lvs_uuid) = (backing_image_name("name", &request.name)?, lvstore(&request.lvs_uuid)?);
    let address = images.expose(&name, lvs_uuid).await?;
    Ok(wire::BackingImageExposeResponse { exposed_snapshot_lvol_address: address.to_string() })
}

/// BackingImageUnexpose.
pub async fn unexpose(images: &BackingImages, request: wire::BackingImageGetRequest) -> Result<()> {
    let (name, lvs_uuid) = (backing_image_name("name", &request.name)?, lvstore(&request.lvs_uuid)?);
    images.unexpose(&name, lvs_uuid).await
}

/// An image as the wire has it.
fn message(view: &Arc<BackingImageView>) -> wire::BackingImage {
    let text = |checksum: &Option<ImageChecksum>| checksum.as_ref().map(ToString::to_string).unwrap_or_default();
    wire::BackingImage {
        name: view.name.to_string(),
        backing_image_uuid: view.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        lvs_name: view.lvs_name.to_string(),
        lvs_uuid: view.lvs_uuid.to_string(),
        size: view.size,
        expected_checksum: text(&view.checksum),
        snapshot: view.lvol.as_ref().map(lvol),
        progress: view.progress.into(),
        state: view.state.as_str().into(),
        current_checksum: text(&view.found),
        error_msg: view.error.clone(),
    }
}

fn lvol(lvol: &ImageLvol) -> wire::Lvol {
    wire::Lvol {
        name: lvol.name.to_string(),
        uuid: lvol.uuid.to_string(),
        spec_size: lvol.spec_size,
        actual_size: lvol.actual_size,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LVS: &str = "a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10";

    fn request() -> wire::BackingImageCreateRequest {
        wire::BackingImageCreateRequest {
            name: "parrot".into(),
            backing_image_uuid: "a1b2c3d4".into(),
            lvs_uuid: LVS.into(),
            size: 33554432,
            checksum: "0A".repeat(64),
            from_address: "10.0.0.1:8504".into(),
            src_lvs_uuid: LVS.into(),
        }
    }

    #[test]
    fn a_whole_request_is_taken() {
        let parsed = parse_create(&request()).unwrap();
        assert_eq!(parsed.checksum.as_str(), "0a".repeat(64));
        assert!(matches!(parsed.source, ImageSource::Peer { .. }));
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let field_of = |change: &dyn Fn(&mut wire::BackingImageCreateRequest)| {
            let mut request = request();
            change(&mut request);
            match parse_create(&request) {
                Err(Error::InvalidArgument { field, .. }) => field,
                other => panic!("{request:?} gave {other:?}"),
            }
        };
        for wrong in ["", " ", "a/b", "x-temp-head", &"a".repeat(300)] {
            assert_eq!(field_of(&|request| request.name = wrong.into()), "name", "{wrong:?}");
        }
        assert_eq!(field_of(&|request| request.backing_image_uuid.clear()), "backing_image_uuid");
        for wrong in ["", "x", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(field_of(&|request| request.lvs_uuid = wrong.into()), "lvs_uuid", "{wrong:?}");
        }
        for wrong in [0, u64::MAX] {
            assert_eq!(field_of(&|request| request.size = wrong), "size");
        }
        for wrong in ["", "0a"] {
            assert_eq!(field_of(&|request| request.checksum = wrong.into()), "checksum");
        }
        assert_eq!(field_of(&|request| request.from_address.clear()), "from_address");
        assert_eq!(field_of(&|request| request.src_lvs_uuid.clear()), "src_lvs_uuid");
        assert_eq!(field_of(&|request| request.src_lvs_uuid = "x".into()), "src_lvs_uuid");
    }
}
