//! The discovery log page: which subsystems a target offers.
//!
//! Layout: NVMe over Fabrics 1.1, "Discovery Log Page".

use super::{
    command::Command,
    controller::Controller,
    error::{InitiatorError, Result},
    fields::{le16, le64},
    inflight::Payload,
    pdu::Violation,
};

/// The well-known subsystem that answers discovery.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

const LOG_DISCOVERY: u8 = 0x70;
/// Header and entries have this length each.
const RECORD_BYTES: usize = 1024;
/// More records than this are not read.
const RECORD_LIMIT: u64 = 4096;
/// How often the page is read anew when it changes meanwhile.
const ATTEMPTS: usize = 3;

/// One path to a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// TRTYPE: 1 RDMA, 2 Fibre Channel, 3 TCP.
    pub transport: u8,
    /// SUBTYPE: 1 referral to another discovery service, 2 NVM subsystem, 3 this discovery service.
    pub kind: u8,
    /// PORTID.
    pub port_id: u16,
    /// The subsystem's NQN.
    pub nqn: String,
    /// TRADDR: for TCP an IP address.
    pub address: String,
    /// TRSVCID: for TCP a port number.
    pub service: String,
}

impl DiscoveryEntry {
    fn parse(record: &[u8]) -> Self {
        Self {
            transport: record[0],
            kind: record[2],
            port_id: le16(record, 4),
            service: text(&record[32..64]),
            nqn: text(&record[256..512]),
            address: text(&record[512..768]),
        }
    }
}

/// A text padded with NULs or blanks.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_end().into()
}

/// Reads the whole page in one state of the target.
pub(super) async fn read(controller: &Controller) -> Result<Vec<DiscoveryEntry>> {
    for _ in 0..ATTEMPTS {
        let (generation, records) = header(controller).await?;
        let mut entries = Vec::new();
        for index in 1..=records {
            let record = page(controller, index * RECORD_BYTES as u64).await?;
            entries.push(DiscoveryEntry::parse(&record));
        }
        if header(controller).await?.0 == generation {
            return Ok(entries);
        }
    }
    let problem = format!("its discovery log changed during each of {ATTEMPTS} attempts to read it");
    Err(InitiatorError::Unsupported { peer: controller.peer.clone(), problem })
}

/// GENCTR and NUMREC.
async fn header(controller: &Controller) -> Result<(u64, u64)> {
    let header = page(controller, 0).await?;
    let records = le64(&header, 8);
    if records > RECORD_LIMIT {
        let violation =
            Violation::new("Discovery Log Page", "NUMREC", format!("{records}, at most {RECORD_LIMIT} are read"));
        return Err(InitiatorError::protocol(&controller.peer, violation));
    }
    Ok((le64(&header, 0), records))
}

async fn page(controller: &Controller, offset: u64) -> Result<Vec<u8>> {
    let command = Command::get_log_page(LOG_DISCOVERY, offset, RECORD_BYTES as u32);
    Ok(controller.admin.submit(command, Payload::In(RECORD_BYTES)).await?.data)
}
