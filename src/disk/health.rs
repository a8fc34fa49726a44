//! The health of an NVMe disk: its SMART log page and its names, as the controller answers them. Parsing is pure.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Disk;
use super::request::DiskDriver;
use crate::spdk::bdev::{AdminRead, OpenBdev};
use crate::spdk::{Control, DmaBuffer, SpdkError};
use crate::{Error, Result};

/// Identify, CNS 1: the controller (NVMe base specification 2.0, §5.17.2.1).
const IDENTIFY_CONTROLLER: AdminRead = AdminRead { opcode: 0x06, namespace: 0, dword_10: 1 };
const IDENTIFY_LENGTH: usize = 4096;
/// Get Log Page 0x02 of the controller, 512 bytes (§5.16.1.3): the count in units of four bytes, less one.
const HEALTH_LOG: AdminRead =
    AdminRead { opcode: 0x02, namespace: u32::MAX, dword_10: 0x02 | ((HEALTH_LENGTH as u32 / 4 - 1) << 16) };
const HEALTH_LENGTH: usize = 512;

/// What a controller says of itself. Counters that do not fit are shown as the largest number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskHealth {
    /// The model, without trailing blanks, like the next two.
    pub model: String,
    /// The serial number.
    pub serial: String,
    /// The firmware's revision.
    pub firmware: String,
    /// Where the controller is: its PCI address.
    pub address: String,
    /// The numbers of the log page.
    pub log: HealthLog,
}

/// The SMART / Health Information log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthLog {
    /// A bit for each thing that is wrong; 0 means nothing is.
    pub critical_warning: u8,
    /// Degrees Celsius; `None` when the controller tells none that can be (below 0, above 255).
    pub temperature: Option<u8>,
    /// Percent of spare capacity left.
    pub available_spare: u8,
    /// The percentage below which that is a warning.
    pub available_spare_threshold: u8,
    /// Percent of the device's life that is used; may exceed 100.
    pub percentage_used: u8,
    /// Thousands of 512-byte units read.
    pub data_units_read: u64,
    /// Thousands of 512-byte units written.
    pub data_units_written: u64,
    /// Read commands completed.
    pub host_reads: u64,
    /// Write commands completed.
    pub host_writes: u64,
    /// Minutes with I/O.
    pub busy_minutes: u64,
    /// Power cycles.
    pub power_cycles: u64,
    /// Hours with power.
    pub power_on_hours: u64,
    /// Losses of power without a shutdown.
    pub unsafe_shutdowns: u64,
    /// Errors of data integrity.
    pub media_errors: u64,
    /// Entries of the error log over the controller's life.
    pub error_log_entries: u64,
    /// Minutes above the warning temperature.
    pub warning_temperature_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_temperature_minutes: u32,
}

/// How long a controller may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

impl Disk {
    /// Asks the controller. [`Error::Unimplemented`] of a disk that is not driven by nvme.
    pub async fn health(&self) -> Result<DiskHealth> {
        let inner = self.inner();
        if inner.driver != DiskDriver::Nvme {
            return Err(Error::Unimplemented {
                what: "the health of a disk that is not driven by nvme",
                reason: "another driver has it: ask smartctl on the node",
            });
        }
        let gone = || Error::precondition(format!("disk {}", self.name()), "it is being deleted");
        let bdev = inner.raw.upgrade().ok_or_else(gone)?;
        let asked = async {
            let identity = ask(&inner.control, &bdev, IDENTIFY_CONTROLLER, IDENTIFY_LENGTH).await?;
            let log = ask(&inner.control, &bdev, HEALTH_LOG, HEALTH_LENGTH).await?;
            Ok(DiskHealth::parse(&identity, &log, inner.id.clone()))
        };
        let late = |_| Error::Timeout { what: format!("disk {}: its health", self.name()), limit: LIMIT };
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }
}

async fn ask(control: &Control, bdev: &Arc<OpenBdev>, command: AdminRead, length: usize) -> Result<DmaBuffer> {
    let bdev = bdev.clone();
    let asked = control.run(move |on| async move {
        let channel = bdev.channel(on.thread())?;
        drop(bdev);
        channel.nvme_admin_read(command, DmaBuffer::zeroed(length)?).await
    });
    asked.await.map_err(|error: SpdkError| error.into())
}

impl DiskHealth {
    /// From an Identify Controller structure and a log page; what is missing of either reads as zero.
    fn parse(identity: &[u8], log: &[u8], address: String) -> Self {
        Self {
            serial: ascii(identity, 4, 20),
            model: ascii(identity, 24, 40),
            firmware: ascii(identity, 64, 8),
            address,
            log: HealthLog::parse(log),
        }
    }
}

impl HealthLog {
    /// From a log page; what is missing of it reads as zero.
    pub fn parse(page: &[u8]) -> Self {
        let kelvin = number(page, 1, 2);
        Self {
            critical_warning: number(page, 0, 1) as u8,
            temperature: kelvin.checked_sub(KELVIN).and_then(|celsius| u8::try_from(celsius).ok()),
            available_spare: number(page, 3, 1) as u8,
            available_spare_threshold: number(page, 4, 1) as u8,
            percentage_used: number(page, 5, 1) as u8,
            data_units_read: counter(page, 32),
            data_units_written: counter(page, 48),
            host_reads: counter(page, 64),
            host_writes: counter(page, 80),
            busy_minutes: counter(page, 96),
            power_cycles: counter(page, 112),
            power_on_hours: counter(page, 128),
            unsafe_shutdowns: counter(page, 144),
            media_errors: counter(page, 160),
            error_log_entries: counter(page, 176),
            warning_temperature_minutes: number(page, 192, 4) as u32,
            critical_temperature_minutes: number(page, 196, 4) as u32,
        }
    }
}

/// What 0 degrees Celsius is in whole kelvins, as the specification counts them.
const KELVIN: u128 = 273;

/// A little-endian number of `length` bytes, at most 16.
fn number(page: &[u8], at: usize, length: usize) -> u128 {
    let bytes = page.get(at..at + length).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

/// A counter of 16 bytes.
fn counter(page: &[u8], at: usize) -> u64 {
    u64::try_from(number(page, at, 16)).unwrap_or(u64::MAX)
}

/// A text that is padded with blanks; what is not printable is left out.
fn ascii(page: &[u8], at: usize, length: usize) -> String {
    let bytes = page.get(at..at + length).unwrap_or_default();
    let text: String = bytes.iter().filter(|byte| (0x20..0x7f).contains(*byte)).map(|byte| char::from(*byte)).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut page = vec![0; HEALTH_LENGTH];
        for (at, bytes) in fields {
            page[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        page
    }

    #[test]
    fn every_field_of_the_page_is_found_at_its_place() {
        let filled: Vec<u8> = (0..HEALTH_LENGTH).map(|at| (at / 16) as u8).collect();
        let log = HealthLog::parse(&filled);
        let counters = [
            log.data_units_read,
            log.data_units_written,
            log.host_reads,
            log.host_writes,
            log.busy_minutes,
            log.power_cycles,
            log.power_on_hours,
            log.unsafe_shutdowns,
            log.media_errors,
            log.error_log_entries,
        ];
        // Sixteen equal bytes are more than a counter holds.
        assert_eq!(counters, [u64::MAX; 10]);
        let one = |at: usize| HealthLog::parse(&page(&[(at, &[7])]));
        type Counter = (usize, fn(&HealthLog) -> u64);
        let counters: [Counter; 10] = [
            (32, |log| log.data_units_read),
            (48, |log| log.data_units_written),
            (64, |log| log.host_reads),
            (80, |log| log.host_writes),
            (96, |log| log.busy_minutes),
            (112, |log| log.power_cycles),
            (128, |log| log.power_on_hours),
            (144, |log| log.unsafe_shutdowns),
            (160, |log| log.media_errors),
            (176, |log| log.error_log_entries),
        ];
        for (at, field) in counters {
            assert_eq!(field(&one(at)), 7, "the counter at {at}");
        }
        assert_eq!(one(0).critical_warning, 7);
        assert_eq!((one(3).available_spare, one(4).available_spare_threshold, one(5).percentage_used), (7, 7, 7));
        assert_eq!((one(192).warning_temperature_minutes, one(196).critical_temperature_minutes), (7, 7));
        assert_eq!(HealthLog::parse(&page(&[(32, &[0, 1, 0, 0, 0, 0, 0, 1])])).data_units_read, (1 << 56) + 256);
    }

    #[test]
    fn a_temperature_that_cannot_be_is_none() {
        let at = |kelvin: u16| HealthLog::parse(&page(&[(1, &kelvin.to_le_bytes())])).temperature;
        assert_eq!([at(273), at(273 + 38), at(273 + 255)], [Some(0), Some(38), Some(255)]);
        assert_eq!([at(0), at(272), at(273 + 256), at(u16::MAX)], [None; 4]);
    }

    #[test]
    fn names_lose_their_padding_and_a_short_answer_is_no_harm() {
        let mut identity = vec![b' '; IDENTIFY_LENGTH];
        identity[4..9].copy_from_slice(b"S1234");
        identity[24..33].copy_from_slice(b"QEMU NVMe");
        identity[64..67].copy_from_slice(b"1.0");
        let health = DiskHealth::parse(&identity, &[], "0000:00:04.0".into());
        assert_eq!(
            (health.serial.as_str(), health.model.as_str(), health.firmware.as_str()),
            ("S1234", "QEMU NVMe", "1.0")
        );
        assert_eq!(health.log, HealthLog::default());
        assert_eq!(DiskHealth::parse(&[], &[], String::new()).model, "");
    }
}
