//! The PDUs of NVMe/TCP as values: what travels on the socket, both directions, without any I/O.
//!
//! Layouts: NVM Express TCP Transport Specification, "PDU definitions". The codec is symmetric, so that a test can play
//! the target's part with it. A reader takes [`PREAMBLE_BYTES`], makes a [`Preamble`] of them, reads
//! [`Preamble::rest`] more bytes and gets the [`Pdu`]; the PDU's data, if any, follow on the socket.

mod decode;
pub mod digest;
mod encode;

pub use decode::{PREAMBLE_BYTES, Preamble};
pub use encode::Layout;

/// What a peer sent that the specification forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pdu}, field {field}: {problem}")]
pub struct Violation {
    /// The PDU or structure, as the specification calls it.
    pub pdu: &'static str,
    /// Its field.
    pub field: &'static str,
    /// What is wrong with the field's value.
    pub problem: String,
}

impl Violation {
    /// A field with an impossible value.
    pub fn new(pdu: &'static str, field: &'static str, problem: impl Into<String>) -> Self {
        Self { pdu, field, problem: problem.into() }
    }
}

/// Which CRC32C digests a connection carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests {
    /// After each PDU's header.
    pub header: bool,
    /// After each PDU's data.
    pub data: bool,
}

/// The type of a PDU, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PduKind {
    /// Host asks to initialise the connection.
    IcReq = 0x00,
    /// Controller agrees.
    IcResp = 0x01,
    /// Host ends the connection.
    H2CTermReq = 0x02,
    /// Controller ends the connection.
    C2HTermReq = 0x03,
    /// Command capsule, with or without data.
    CapsuleCmd = 0x04,
    /// Response capsule.
    CapsuleResp = 0x05,
    /// Data from the host.
    H2CData = 0x06,
    /// Data from the controller.
    C2HData = 0x07,
    /// The controller is ready to receive data.
    R2T = 0x09,
}

/// The version of the PDU format that this code speaks (PFV).
pub const FORMAT_VERSION: u16 = 0;
/// The largest termination request, header and data together.
pub const TERM_LIMIT_BYTES: u32 = 152;

/// One PDU's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pdu {
    /// ICReq.
    IcReq(InitializeRequest),
    /// ICResp.
    IcResp(InitializeResponse),
    /// H2CTermReq.
    H2CTermReq(Termination),
    /// C2HTermReq.
    C2HTermReq(Termination),
    /// CapsuleCmd: the submission queue entry and how many bytes of data follow in the capsule.
    CapsuleCmd {
        /// The submission queue entry.
        entry: [u8; 64],
        /// Bytes of in-capsule data.
        data_length: u32,
    },
    /// CapsuleResp: the completion queue entry.
    CapsuleResp {
        /// The completion queue entry.
        entry: [u8; 16],
    },
    /// H2CData.
    H2CData(DataHeader),
    /// C2HData.
    C2HData(DataHeader),
    /// R2T.
    R2T(ReadyToTransfer),
}

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitializeRequest {
    /// PFV.
    pub version: u16,
    /// HPDA: alignment of data sent to the host, in units of 4 bytes, zero based.
    pub alignment: u8,
    /// The digests that the host wants.
    pub digests: Digests,
    /// MAXR2T: outstanding R2Ts that a command may have, zero based.
    pub max_r2t: u32,
}

/// What a controller grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitializeResponse {
    /// PFV.
    pub version: u16,
    /// CPDA: alignment of data sent to the controller, in units of 4 bytes, zero based.
    pub alignment: u8,
    /// The digests in use from now on.
    pub digests: Digests,
    /// MAXH2CDATA: the largest data of one H2CData PDU, in bytes.
    pub max_h2c_data: u32,
}

/// A fatal error that one side found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// FES: which error.
    pub status: u16,
    /// FEI: where in the PDU, by the kind of error.
    pub information: u32,
    /// Bytes of the erroneous PDU that follow.
    pub data_length: u32,
}

impl Termination {
    /// The fatal error status in words.
    pub fn text(&self) -> String {
        let words = match self.status {
            0x01 => "invalid PDU header field",
            0x02 => "PDU sequence error",
            0x03 => "header digest error",
            0x04 => "data transfer out of range",
            0x05 => "data or R2T limit exceeded",
            0x06 => "unsupported parameter",
            _ => "unknown fatal error",
        };
        format!("{words} (status {:#04x}, information {:#x})", self.status, self.information)
    }
}

/// A part of a command's data; the bytes follow the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// CCCID: the command.
    pub command_id: u16,
    /// TTAG of the R2T that is answered; zero towards the host.
    pub tag: u16,
    /// DATAO: where in the command's data this part starts, in bytes.
    pub offset: u32,
    /// DATAL: the length of this part, in bytes.
    pub length: u32,
    /// The last part of the transfer.
    pub last: bool,
    /// Towards the host: the command succeeded and no response capsule follows.
    pub success: bool,
}

/// The controller asks for a part of a command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// CCCID: the command.
    pub command_id: u16,
    /// TTAG: to be repeated in the data sent for this request.
    pub tag: u16,
    /// R2TO: where in the command's data the part starts, in bytes.
    pub offset: u32,
    /// R2TL: the length of the part, in bytes.
    pub length: u32,
}

impl PduKind {
    /// The kind with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2CTermReq,
            0x03 => Self::C2HTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2CData,
            0x07 => Self::C2HData,
            0x09 => Self::R2T,
            _ => return None,
        })
    }

    /// The specification's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::IcReq => "ICReq",
            Self::IcResp => "ICResp",
            Self::H2CTermReq => "H2CTermReq",
            Self::C2HTermReq => "C2HTermReq",
            Self::CapsuleCmd => "CapsuleCmd",
            Self::CapsuleResp => "CapsuleResp",
            Self::H2CData => "H2CData",
            Self::C2HData => "C2HData",
            Self::R2T => "R2T",
        }
    }

    /// HLEN: the length of the header without its digest, in bytes.
    pub fn header_length(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// Initialisation comes before digests are agreed on, termination goes without.
    fn carries_digests(self) -> bool {
        !matches!(self, Self::IcReq | Self::IcResp | Self::H2CTermReq | Self::C2HTermReq)
    }

    fn is_data(self) -> bool {
        matches!(self, Self::H2CData | Self::C2HData)
    }
}

impl Pdu {
    /// The PDU's type.
    pub fn kind(&self) -> PduKind {
        match self {
            Self::IcReq(_) => PduKind::IcReq,
            Self::IcResp(_) => PduKind::IcResp,
            Self::H2CTermReq(_) => PduKind::H2CTermReq,
            Self::C2HTermReq(_) => PduKind::C2HTermReq,
            Self::CapsuleCmd { .. } => PduKind::CapsuleCmd,
            Self::CapsuleResp { .. } => PduKind::CapsuleResp,
            Self::H2CData(_) => PduKind::H2CData,
            Self::C2HData(_) => PduKind::C2HData,
            Self::R2T(_) => PduKind::R2T,
        }
    }

    /// How many bytes of data follow the header, without their digest.
    pub fn data_length(&self) -> u32 {
        match self {
            Self::H2CTermReq(term) | Self::C2HTermReq(term) => term.data_length,
            Self::CapsuleCmd { data_length, .. } => *data_length,
            Self::H2CData(data) | Self::C2HData(data) => data.length,
            Self::IcReq(_) | Self::IcResp(_) | Self::CapsuleResp { .. } | Self::R2T(_) => 0,
        }
    }
}

mod flag {
    //! FLAGS of the common header.
    pub const HEADER_DIGEST: u8 = 1 << 0;
    pub const DATA_DIGEST: u8 = 1 << 1;
    pub const LAST: u8 = 1 << 2;
    pub const SUCCESS: u8 = 1 << 3;
}
