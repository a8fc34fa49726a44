//! The receiving half of a connection.

use tokio::{
    io::{AsyncReadExt, BufReader},
    net::tcp::OwnedReadHalf,
    sync::mpsc,
};

use super::{Outgoing, Shared, Waiter};
use crate::initiator::{
    command::Completion,
    error::{InitiatorError, Result},
    handshake::read_header,
    inflight::Finished,
    pdu::{DataHeader, Pdu, ReadyToTransfer, Violation, digest::crc32c},
};

/// Headers are read through a buffer of this size; larger data go past it.
const BUFFER_BYTES: usize = 16 << 10;

/// Receives PDUs until the connection fails, and says why.
pub(super) async fn run(
    socket: OwnedReadHalf,
    shared: &Shared,
    outgoing: &mpsc::WeakSender<Outgoing>,
) -> InitiatorError {
    let mut receiver = Receiver { socket: BufReader::with_capacity(BUFFER_BYTES, socket), shared, outgoing };
    loop {
        if let Err(error) = receiver.one().await {
            return error;
        }
    }
}

struct Receiver<'a> {
    socket: BufReader<OwnedReadHalf>,
    shared: &'a Shared,
    outgoing: &'a mpsc::WeakSender<Outgoing>,
}

impl Receiver<'_> {
    async fn one(&mut self) -> Result<()> {
        let peer = &self.shared.peer;
        let (preamble, pdu) = read_header(&mut self.socket, self.shared.agreed.layout.digests, peer).await?;
        match pdu {
            Pdu::CapsuleResp { entry } => {
                let finished = self.with_queue(|queue| queue.complete(Completion::decode(&entry)))?;
                self.reply(finished);
                Ok(())
            }
            Pdu::C2HData(header) => self.data(header, preamble.data_digest()).await,
            Pdu::R2T(request) => self.ready_to_transfer(request),
            Pdu::C2HTermReq(term) => Err(InitiatorError::Terminated { peer: peer.clone(), problem: term.text() }),
            other => {
                let violation = Violation::new(
                    "common header",
                    "PDU-Type",
                    format!("{} in this direction or phase", other.kind().name()),
                );
                Err(InitiatorError::protocol(peer, violation))
            }
        }
    }

    async fn data(&mut self, header: DataHeader, digest: bool) -> Result<()> {
        let closed = |error| InitiatorError::closed(&self.shared.peer, error);
        let mut room = self.with_queue(|queue| queue.data_arrives(&header))?;
        let start = header.offset as usize;
        let part = &mut room[start..start + header.length as usize];
        self.socket.read_exact(part).await.map_err(closed)?;
        if digest {
            let (found, computed) = (self.socket.read_u32_le().await.map_err(closed)?, crc32c(part));
            if found != computed {
                let violation = Violation::new("C2HData", "DDGST", format!("{found:#010x}, computed {computed:#010x}"));
                return Err(InitiatorError::protocol(&self.shared.peer, violation));
            }
        }
        if let Some(finished) = self.with_queue(|queue| queue.data_received(&header, room))? {
            self.reply(finished);
        }
        Ok(())
    }

    fn ready_to_transfer(&mut self, request: ReadyToTransfer) -> Result<()> {
        let transfer = self.with_queue(|queue| queue.ready_to_transfer(request))?;
        let Some(outgoing) = self.outgoing.upgrade() else {
            return Ok(());
        };
        // Never a wait here: a receiver that waits for its sender, which waits for the peer, which waits for the
        // receiver, would stand still.
        outgoing.try_send(Outgoing::Data(transfer)).map_err(|_| {
            let violation = Violation::new("R2T", "TTAG", "more requests at once than there are commands");
            InitiatorError::protocol(&self.shared.peer, violation)
        })
    }

    fn with_queue<T>(
        &self,
        act: impl FnOnce(&mut super::InFlight<Waiter>) -> std::result::Result<T, Violation>,
    ) -> Result<T> {
        match self.shared.lock().as_mut() {
            Some(queue) => act(queue).map_err(|violation| InitiatorError::protocol(&self.shared.peer, violation)),
            None => Err(self.shared.why_gone()),
        }
    }

    fn reply(&self, finished: Finished<Waiter>) {
        self.shared.reply(finished.owner, finished.completion, finished.data);
    }
}
