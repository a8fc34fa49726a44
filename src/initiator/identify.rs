//! What Identify answers, parsed: the controller, a namespace, its identifiers.
//!
//! Layouts: NVM Express Base Specification 1.4, "Identify command".

use uuid::Uuid;

use super::{
    fields::{le16, le32, le64},
    pdu::Violation,
};

/// The length of every Identify structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// What we need to know of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerIdentity {
    /// MDTS: the largest transfer is the smallest page size times 2 to this; 0 for no limit.
    pub transfer_exponent: u8,
    /// OAES: the asynchronous events that it can report.
    pub async_events: u32,
    /// ONCS: Dataset Management is supported.
    pub deallocates: bool,
    /// ONCS: Write Zeroes is supported.
    pub writes_zeroes: bool,
    /// How much data a command capsule of an I/O queue may carry, in bytes.
    pub in_capsule_bytes: usize,
}

impl ControllerIdentity {
    /// Reads an Identify Controller structure.
    pub fn parse(page: &[u8; IDENTIFY_BYTES]) -> Self {
        const ENTRY_BYTES: u64 = 64;
        // IOCCSZ counts the entry too, in units of 16 bytes; a discovery controller has zero, since it has no I/O queues.
        let in_capsule = (u64::from(le32(page, 1792)) * 16).saturating_sub(ENTRY_BYTES);
        // With an offset (ICDOFF) the data would not follow the entry. No target uses one; without in-capsule data it
        // need not be known.
        let data_offset = le16(page, 1800);
        let optional = le16(page, 520);
        Self {
            transfer_exponent: page[77],
            async_events: le32(page, 92),
            deallocates: optional & 1 << 2 != 0,
            writes_zeroes: optional & 1 << 3 != 0,
            in_capsule_bytes: if data_offset == 0 { in_capsule as usize } else { 0 },
        }
    }
}

/// A namespace, as the target described it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its number within the subsystem.
    pub nsid: u32,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Logical blocks.
    pub block_count: u64,
    /// NGUID; all zero if it has none.
    pub nguid: [u8; 16],
    /// UUID, if it has one.
    pub uuid: Option<Uuid>,
}

impl NamespaceInfo {
    /// The namespace's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.block_count * u64::from(self.block_size)
    }

    /// Reads an Identify Namespace structure.
    pub fn parse(nsid: u32, page: &[u8; IDENTIFY_BYTES], uuid: Option<Uuid>) -> Result<Self, Violation> {
        let wrong = |field, problem| Err(Violation::new("Identify Namespace", field, problem));
        let block_count = le64(page, 0);
        let (formats, format) = (page[25].min(15), page[26] & 0xF);
        if format > formats {
            return wrong("FLBAS", format!("format {format}, the last one is {formats}"));
        }
        let at = 128 + usize::from(format) * 4;
        let (metadata, exponent) = (le16(page, at), page[at + 2]);
        if metadata != 0 {
            return wrong(
                "LBAF.MS",
                format!("{metadata} bytes of metadata a block; only blocks without are supported"),
            );
        }
        if !(9..=16).contains(&exponent) {
            return wrong("LBAF.LBADS", format!("blocks of 2^{exponent} bytes; supported are 2^9 to 2^16"));
        }
        if block_count.checked_shl(exponent.into()).is_none_or(|bytes| bytes >> exponent != block_count) {
            return wrong("NSZE", format!("{block_count} blocks of 2^{exponent} bytes are more than 2^64 bytes"));
        }
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&page[104..120]);
        Ok(Self { nsid, block_size: 1 << exponent, block_count, nguid, uuid })
    }
}

/// The active namespaces of a list, ascending.
pub fn active_namespaces(page: &[u8; IDENTIFY_BYTES]) -> Vec<u32> {
    page.chunks_exact(4).map(|entry| le32(entry, 0)).take_while(|nsid| *nsid != 0).collect()
}

/// The UUID among a namespace's identification descriptors.
pub fn descriptor_uuid(page: &[u8; IDENTIFY_BYTES]) -> Option<Uuid> {
    const KIND_UUID: u8 = 3;
    let mut rest = page.as_slice();
    while let [kind, length, _, _, body @ ..] = rest {
        let length = usize::from(*length);
        if length == 0 {
            break;
        }
        if *kind == KIND_UUID {
            return body.get(..length).and_then(|bytes| Uuid::from_slice(bytes).ok());
        }
        rest = body.get(length..).unwrap_or_default();
    }
    None
}
