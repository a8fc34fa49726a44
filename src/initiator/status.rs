//! The status of an NVMe completion, and what it says in words.
//!
//! Numbers: NVM Express Base Specification, "Status Code"; NVMe over Fabrics 1.1, "Fabrics command specific status".

use std::fmt;

/// Status code type and status code of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// SCT: 0 generic, 1 specific to the command, 2 media and data integrity, 3 path, 7 vendor.
    pub kind: u8,
    /// SC: the code within its type.
    pub code: u8,
    /// DNR: the same command would fail again.
    pub do_not_retry: bool,
}

impl Status {
    /// Reads the status field of a completion queue entry; its lowest bit is the phase, which fabrics don't use.
    pub fn from_wire(field: u16) -> Self {
        Self { kind: (field >> 9 & 0x7) as u8, code: (field >> 1 & 0xFF) as u8, do_not_retry: field & 0x8000 != 0 }
    }

    /// Whether the command succeeded.
    pub fn is_success(self) -> bool {
        self.kind == 0 && self.code == 0
    }

    fn words(self) -> &'static str {
        match (self.kind, self.code) {
            (0, 0x00) => "success",
            (0, 0x01) => "invalid command opcode",
            (0, 0x02) => "invalid field in command",
            (0, 0x03) => "command identifier conflict",
            (0, 0x04) => "data transfer error",
            (0, 0x05) => "aborted because of a power loss",
            (0, 0x06) => "internal device error",
            (0, 0x07) => "aborted on request",
            (0, 0x08) => "aborted because its queue was deleted",
            (0, 0x0B) => "invalid namespace or format",
            (0, 0x0C) => "command sequence error",
            (0, 0x0F) => "data length of the SGL is invalid",
            (0, 0x11) => "type of the SGL descriptor is invalid",
            (0, 0x16) => "offset of the SGL is invalid",
            (0, 0x18) => "host identifier has an inconsistent format",
            (0, 0x19) => "keep alive timer expired",
            (0, 0x20) => "namespace is write protected",
            (0, 0x22) => "transient transport error",
            (0, 0x80) => "logical block address out of range",
            (0, 0x81) => "capacity exceeded",
            (0, 0x82) => "namespace not ready",
            (0, 0x83) => "reservation conflict",
            (1, 0x80) => "incompatible connect format, or conflicting attributes",
            (1, 0x81) => "controller busy",
            (1, 0x82) => "invalid connect parameters, or no such subsystem",
            (1, 0x83) => "discovery must be restarted",
            (1, 0x84) => "this host is not allowed",
            (1, 0x91) => "authentication required",
            (2, 0x80) => "write fault",
            (2, 0x81) => "unrecovered read error",
            (2, 0x82) => "end-to-end guard check error",
            (2, 0x85) => "compare failure",
            (2, 0x86) => "access denied",
            (2, 0x87) => "deallocated or unwritten block",
            (3, 0x00) => "internal path error",
            (3, 0x01) => "path lost for good",
            (3, 0x02) => "path inaccessible",
            (3, 0x03) => "path in transition",
            (0, _) => "generic error",
            (1, _) => "error specific to the command",
            (2, _) => "media error",
            (3, _) => "path error",
            _ => "vendor specific error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (type {}, code {:#04x})", self.words(), self.kind, self.code)
    }
}
