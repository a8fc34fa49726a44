//! What is to be sent: headers of ours and data in requests' memory, gathered into as few system calls as can be.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Write};

use super::{Broken, Request};

/// Pieces of memory in one system call.
const GATHER: usize = 64;

enum Piece {
    /// Bytes of ours.
    Header(Vec<u8>),
    /// Bytes of the command's request.
    Data { offset: usize, length: usize },
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::Header(bytes) => bytes.len(),
            Self::Data { length, .. } => *length,
        }
    }
}

/// Pieces in the order of the wire, each of a command.
pub(super) struct Outbox {
    pieces: VecDeque<(u16, Piece)>,
    /// Bytes of all pieces.
    bytes: usize,
    /// How many of them, from the first on, are sent.
    sent: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { pieces: VecDeque::new(), bytes: 0, sent: 0 }
    }

    pub(super) fn push_header(&mut self, command: u16, bytes: Vec<u8>) {
        self.push(command, Piece::Header(bytes));
    }

    /// `length` bytes of the request from byte `offset` of its memory.
    pub(super) fn push_data(&mut self, command: u16, offset: usize, length: usize) {
        self.push(command, Piece::Data { offset, length });
    }

    fn push(&mut self, command: u16, piece: Piece) {
        self.bytes += piece.length();
        self.pieces.push_back((command, piece));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Sends what the socket takes. [`Self::take_sent`] is to follow.
    pub(super) fn send<'r, R: Request + 'r>(
        &mut self,
        socket: &mut impl Write,
        request_of: impl Fn(u16) -> &'r R,
    ) -> Result<(), Broken> {
        while self.sent < self.bytes {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let count = self.gather(&mut slices, &request_of);
            match socket.write_vectored(&slices[..count]) {
                Ok(0) => return Err(Broken::Closed("it takes no more data".into())),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Closed(error.to_string())),
            }
        }
        Ok(())
    }

    /// The unsent bytes, as many as there are slices for; how many slices.
    fn gather<'s, 'r: 's, R: Request + 'r>(
        &'s self,
        slices: &mut [IoSlice<'s>; GATHER],
        request_of: &impl Fn(u16) -> &'r R,
    ) -> usize {
        let mut skip = self.sent;
        let mut count = 0;
        for (command, piece) in &self.pieces {
            let skipped = skip.min(piece.length());
            skip -= skipped;
            let mut left = piece.length() - skipped;
            let mut add = |bytes: &'s [u8]| {
                if left > 0 && count < GATHER {
                    let now = &bytes[..bytes.len().min(left)];
                    slices[count] = IoSlice::new(now);
                    count += 1;
                    left -= now.len();
                }
                left > 0 && count < GATHER
            };
            match piece {
                Piece::Header(bytes) => _ = add(&bytes[skipped..]),
                Piece::Data { offset, .. } => _ = request_of(*command).data(offset + skipped).all(add),
            }
            if count == GATHER {
                break;
            }
        }
        count
    }

    /// Takes out what is sent, and names the command of each piece. True if there was any.
    pub(super) fn take_sent(&mut self, mut sent_of: impl FnMut(u16)) -> bool {
        let mut any = false;
        while let Some((command, piece)) = self.pieces.front()
            && piece.length() <= self.sent
        {
            self.bytes -= piece.length();
            self.sent -= piece.length();
            sent_of(*command);
            self.pieces.pop_front();
            any = true;
        }
        any
    }
}
