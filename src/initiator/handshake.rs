//! The first exchange on a connection, ICReq and ICResp, and the reading of a PDU's header.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    error::{InitiatorError, PeerName, Result},
    pdu::{
        Digests, FORMAT_VERSION, InitializeRequest, InitializeResponse, Layout, PREAMBLE_BYTES, Pdu, Preamble,
        Violation,
    },
};

/// What both sides agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    /// How our PDUs are laid out, and which digests both directions carry.
    pub layout: Layout,
    /// The largest data of one H2CData PDU, in bytes.
    pub max_h2c_data: usize,
}

/// Sends ICReq and reads ICResp.
pub async fn initialize(stream: &mut TcpStream, digests: Digests, peer: &PeerName) -> Result<Agreed> {
    let request = InitializeRequest { version: FORMAT_VERSION, alignment: 0, digests, max_r2t: 0 };
    let bytes = Pdu::IcReq(request).encode(&Layout::INITIAL);
    stream.write_all(&bytes).await.map_err(|error| InitiatorError::closed(peer, error))?;
    match read_header(stream, Layout::INITIAL.digests, peer).await?.1 {
        Pdu::IcResp(response) => {
            agree(digests, response).map_err(|violation| InitiatorError::protocol(peer, violation))
        }
        Pdu::C2HTermReq(term) => Err(InitiatorError::Terminated { peer: peer.clone(), problem: term.text() }),
        other => {
            let violation =
                Violation::new("common header", "PDU-Type", format!("{} instead of ICResp", other.kind().name()));
            Err(InitiatorError::protocol(peer, violation))
        }
    }
}

fn agree(asked: Digests, response: InitializeResponse) -> std::result::Result<Agreed, Violation> {
    /// MAXH2CDATA may not be less (NVMe/TCP, "ICResp").
    const SMALLEST_H2C_DATA: u32 = 4096;
    let wrong = |field, problem| Err(Violation::new("ICResp", field, problem));
    if response.version != FORMAT_VERSION {
        return wrong("PFV", format!("version {}, only {FORMAT_VERSION} is spoken", response.version));
    }
    if response.alignment > 31 {
        return wrong("CPDA", format!("{}, at most 31 is allowed", response.alignment));
    }
    let granted = response.digests;
    if granted.header && !asked.header || granted.data && !asked.data {
        return wrong("DGST", "a digest that was not asked for".into());
    }
    if response.max_h2c_data < SMALLEST_H2C_DATA {
        return wrong("MAXH2CDATA", format!("{}, at least {SMALLEST_H2C_DATA} is required", response.max_h2c_data));
    }
    Ok(Agreed { layout: Layout::new(granted, response.alignment), max_h2c_data: response.max_h2c_data as usize })
}

/// Reads one PDU's header; its data are the next bytes of the socket.
pub async fn read_header(
    socket: &mut (impl AsyncRead + Unpin),
    digests: Digests,
    peer: &PeerName,
) -> Result<(Preamble, Pdu)> {
    let closed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => InitiatorError::closed(peer, "it closed the connection"),
        _ => InitiatorError::closed(peer, error),
    };
    let protocol = |violation| InitiatorError::protocol(peer, violation);
    let mut raw = [0; PREAMBLE_BYTES];
    socket.read_exact(&mut raw).await.map_err(closed)?;
    let preamble = Preamble::decode(raw, digests).map_err(protocol)?;
    let mut rest = [0; u8::MAX as usize];
    let rest = &mut rest[..preamble.rest()];
    socket.read_exact(rest).await.map_err(closed)?;
    Ok((preamble, preamble.finish(rest).map_err(protocol)?))
}
