//! The sending half of a connection.

use bytes::Buf;
use tokio::{
    io::AsyncWriteExt,
    net::tcp::OwnedWriteHalf,
    sync::mpsc::{self, error::TryRecvError},
};

use super::{Outgoing, Shared};
use crate::initiator::{
    error::InitiatorError,
    inflight::HostTransfer,
    pdu::{DataHeader, Pdu, digest::crc32c},
};

/// Small PDUs are gathered up to this size before they go to the socket.
const GATHER_BYTES: usize = 32 << 10;

/// Sends what is queued; returns when the connection fails, or no handle is left.
pub(super) async fn run(
    socket: OwnedWriteHalf,
    shared: &Shared,
    mut queue: mpsc::Receiver<Outgoing>,
) -> InitiatorError {
    let mut sender = Sender { socket, gathered: Vec::with_capacity(GATHER_BYTES), shared };
    loop {
        let sent = match queue.try_recv() {
            Ok(outgoing) => sender.send(outgoing).await,
            Err(TryRecvError::Disconnected) => {
                return InitiatorError::Disconnected { peer: shared.peer.clone() };
            }
            Err(TryRecvError::Empty) => match sender.flush().await {
                Err(error) => Err(error),
                Ok(()) => match queue.recv().await {
                    Some(outgoing) => sender.send(outgoing).await,
                    None => {
                        return InitiatorError::Disconnected { peer: shared.peer.clone() };
                    }
                },
            },
        };
        if let Err(error) = sent {
            return InitiatorError::closed(&shared.peer, error);
        }
    }
}

struct Sender<'a> {
    socket: OwnedWriteHalf,
    /// What waits to be sent: whole PDUs, less than [`GATHER_BYTES`].
    gathered: Vec<u8>,
    shared: &'a Shared,
}

impl Sender<'_> {
    async fn send(&mut self, outgoing: Outgoing) -> std::io::Result<()> {
        match outgoing {
            Outgoing::Command { entry, data } => {
                self.write(Pdu::CapsuleCmd { entry, data_length: data.len() as u32 }, &data).await
            }
            Outgoing::Data(transfer) => self.transfer(transfer).await,
        }
    }

    /// Answers an R2T, in PDUs of at most MAXH2CDATA.
    async fn transfer(&mut self, HostTransfer { request, data }: HostTransfer) -> std::io::Result<()> {
        let limit = self.shared.agreed.max_h2c_data;
        let mut sent = 0;
        for part in data.chunks(limit) {
            let header = DataHeader {
                command_id: request.command_id,
                tag: request.tag,
                offset: request.offset + sent as u32,
                length: part.len() as u32,
                last: sent + part.len() == data.len(),
                success: false,
            };
            self.write(Pdu::H2CData(header), part).await?;
            sent += part.len();
        }
        if let Some(in_flight) = self.shared.lock().as_mut() {
            in_flight.transfer_sent(&request);
        }
        Ok(())
    }

    /// Gathers a small PDU; sends a large one at once, in one go with all that was gathered. Data and their digest
    /// must not be torn apart: SPDK 20.07's target may never read a digest that arrives alone.
    async fn write(&mut self, pdu: Pdu, data: &[u8]) -> std::io::Result<()> {
        let layout = &self.shared.agreed.layout;
        self.gathered.extend_from_slice(&pdu.encode(layout));
        let digest = (layout.digests.data && !data.is_empty()).then(|| crc32c(data).to_le_bytes());
        let digest = digest.as_ref().map_or(&[][..], |digest| digest);
        if self.gathered.len() + data.len() < GATHER_BYTES {
            self.gathered.extend_from_slice(data);
            self.gathered.extend_from_slice(digest);
            return Ok(());
        }
        let mut all = self.gathered.as_slice().chain(data).chain(digest);
        self.socket.write_all_buf(&mut all).await?;
        self.gathered.clear();
        Ok(())
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.socket.write_all(&self.gathered).await?;
        self.gathered.clear();
        Ok(())
    }
}
