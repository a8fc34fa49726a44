//! From a [`Pdu`] to the bytes that precede its data.

use super::{DataHeader, Digests, Pdu, digest::crc32c, flag};

/// How a sender lays out its PDUs on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The digests agreed on.
    pub digests: Digests,
    /// Where data start, a multiple of this many bytes from the start of the PDU; 4 to 128.
    pub alignment: usize,
}

impl Layout {
    /// The layout before the connection is initialised.
    pub const INITIAL: Self = Self { digests: Digests { header: false, data: false }, alignment: 4 };

    /// The layout for a receiver that announced `alignment` (CPDA or HPDA: units of 4 bytes, zero based).
    pub fn new(digests: Digests, alignment: u8) -> Self {
        Self { digests, alignment: (usize::from(alignment) + 1) * 4 }
    }
}

impl Pdu {
    /// The header with its digest and the padding up to the data. The data, and their digest if the layout has one,
    /// go on the wire right after.
    pub fn encode(&self, layout: &Layout) -> Vec<u8> {
        let kind = self.kind();
        let header_length = kind.header_length();
        let header_digest = kind.carries_digests() && layout.digests.header;
        let data_digest = kind.carries_digests() && layout.digests.data && self.data_length() > 0;

        let before_data = header_length + if header_digest { 4 } else { 0 };
        let has_data = self.data_length() > 0 || kind.is_data();
        let data_offset = match (has_data, kind.carries_digests()) {
            (true, true) => before_data.next_multiple_of(layout.alignment),
            _ => before_data,
        };
        let total = data_offset as u32 + self.data_length() + if data_digest { 4 } else { 0 };

        let mut bytes = vec![0; data_offset];
        bytes[0] = kind as u8;
        bytes[1] = self.flags() | digest_flags(header_digest, data_digest);
        bytes[2] = header_length as u8;
        bytes[3] = if has_data && kind.carries_digests() { data_offset as u8 } else { 0 };
        bytes[4..8].copy_from_slice(&total.to_le_bytes());
        self.encode_fields(&mut bytes);
        if header_digest {
            let crc = crc32c(&bytes[..header_length]);
            bytes[header_length..header_length + 4].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    fn flags(&self) -> u8 {
        match self {
            Self::H2CData(data) | Self::C2HData(data) => {
                let last = if data.last { flag::LAST } else { 0 };
                let success = if data.success { flag::SUCCESS } else { 0 };
                last | success
            }
            _ => 0,
        }
    }

    fn encode_fields(&self, bytes: &mut [u8]) {
        match self {
            Self::IcReq(request) => {
                put(bytes, 8, &request.version.to_le_bytes());
                bytes[10] = request.alignment;
                bytes[11] = digest_flags(request.digests.header, request.digests.data);
                put(bytes, 12, &request.max_r2t.to_le_bytes());
            }
            Self::IcResp(response) => {
                put(bytes, 8, &response.version.to_le_bytes());
                bytes[10] = response.alignment;
                bytes[11] = digest_flags(response.digests.header, response.digests.data);
                put(bytes, 12, &response.max_h2c_data.to_le_bytes());
            }
            Self::H2CTermReq(term) | Self::C2HTermReq(term) => {
                put(bytes, 8, &term.status.to_le_bytes());
                put(bytes, 10, &term.information.to_le_bytes());
            }
            Self::CapsuleCmd { entry, .. } => put(bytes, 8, entry),
            Self::CapsuleResp { entry } => put(bytes, 8, entry),
            Self::H2CData(data) | Self::C2HData(data) => encode_data(bytes, data),
            Self::R2T(ready) => {
                put(bytes, 8, &ready.command_id.to_le_bytes());
                put(bytes, 10, &ready.tag.to_le_bytes());
                put(bytes, 12, &ready.offset.to_le_bytes());
                put(bytes, 16, &ready.length.to_le_bytes());
            }
        }
    }
}

fn encode_data(bytes: &mut [u8], data: &DataHeader) {
    put(bytes, 8, &data.command_id.to_le_bytes());
    put(bytes, 10, &data.tag.to_le_bytes());
    put(bytes, 12, &data.offset.to_le_bytes());
    put(bytes, 16, &data.length.to_le_bytes());
}

fn digest_flags(header: bool, data: bool) -> u8 {
    (if header { flag::HEADER_DIGEST } else { 0 }) | (if data { flag::DATA_DIGEST } else { 0 })
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
