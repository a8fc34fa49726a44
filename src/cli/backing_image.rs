//! `corriente backing-image`: images on the disks of a node, which volumes may stand on.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::disk;
use super::exit::{Exit, Failure};
use super::output::{fields, size, table};
use super::wait::{Step, WaitOptions, follow};
use crate::config::ByteSize;
use crate::name::{BackingImageName, DiskName};
use crate::wire::corriente::v1::BackingImageVerifyRequest;
use crate::wire::spdkrpc::{
    BackingImage, BackingImageCreateRequest, BackingImageDeleteRequest, BackingImageGetRequest,
};

/// Verbs for backing images.
#[derive(Debug, Subcommand)]
pub enum BackingImageCommand {
    /// Make an image on a disk: from a URL, a file of the node, or another node that has it
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateOptions),
    /// Show an image
    Get(ImageOptions),
    /// Show all images of the node
    List,
    /// Delete an image; one that replicas stand on is kept
    Delete(ImageOptions),
    /// Let other nodes read an image; prints where
    Expose(ImageOptions),
    /// Let them read it no more, when the last has left
    Unexpose(ImageOptions),
    /// Read an image and compare it with its checksum
    Verify(ImageOptions),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  corriente backing-image create parrot --disk d1 --size 32MiB --checksum <SHA-512> --from https://host/parrot.raw --wait
  corriente backing-image create parrot --disk d1 --size 32MiB --checksum <SHA-512> --from file:///images/parrot.raw --wait
  corriente backing-image create parrot --disk d1 --size 32MiB --checksum <SHA-512> --from 10.0.0.8:8504 \\
    --source-lvs <UUID> --wait";

/// Which image.
#[derive(Debug, clap::Args)]
pub struct ImageOptions {
    /// The image
    name: BackingImageName,
    /// The disk it is on
    #[arg(long)]
    disk: DiskName,
}

/// What to make.
#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    #[command(flatten)]
    image: ImageOptions,
    /// Its exact size, as 33554432 or 32MiB
    #[arg(long)]
    size: ByteSize,
    /// Its SHA-512, 128 hexadecimal digits
    #[arg(long)]
    checksum: String,
    /// http://…, https://…, file:///… or the ip:port of another node's gRPC
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// The lvstore that has it on that node
    #[arg(long, value_name = "UUID", default_value = "")]
    source_lvs: String,
    /// Tells this making of the image from others of its name; made up when not given
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

/// Does it.
pub async fn run(command: BackingImageCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    match command {
        BackingImageCommand::Create(options) => {
            let image = create(&node, &options).await?;
            context.printer.show(&image, image_table)
        }
        BackingImageCommand::Get(options) => {
            let request = request(&node, &options).await?;
            context.printer.show(&node.spdk().backing_image_get(request).await?.into_inner(), image_table)
        }
        BackingImageCommand::List => {
            let found = node.spdk().backing_image_list(()).await?.into_inner().backing_images;
            context.printer.show(&found.into_values().collect::<Vec<_>>(), |images| list_table(images))
        }
        BackingImageCommand::Delete(options) => {
            let BackingImageGetRequest { name, lvs_uuid } = request(&node, &options).await?;
            node.spdk().backing_image_delete(BackingImageDeleteRequest { name, lvs_uuid }).await?;
            context.printer.done(&format!("backing image {} is deleted", options.name))
        }
        BackingImageCommand::Expose(options) => {
            let request = request(&node, &options).await?;
            let exposed = node.spdk().backing_image_expose(request).await?.into_inner();
            context
                .printer
                .show(&exposed, |exposed| fields([("address", exposed.exposed_snapshot_lvol_address.clone())]))
        }
        BackingImageCommand::Unexpose(options) => {
            let request = request(&node, &options).await?;
            node.spdk().backing_image_unexpose(request).await?;
            context.printer.done(&format!("backing image {} is exposed no more", options.name))
        }
        BackingImageCommand::Verify(options) => {
            let checksum = verify(&node, &options).await?;
            context.printer.done(&format!("backing image {} is what it should be: SHA-512 {checksum}", options.name))
        }
    }
}

async fn create(node: &Node, options: &CreateOptions) -> Result<BackingImage, Failure> {
    let found = request(node, &options.image).await?;
    let create = BackingImageCreateRequest {
        name: found.name.clone(),
        backing_image_uuid: options.id.clone().unwrap_or_else(|| format!("{:08x}", rand::random::<u32>())),
        lvs_uuid: found.lvs_uuid.clone(),
        size: options.size.bytes(),
        checksum: options.checksum.clone(),
        from_address: options.from.clone(),
        src_lvs_uuid: options.source_lvs.clone(),
    };
    let image = node.spdk().backing_image_create(create).await?.into_inner();
    if !options.wait.wait {
        return Ok(image);
    }
    follow(&format!("backing image {}", options.image.name), options.wait.wait_timeout, || async {
        let image = node.spdk().backing_image_get(found.clone()).await?.into_inner();
        match image.state.as_str() {
            "ready" => Ok(Step::Done(image)),
            "failed" => Err(Failure::new(Exit::Failed, format!("backing image {}: {}", image.name, image.error_msg))),
            _ => Ok(Step::Percent(u64::try_from(image.progress).unwrap_or(0))),
        }
    })
    .await
}

/// Follows the reading; nothing can be shown before it ends but how far it is, so a bar is enough.
async fn verify(node: &Node, options: &ImageOptions) -> Result<String, Failure> {
    let BackingImageGetRequest { name, lvs_uuid } = request(node, options).await?;
    let mut steps =
        node.corriente().backing_image_verify(BackingImageVerifyRequest { name, lvs_uuid }).await?.into_inner();
    let mut bar = None;
    while let Some(step) = steps.message().await? {
        if !step.checksum.is_empty() {
            return Ok(step.checksum);
        }
        let shown = bar.get_or_insert_with(|| super::wait::byte_bar("verification", step.total_bytes));
        shown.set_position(step.done_bytes);
    }
    Err(Failure::failed("the node ended the verification without a result"))
}

/// The wire knows an image by its lvstore's identity, a person by its disk's name.
async fn request(node: &Node, options: &ImageOptions) -> Result<BackingImageGetRequest, Failure> {
    let disks = disk::list(node).await?;
    let found = disks.iter().find(|disk| disk.name == options.disk.as_str());
    let Some(found) = found else {
        return Err(Failure::new(Exit::NotFound, format!("{} has no disk {}", node.address, options.disk)));
    };
    if found.uuid.is_empty() {
        let problem = format!("disk {} of {} is in state {}", options.disk, node.address, found.state);
        return Err(Failure::new(Exit::Precondition, problem));
    }
    Ok(BackingImageGetRequest { name: options.name.to_string(), lvs_uuid: found.uuid.clone() })
}

fn image_table(image: &BackingImage) -> Table {
    let actual = image.snapshot.as_ref().map(|lvol| size(lvol.actual_size)).unwrap_or_default();
    fields([
        ("name", image.name.clone()),
        ("state", image.state.clone()),
        ("error", image.error_msg.clone()),
        ("progress", format!("{}%", image.progress)),
        ("disk", image.lvs_name.clone()),
        ("lvstore", image.lvs_uuid.clone()),
        ("id", image.backing_image_uuid.clone()),
        ("size", size(image.size)),
        ("actual size", actual),
        ("checksum", image.current_checksum.clone()),
        ("expected checksum", image.expected_checksum.clone()),
    ])
}

fn list_table(images: &[BackingImage]) -> Table {
    let mut table = table(["NAME", "DISK", "STATE", "PROGRESS", "SIZE", "ERROR"]);
    for image in images {
        table.add_row([
            image.name.clone(),
            image.lvs_name.clone(),
            image.state.clone(),
            format!("{}%", image.progress),
            size(image.size),
            image.error_msg.clone(),
        ]);
    }
    table
}
