//! Submission queue entries, one constructor a command, and completion queue entries.
//!
//! Layouts: NVM Express Base Specification 1.4, NVMe over Fabrics 1.1.

use super::fields::{le16, le64};
use super::status::Status;

/// Identify: which structure (CNS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identify {
    /// One namespace.
    Namespace = 0x00,
    /// The controller.
    Controller = 0x01,
    /// Identifiers of the active namespaces above the given one.
    ActiveNamespaces = 0x02,
    /// A namespace's EUI-64, NGUID and UUID.
    NamespaceDescriptors = 0x03,
}

/// Controller properties (registers) that are read or written over fabrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// CAP, 8 bytes.
    Capabilities = 0x00,
    /// CC, 4 bytes.
    Configuration = 0x14,
    /// CSTS, 4 bytes.
    Status = 0x1C,
}

/// How a command's data travel, for its SGL descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// In the command's capsule: this many bytes.
    InCapsule(u32),
    /// In data PDUs, either direction: this many bytes, or none.
    Transport(u32),
}

/// Opcodes and constants of the fields used here.
mod wire {
    pub const FABRICS: u8 = 0x7F;
    pub const FABRICS_PROPERTY_SET: u8 = 0x00;
    pub const FABRICS_CONNECT: u8 = 0x01;
    pub const FABRICS_PROPERTY_GET: u8 = 0x04;
    pub const ADMIN_GET_LOG_PAGE: u8 = 0x02;
    pub const ADMIN_IDENTIFY: u8 = 0x06;
    pub const ADMIN_SET_FEATURES: u8 = 0x09;
    pub const ADMIN_ASYNC_EVENT_REQUEST: u8 = 0x0C;
    pub const ADMIN_KEEP_ALIVE: u8 = 0x18;
    pub const IO_FLUSH: u8 = 0x00;
    pub const IO_WRITE: u8 = 0x01;
    pub const IO_READ: u8 = 0x02;
    pub const IO_WRITE_ZEROES: u8 = 0x08;
    pub const IO_DATASET_MANAGEMENT: u8 = 0x09;
    /// PSDT: SGLs are used.
    pub const FLAGS_SGL: u8 = 0x40;
    /// SGL data block descriptor, address is an offset in the capsule.
    pub const SGL_IN_CAPSULE: u8 = 0x01;
    /// SGL transport data block descriptor.
    pub const SGL_TRANSPORT: u8 = 0x5A;
}

/// A submission queue entry in the making: all but its command identifier and SGL descriptor.
#[derive(Debug, Clone)]
pub struct Command {
    name: &'static str,
    entry: [u8; 64],
}

impl Command {
    fn new(name: &'static str, opcode: u8, nsid: u32) -> Self {
        let mut entry = [0; 64];
        entry[0] = opcode;
        entry[1] = wire::FLAGS_SGL;
        entry[4..8].copy_from_slice(&nsid.to_le_bytes());
        Self { name, entry }
    }

    fn fabrics(name: &'static str, kind: u8) -> Self {
        Self::new(name, wire::FABRICS, u32::from(kind))
    }

    fn put(mut self, at: usize, value: &[u8]) -> Self {
        self.entry[at..at + value.len()].copy_from_slice(value);
        self
    }

    /// Command dword `number`, 10 to 15.
    fn dword(self, number: usize, value: u32) -> Self {
        self.put(number * 4, &value.to_le_bytes())
    }

    /// Fabrics Connect: queue 0 is the admin queue; `entries` is the queue's size, `keep_alive_ms` 0 for none.
    pub fn connect(queue: u16, entries: u16, keep_alive_ms: u32) -> Self {
        Self::fabrics("Connect", wire::FABRICS_CONNECT)
            .put(42, &queue.to_le_bytes())
            .put(44, &entries.saturating_sub(1).to_le_bytes())
            .put(48, &keep_alive_ms.to_le_bytes())
    }

    /// Fabrics Property Get.
    pub fn property_get(property: Property) -> Self {
        let size_code = if property == Property::Capabilities { 1 } else { 0 };
        Self::fabrics("Property Get", wire::FABRICS_PROPERTY_GET)
            .put(40, &[size_code])
            .put(44, &(property as u32).to_le_bytes())
    }

    /// Fabrics Property Set of a 4-byte property.
    pub fn property_set(property: Property, value: u32) -> Self {
        Self::fabrics("Property Set", wire::FABRICS_PROPERTY_SET)
            .put(44, &(property as u32).to_le_bytes())
            .put(48, &value.to_le_bytes())
    }

    /// Identify; the answer has 4096 bytes.
    pub fn identify(what: Identify, nsid: u32) -> Self {
        let name = match what {
            Identify::Namespace => "Identify Namespace",
            Identify::Controller => "Identify Controller",
            Identify::ActiveNamespaces => "Identify Active Namespaces",
            Identify::NamespaceDescriptors => "Identify Namespace Descriptors",
        };
        Self::new(name, wire::ADMIN_IDENTIFY, nsid).dword(10, what as u32)
    }

    /// Get Log Page: `length` bytes, a multiple of 4, from `offset`. Reading a page re-arms its asynchronous event.
    pub fn get_log_page(page: u8, offset: u64, length: u32) -> Self {
        let dwords = (length / 4).saturating_sub(1);
        Self::new("Get Log Page", wire::ADMIN_GET_LOG_PAGE, 0)
            .dword(10, u32::from(page) | dwords << 16)
            .dword(11, dwords >> 16)
            .put(48, &offset.to_le_bytes())
    }

    /// Set Features.
    pub fn set_features(feature: u8, value: u32) -> Self {
        Self::new("Set Features", wire::ADMIN_SET_FEATURES, 0).dword(10, u32::from(feature)).dword(11, value)
    }

    /// Asynchronous Event Request; it completes when there is something to tell.
    pub fn async_event_request() -> Self {
        Self::new("Asynchronous Event Request", wire::ADMIN_ASYNC_EVENT_REQUEST, 0)
    }

    /// Keep Alive.
    pub fn keep_alive() -> Self {
        Self::new("Keep Alive", wire::ADMIN_KEEP_ALIVE, 0)
    }

    /// Flush: what was written before is durable when it completes.
    pub fn flush(nsid: u32) -> Self {
        Self::new("Flush", wire::IO_FLUSH, nsid)
    }

    /// Read of 1 to 65536 blocks.
    pub fn read(nsid: u32, first_block: u64, blocks: u32) -> Self {
        Self::new("Read", wire::IO_READ, nsid).range(first_block, blocks)
    }

    /// Write of 1 to 65536 blocks.
    pub fn write(nsid: u32, first_block: u64, blocks: u32) -> Self {
        Self::new("Write", wire::IO_WRITE, nsid).range(first_block, blocks)
    }

    /// Write Zeroes over 1 to 65536 blocks.
    pub fn write_zeroes(nsid: u32, first_block: u64, blocks: u32) -> Self {
        Self::new("Write Zeroes", wire::IO_WRITE_ZEROES, nsid).range(first_block, blocks)
    }

    /// Dataset Management, deallocate; its data are 1 to 256 ranges made by [`deallocate_range`].
    pub fn deallocate(nsid: u32, ranges: u32) -> Self {
        const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
        Self::new("Dataset Management", wire::IO_DATASET_MANAGEMENT, nsid)
            .dword(10, ranges.saturating_sub(1) & 0xFF)
            .dword(11, ATTRIBUTE_DEALLOCATE)
    }

    fn range(self, first_block: u64, blocks: u32) -> Self {
        self.put(40, &first_block.to_le_bytes()).dword(12, blocks.saturating_sub(1) & 0xFFFF)
    }

    /// The command's name in the specification.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is of the Fabrics set; the data of those must be in the capsule.
    pub fn is_fabrics(&self) -> bool {
        self.entry[0] == wire::FABRICS
    }

    /// The finished entry.
    pub fn entry(&self, command_id: u16, transfer: Transfer) -> [u8; 64] {
        let (descriptor, length) = match transfer {
            Transfer::InCapsule(length) => (wire::SGL_IN_CAPSULE, length),
            Transfer::Transport(length) => (wire::SGL_TRANSPORT, length),
        };
        let mut entry = self.entry;
        entry[2..4].copy_from_slice(&command_id.to_le_bytes());
        entry[32..36].copy_from_slice(&length.to_le_bytes());
        entry[39] = descriptor;
        entry
    }
}

/// One range of a deallocation, as the command's data have it.
pub fn deallocate_range(first_block: u64, blocks: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..16].copy_from_slice(&first_block.to_le_bytes());
    range
}

/// The data of Fabrics Connect: who connects to what. `controller` is 0xFFFF on the admin queue.
pub fn connect_data(host_id: [u8; 16], controller: u16, nqn: &str, host_nqn: &str) -> Vec<u8> {
    let mut data = vec![0; 1024];
    data[..16].copy_from_slice(&host_id);
    data[16..18].copy_from_slice(&controller.to_le_bytes());
    data[256..256 + nqn.len()].copy_from_slice(nqn.as_bytes());
    data[512..512 + host_nqn.len()].copy_from_slice(host_nqn.as_bytes());
    data
}

/// A completion queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Which command.
    pub command_id: u16,
    /// Dwords 0 and 1: the command's own result.
    pub result: u64,
    /// How it ended.
    pub status: Status,
}

impl Completion {
    /// Reads an entry.
    pub fn decode(entry: &[u8; 16]) -> Self {
        Self { command_id: le16(entry, 12), result: le64(entry, 0), status: Status::from_wire(le16(entry, 14)) }
    }

    /// The completion that C2HData with the SUCCESS flag stands for.
    pub fn implied_success(command_id: u16) -> Self {
        Self { command_id, result: 0, status: Status::from_wire(0) }
    }
}
