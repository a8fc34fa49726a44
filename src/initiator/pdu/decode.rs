//! From bytes to a [`Pdu`]: every length is checked before it is used, whoever sent it.

use super::{
    DataHeader, Digests, InitializeRequest, InitializeResponse, Pdu, PduKind, ReadyToTransfer, TERM_LIMIT_BYTES,
    Termination, Violation, digest::crc32c, flag,
};
use crate::initiator::fields::{le16, le32};

/// The length of the header common to all PDUs.
pub const PREAMBLE_BYTES: usize = 8;

/// The common header of a PDU, found consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    raw: [u8; PREAMBLE_BYTES],
    kind: PduKind,
    header_digest: bool,
    data_digest: bool,
    /// Where the data start, or where the PDU ends if it has none.
    data_offset: usize,
    data_length: u32,
}

impl Preamble {
    /// Reads the common header of a PDU on a connection with these digests.
    pub fn decode(raw: [u8; PREAMBLE_BYTES], digests: Digests) -> Result<Self, Violation> {
        let [number, flags, header_length, data_offset, ..] = raw;
        let total = le32(&raw, 4);
        let kind = PduKind::from_wire(number)
            .ok_or_else(|| Violation::new("common header", "PDU-Type", format!("{number:#04x} is not a type")))?;
        let wrong = |field, problem| Violation::new(kind.name(), field, problem);

        if usize::from(header_length) != kind.header_length() {
            return Err(wrong("HLEN", format!("{header_length}, must be {}", kind.header_length())));
        }
        let header_digest = kind.carries_digests() && digests.header;
        if kind.carries_digests() && (flags & flag::HEADER_DIGEST != 0) != header_digest {
            return Err(wrong(
                "FLAGS.HDGSTF",
                format!("{flags:#04x}, but the connection has header digest {header_digest}"),
            ));
        }
        let header_end = kind.header_length() + if header_digest { 4 } else { 0 };
        if (total as usize) < header_end {
            return Err(wrong("PLEN", format!("{total}, less than the header's {header_end}")));
        }

        let mut preamble =
            Self { raw, kind, header_digest, data_digest: false, data_offset: header_end, data_length: 0 };
        match kind {
            PduKind::H2CTermReq | PduKind::C2HTermReq => {
                if total > TERM_LIMIT_BYTES {
                    return Err(wrong("PLEN", format!("{total}, at most {TERM_LIMIT_BYTES} are allowed")));
                }
                preamble.data_length = total - header_end as u32;
            }
            PduKind::CapsuleCmd | PduKind::H2CData | PduKind::C2HData
                if (kind.is_data() || total as usize > header_end) =>
            {
                preamble.locate_data(usize::from(data_offset), total, digests)?;
            }
            _ if total as usize != header_end => {
                return Err(wrong("PLEN", format!("{total}, must be {header_end}")));
            }
            _ => {}
        }
        Ok(preamble)
    }

    fn locate_data(&mut self, data_offset: usize, total: u32, digests: Digests) -> Result<(), Violation> {
        let wrong = |field, problem| Err(Violation::new(self.kind.name(), field, problem));
        if data_offset < self.data_offset {
            return wrong("PDO", format!("{data_offset}, within the header of {}", self.data_offset));
        }
        let Some(behind) = total.checked_sub(data_offset as u32) else {
            return wrong("PDO", format!("{data_offset}, beyond the PDU's end at {total}"));
        };
        if behind > 0 && (self.raw[1] & flag::DATA_DIGEST != 0) != digests.data {
            return wrong(
                "FLAGS.DDGSTF",
                format!("{:#04x}, but the connection has data digest {}", self.raw[1], digests.data),
            );
        }
        self.data_digest = behind > 0 && digests.data;
        let Some(length) = behind.checked_sub(if self.data_digest { 4 } else { 0 }) else {
            return wrong("PLEN", format!("{total}, leaves no room for the data digest"));
        };
        self.data_offset = data_offset;
        self.data_length = length;
        Ok(())
    }

    /// How many bytes follow before the PDU's data: the rest of the header, its digest, padding. At most 255.
    pub fn rest(&self) -> usize {
        self.data_offset - PREAMBLE_BYTES
    }

    /// Whether a digest of four bytes follows the data.
    pub fn data_digest(&self) -> bool {
        self.data_digest
    }

    /// Reads the whole header; `rest` are the [`Self::rest`] bytes that followed the preamble.
    pub fn finish(&self, rest: &[u8]) -> Result<Pdu, Violation> {
        let header_length = self.kind.header_length();
        if rest.len() != self.rest() {
            let problem = format!("{} bytes of header follow, must be {}", rest.len(), self.rest());
            return Err(Violation::new(self.kind.name(), "HLEN", problem));
        }
        // No PDU has more before its data: an offset is one byte.
        let mut header = [0; u8::MAX as usize + PREAMBLE_BYTES];
        header[..PREAMBLE_BYTES].copy_from_slice(&self.raw);
        header[PREAMBLE_BYTES..PREAMBLE_BYTES + rest.len()].copy_from_slice(rest);
        let header = &header[..PREAMBLE_BYTES + rest.len()];
        if self.header_digest {
            let (found, computed) = (le32(header, header_length), crc32c(&header[..header_length]));
            if found != computed {
                let problem = format!("{found:#010x}, computed {computed:#010x}");
                return Err(Violation::new(self.kind.name(), "HDGST", problem));
            }
        }
        self.fields(header)
    }

    /// `header` has at least the kind's header length.
    fn fields(&self, header: &[u8]) -> Result<Pdu, Violation> {
        Ok(match self.kind {
            PduKind::IcReq => Pdu::IcReq(InitializeRequest {
                version: le16(header, 8),
                alignment: header[10],
                digests: digests_of(header[11]),
                max_r2t: le32(header, 12),
            }),
            PduKind::IcResp => Pdu::IcResp(InitializeResponse {
                version: le16(header, 8),
                alignment: header[10],
                digests: digests_of(header[11]),
                max_h2c_data: le32(header, 12),
            }),
            PduKind::H2CTermReq => Pdu::H2CTermReq(self.termination(header)),
            PduKind::C2HTermReq => Pdu::C2HTermReq(self.termination(header)),
            PduKind::CapsuleCmd => Pdu::CapsuleCmd { entry: copy(&header[8..72]), data_length: self.data_length },
            PduKind::CapsuleResp => Pdu::CapsuleResp { entry: copy(&header[8..24]) },
            PduKind::H2CData => Pdu::H2CData(self.data(header)?),
            PduKind::C2HData => Pdu::C2HData(self.data(header)?),
            PduKind::R2T => Pdu::R2T(ReadyToTransfer {
                command_id: le16(header, 8),
                tag: le16(header, 10),
                offset: le32(header, 12),
                length: le32(header, 16),
            }),
        })
    }

    fn termination(&self, header: &[u8]) -> Termination {
        Termination { status: le16(header, 8), information: le32(header, 10), data_length: self.data_length }
    }

    fn data(&self, header: &[u8]) -> Result<DataHeader, Violation> {
        let data = DataHeader {
            command_id: le16(header, 8),
            tag: le16(header, 10),
            offset: le32(header, 12),
            length: le32(header, 16),
            last: self.raw[1] & flag::LAST != 0,
            success: self.raw[1] & flag::SUCCESS != 0,
        };
        if data.length != self.data_length {
            let problem = format!("{}, but the PDU has room for {} bytes of data", data.length, self.data_length);
            return Err(Violation::new(self.kind.name(), "DATAL", problem));
        }
        Ok(data)
    }
}

fn digests_of(bits: u8) -> Digests {
    Digests { header: bits & flag::HEADER_DIGEST != 0, data: bits & flag::DATA_DIGEST != 0 }
}

/// A copy of a slice whose length is that of the array.
fn copy<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    let mut array = [0; LENGTH];
    array.copy_from_slice(bytes);
    array
}
