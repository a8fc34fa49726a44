//! `corriente volume import`, `export` and `checksum`: through the volume's NVMe/TCP target, as any host would, with
//! no kernel driver in between.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::HumanBytes;
use serde::Serialize;
use uuid::Uuid;

use super::super::Context;
use super::super::exit::{Exit, Failure};
use super::super::output::fields;
use super::super::wait::byte_bar;
use super::data::{self, Imported, Volume};
use super::find_engine;
use super::image::{Image, ImageFormat, Scratch, qemu_img_convert};
use crate::initiator::{Initiator, InitiatorError, Options};
use crate::name::{HostPort, Nqn, VolumeName};
use crate::wire::spdkrpc::Engine;

pub(super) const IMPORT_EXAMPLES: &str = "\
Examples:
  corriente volume import v1 debian-12.qcow2
  corriente volume import v1 disk.img --format raw";

/// What to fill a volume with.
#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    /// The volume
    name: VolumeName,
    /// A raw or qcow2 image, at most as large as the volume; what is past its end becomes zeroes
    file: PathBuf,
    /// The image's format; looked up in its first bytes when not given
    #[arg(long)]
    format: Option<ImageFormat>,
}

/// Where a volume's bytes go.
#[derive(Debug, clap::Args)]
pub struct ExportOptions {
    /// The volume
    name: VolumeName,
    /// The file to make
    file: PathBuf,
    /// The file's format
    #[arg(long, default_value = "raw")]
    format: ImageFormat,
    /// Replace the file when it exists
    #[arg(long)]
    force: bool,
}

/// A volume that a target serves.
struct Served(Initiator);

impl Served {
    /// Connects to the target of a volume's engine.
    async fn connect(engine: &Engine, volume: &VolumeName) -> Result<Self, Failure> {
        let Some(address) = target_of(engine) else {
            let problem = format!("volume {volume} has no NVMe/TCP target; its frontend is {:?}", engine.frontend);
            return Err(Failure::new(Exit::Precondition, problem));
        };
        let host = format!("nqn.2014-08.org.nvmexpress:uuid:{}", Uuid::new_v4());
        let host = Nqn::parse(&host).map_err(|error| Failure::failed(format!("our host's name {error}")))?;
        Ok(Self(Initiator::connect(address.socket(), &Nqn::volume(volume), &host, Options::default()).await?))
    }

    async fn disconnect(self) -> Result<(), Failure> {
        Ok(self.0.disconnect().await?)
    }
}

impl Volume for Served {
    fn size_bytes(&self) -> u64 {
        self.0.namespace().size_bytes()
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let mut data = vec![0; length];
        self.0.read(offset, &mut data).await?;
        Ok(data)
    }

    async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write(offset, data).await?)
    }

    /// A target without the command is written to instead.
    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Failure> {
        match self.0.write_zeroes(offset, length).await {
            Err(InitiatorError::Unsupported { .. }) => self.write(offset, &vec![0; length as usize]).await,
            outcome => Ok(outcome?),
        }
    }

    async fn flush(&self) -> Result<(), Failure> {
        Ok(self.0.flush().await?)
    }
}

impl From<InitiatorError> for Failure {
    fn from(error: InitiatorError) -> Self {
        let exit = match &error {
            InitiatorError::Argument { .. } => Exit::Usage,
            InitiatorError::Refused { .. }
            | InitiatorError::PeerClosed { .. }
            | InitiatorError::Terminated { .. }
            | InitiatorError::Timeout { .. }
            | InitiatorError::Disconnected { .. } => Exit::Unavailable,
            InitiatorError::Protocol { .. } | InitiatorError::Status { .. } | InitiatorError::Unsupported { .. } => {
                Exit::Failed
            }
        };
        Failure::new(exit, error.to_string())
    }
}

/// Where an engine's NVMe/TCP target answers, when it has one.
pub fn target_of(engine: &Engine) -> Option<HostPort> {
    let is_tcp = engine.frontend.starts_with("spdk-tcp");
    is_tcp.then(|| HostPort::parse(&format!("{}:{}", engine.ip, engine.port)).ok()).flatten()
}

/// Nothing was ever written into the volume, so that it reads as zeroes.
fn is_blank(engine: &Engine) -> bool {
    engine.snapshots.is_empty() && engine.head.as_ref().is_some_and(|head| head.actual_size == 0)
}

#[derive(Serialize)]
struct ImportReport {
    volume: String,
    #[serde(flatten)]
    imported: Imported,
    seconds: f64,
}

/// Fills a volume with an image.
pub async fn import(options: ImportOptions, context: &Context) -> Result<(), Failure> {
    let engine = find_engine(&context.server().await?, &options.name).await?;
    let volume = Served::connect(&engine, &options.name).await?;
    let image = Image::open(&options.file, options.format).await?;
    let begun = Instant::now();
    let bar = byte_bar("import", volume.size_bytes());
    let imported = data::import(&volume, &image, is_blank(&engine), &bar).await?;
    bar.finish_and_clear();
    volume.disconnect().await?;
    let report = ImportReport { volume: options.name.to_string(), imported, seconds: begun.elapsed().as_secs_f64() };
    context.printer.show(&report, |report| {
        fields([
            ("volume", report.volume.clone()),
            ("written", HumanBytes(report.imported.written_bytes).to_string()),
            ("zeroes", HumanBytes(report.imported.zero_bytes).to_string()),
            ("seconds", format!("{:.1}", report.seconds)),
        ])
    })
}

#[derive(Serialize)]
struct ExportReport {
    volume: String,
    file: PathBuf,
    bytes: u64,
}

/// Copies a volume into a file, which appears under its name only when it is whole.
pub async fn export(options: ExportOptions, context: &Context) -> Result<(), Failure> {
    if !options.force && options.file.exists() {
        let problem = format!("{} exists; --force replaces it", options.file.display());
        return Err(Failure::new(Exit::Exists, problem));
    }
    let engine = find_engine(&context.server().await?, &options.name).await?;
    let volume = Served::connect(&engine, &options.name).await?;
    let bytes = volume.size_bytes();

    let raw = Scratch::beside(&options.file);
    let file = OpenOptions::new().write(true).create_new(true).open(&raw.0);
    let file = file.map_err(|error| Failure::failed(format!("{}: {error}", raw.0.display())))?;
    let bar = byte_bar("export", bytes);
    data::export(&volume, file, &bar).await?;
    bar.finish_and_clear();
    volume.disconnect().await?;

    let whole = match options.format {
        ImageFormat::Raw => raw,
        ImageFormat::Qcow2 => {
            let converted = Scratch::beside(&options.file);
            qemu_img_convert((&raw.0, "raw"), (&converted.0, "qcow2")).await?;
            converted
        }
    };
    std::fs::rename(&whole.0, &options.file)?;
    let report = ExportReport { volume: options.name.to_string(), file: options.file, bytes };
    context.printer.show(&report, |report| {
        fields([
            ("volume", report.volume.clone()),
            ("file", report.file.display().to_string()),
            ("size", HumanBytes(report.bytes).to_string()),
        ])
    })
}

/// The SHA-256 of what a host reads from a volume.
pub async fn checksum(engine: &Engine, volume: &VolumeName) -> Result<String, Failure> {
    let served = Served::connect(engine, volume).await?;
    let bar = byte_bar("checksum", served.size_bytes());
    let digest = data::checksum(&served, &bar).await?;
    bar.finish_and_clear();
    served.disconnect().await?;
    Ok(digest)
}
