//! What arrives: headers through a buffer, and data into the memory of the request that waits for them, past the buffer as far as
//! they have not come with a header.

use std::io::{ErrorKind, IoSliceMut, Read};

use super::{Broken, Request};
use crate::initiator::pdu::{DataHeader, Digests, PREAMBLE_BYTES, Pdu, Preamble};

/// As much as a few answers with small data have.
const BUFFER_BYTES: usize = 32 << 10;
/// Pieces of a request's memory in one system call.
const SCATTER: usize = 16;
/// The connection has no digests: we ask for none.
const DIGESTS: Digests = Digests { header: false, data: false };

/// What has come.
pub(super) enum Received {
    /// The header of a PDU. After one of data [`Inbox::expect_data`] must be called.
    Header(Pdu),
    /// All data of this header are in the request's room.
    Data {
        /// Their header.
        header: DataHeader,
    },
}

/// Data on their way.
struct Expected {
    header: DataHeader,
    /// Where the next byte goes in the request's room.
    at: usize,
    left: usize,
}

/// The receiving side of a socket.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    /// The bytes of `buffer` that have not been looked at.
    start: usize,
    end: usize,
    expected: Option<Expected>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0, expected: None }
    }

    /// The data of `header` follow; they go to the room of its command's request from byte `at` on.
    pub(super) fn expect_data(&mut self, header: DataHeader, at: usize) {
        assert!(self.expected.is_none(), "data come one PDU after the other");
        self.expected = Some(Expected { header, at, left: header.length as usize });
    }

    /// Reads once from the socket. True if it had no more than was taken.
    pub(super) fn fill<'r, R: Request + 'r>(
        &mut self,
        socket: &mut impl Read,
        request_of: impl FnOnce(u16) -> &'r mut R,
    ) -> Result<bool, Broken> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let (read, asked) = match &mut self.expected {
            // What was in the buffer has been taken, so the socket's next bytes are the data's.
            Some(expected) if expected.left > 0 => {
                assert_eq!(self.end, 0, "data in the buffer go first");
                let request = request_of(expected.header.command_id);
                scatter(socket, request, expected, &mut self.buffer)
            }
            _ => (socket.read(&mut self.buffer[self.end..]), BUFFER_BYTES - self.end),
        };
        match read {
            Ok(0) => Err(Broken::Closed("it closed the connection".into())),
            Ok(read) => {
                let direct = self.expected.as_mut().map_or(0, |expected| {
                    let direct = read.min(expected.left);
                    expected.at += direct;
                    expected.left -= direct;
                    direct
                });
                self.end += read - direct;
                Ok(read < asked)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(Broken::Closed(error.to_string())),
        }
    }

    /// The next whole thing that has come.
    pub(super) fn next<'r, R: Request + 'r>(
        &mut self,
        request_of: impl FnOnce(u16) -> &'r mut R,
    ) -> Result<Option<Received>, Broken> {
        if let Some(expected) = &mut self.expected {
            if expected.left > 0 && self.start < self.end {
                let taken = copy(&self.buffer[self.start..self.end], request_of(expected.header.command_id), expected);
                self.start += taken;
            }
            if expected.left > 0 {
                return Ok(None);
            }
            return Ok(self.expected.take().map(|expected| Received::Data { header: expected.header }));
        }
        self.next_header()
    }

    fn next_header(&mut self) -> Result<Option<Received>, Broken> {
        let come = &self.buffer[self.start..self.end];
        let Some((raw, rest)) = come.split_first_chunk::<PREAMBLE_BYTES>() else { return Ok(None) };
        let preamble = Preamble::decode(*raw, DIGESTS)?;
        let Some(rest) = rest.get(..preamble.rest()) else { return Ok(None) };
        let pdu = preamble.finish(rest)?;
        self.start += PREAMBLE_BYTES + rest.len();
        Ok(Some(Received::Header(pdu)))
    }
}

/// Reads into the request's room, and behind the data into the buffer. The result, and how much was asked for.
fn scatter<R: Request>(
    socket: &mut impl Read,
    request: &mut R,
    expected: &Expected,
    buffer: &mut [u8],
) -> (std::io::Result<usize>, usize) {
    let mut slices: [IoSliceMut<'_>; SCATTER] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let (mut count, mut left) = (0, expected.left);
    for room in request.room(expected.at).take(SCATTER - 1) {
        let now = room.len().min(left);
        slices[count] = IoSliceMut::new(&mut room[..now]);
        count += 1;
        left -= now;
        if left == 0 {
            break;
        }
    }
    let mut asked = expected.left - left;
    assert!(asked > 0, "a request has room for the data that its command asked for");
    if left == 0 {
        asked += buffer.len();
        slices[count] = IoSliceMut::new(buffer);
        count += 1;
    }
    (socket.read_vectored(&mut slices[..count]), asked)
}

/// Copies what has come of the data into the request's room; how much that is.
fn copy<R: Request>(come: &[u8], request: &mut R, expected: &mut Expected) -> usize {
    let length = come.len().min(expected.left);
    let mut come = &come[..length];
    for room in request.room(expected.at) {
        let now = room.len().min(come.len());
        let (first, rest) = come.split_at(now);
        room[..now].copy_from_slice(first);
        come = rest;
        if come.is_empty() {
            break;
        }
    }
    assert!(come.is_empty(), "a request has room for the data that its command asked for");
    expected.at += length;
    expected.left -= length;
    length
}
