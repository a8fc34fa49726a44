//! An I/O queue's connection up to its first command: connected, initialised, admitted by the controller; nothing but what the
//! target answered has been read from its socket.

use std::net::TcpStream;

use tokio::io::AsyncWriteExt;

use super::{
    command::{Command, Completion, Transfer},
    connection,
    controller::{Identity, admission},
    error::{InitiatorError, PeerName, Result},
    handshake::{self, Agreed},
    pdu::{Digests, Pdu, Violation},
};

/// The only command in flight.
const COMMAND_ID: u16 = 0;

/// Connects a queue by `command`, a Fabrics Connect, to the controller `id`. The caller limits the wait.
pub(super) async fn connect(
    identity: &Identity,
    peer: &PeerName,
    id: u16,
    command: Command,
) -> Result<(TcpStream, Agreed)> {
    let mut stream = connection::connect(identity.address, peer).await?;
    let agreed = handshake::initialize(&mut stream, Digests::default(), peer).await?;

    let data = admission(identity, id);
    let length = data.len() as u32;
    let capsule =
        Pdu::CapsuleCmd { entry: command.entry(COMMAND_ID, Transfer::InCapsule(length)), data_length: length };
    let mut bytes = capsule.encode(&agreed.layout);
    bytes.extend_from_slice(&data);
    stream.write_all(&bytes).await.map_err(|error| InitiatorError::closed(peer, error))?;

    let (_, answer) = handshake::read_header(&mut stream, agreed.layout.digests, peer).await?;
    let completion = match answer {
        Pdu::CapsuleResp { entry } => Completion::decode(&entry),
        Pdu::C2HTermReq(term) => {
            return Err(InitiatorError::Terminated { peer: peer.clone(), problem: term.text() });
        }
        other => {
            let problem = format!("{} instead of the response to Connect", other.kind().name());
            return Err(InitiatorError::protocol(peer, Violation::new("common header", "PDU-Type", problem)));
        }
    };
    if completion.command_id != COMMAND_ID {
        let problem = format!("{}, no such command is in flight", completion.command_id);
        return Err(InitiatorError::protocol(peer, Violation::new("CapsuleResp", "CCCID", problem)));
    }
    if !completion.status.is_success() {
        let problem = format!("I/O queue of host {}: {}", identity.host_nqn, completion.status);
        return Err(InitiatorError::Refused { peer: peer.clone(), problem });
    }
    let stream = stream.into_std().map_err(|error| InitiatorError::closed(peer, error))?;
    Ok((stream, agreed))
}
