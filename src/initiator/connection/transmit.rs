//! The sending half of a connection.

use tokio::{
    io::{AsyncWriteExt, BufWriter},
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
const GATHER_BYTES: usize = 64 << 10;

/// Sends what is queued; returns when the connection fails, or no handle is left.
pub(super) async fn run(
    socket: OwnedWriteHalf,
    shared: &Shared,
    mut queue: mpsc::Receiver<Outgoing>,
) -> InitiatorError {
    let mut sender = Sender {
        socket: BufWriter::with_capacity(GATHER_BYTES, socket),
        shared,
    };
    loop {
        let sent = match queue.try_recv() {
            Ok(outgoing) => sender.send(outgoing).await,
            Err(TryRecvError::Disconnected) => {
                return InitiatorError::Disconnected {
                    peer: shared.peer.clone(),
                };
            }
            Err(TryRecvError::Empty) => match sender.socket.flush().await {
                Err(error) => Err(error),
                Ok(()) => match queue.recv().await {
                    Some(outgoing) => sender.send(outgoing).await,
                    None => {
                        return InitiatorError::Disconnected {
                            peer: shared.peer.clone(),
                        };
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
    socket: BufWriter<OwnedWriteHalf>,
    shared: &'a Shared,
}

impl Sender<'_> {
    async fn send(&mut self, outgoing: Outgoing) -> std::io::Result<()> {
        match outgoing {
            Outgoing::Command { entry, data } => {
                self.write(
                    Pdu::CapsuleCmd {
                        entry,
                        data_length: data.len() as u32,
                    },
                    &data,
                )
                .await
            }
            Outgoing::Data(transfer) => self.transfer(transfer).await,
        }
    }

    /// Answers an R2T, in PDUs of at most MAXH2CDATA.
    async fn transfer(
        &mut self,
        HostTransfer { request, data }: HostTransfer,
    ) -> std::io::Result<()> {
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

    async fn write(&mut self, pdu: Pdu, data: &[u8]) -> std::io::Result<()> {
        let layout = &self.shared.agreed.layout;
        self.socket.write_all(&pdu.encode(layout)).await?;
        if data.is_empty() {
            return Ok(());
        }
        self.socket.write_all(data).await?;
        if layout.digests.data {
            self.socket.write_all(&crc32c(data).to_le_bytes()).await?;
        }
        Ok(())
    }
}
