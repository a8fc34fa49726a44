//! From byte ranges of any length to commands: checked, split by the controller's limits, and run side by side.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};

use super::{
    Initiator,
    command::{Command, deallocate_range},
    error::{InitiatorError, Result},
    identify::NamespaceInfo,
    inflight::Payload,
};

/// The most blocks of one read, write or write zeroes command (NLB is 16 bits, zero based).
const COMMAND_BLOCKS: u64 = 1 << 16;
/// The most blocks of one deallocated range, and the most ranges of one command.
const RANGE_BLOCKS: u64 = u32::MAX as u64;
const RANGES: usize = 256;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    blocks: u64,
}

impl Run {
    /// The blocks of a byte range; an error unless they are whole and exist.
    fn of(namespace: &NamespaceInfo, offset: u64, length: u64) -> Result<Self> {
        let block = u64::from(namespace.block_size);
        let size = namespace.size_bytes();
        if offset % block != 0 {
            let problem = format!("{offset} is not a multiple of the block size, {block}");
            return Err(InitiatorError::argument("offset", problem));
        }
        if length % block != 0 {
            let problem = format!("{length} bytes are not a multiple of the block size, {block}");
            return Err(InitiatorError::argument("length", problem));
        }
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let problem =
                format!("{length} bytes at {offset} end beyond the namespace's {size} bytes");
            return Err(InitiatorError::argument("length", problem));
        }
        Ok(Self {
            first: offset / block,
            blocks: length / block,
        })
    }

    /// The run in pieces of at most `limit` blocks.
    fn pieces(self, limit: u64) -> impl Iterator<Item = Self> {
        let end = self.first + self.blocks;
        let mut next = self.first;
        std::iter::from_fn(move || {
            let piece = Self {
                first: next,
                blocks: limit.min(end - next),
            };
            next += piece.blocks;
            (piece.blocks > 0).then_some(piece)
        })
    }
}

impl Initiator {
    /// Reads `buffer.len()` bytes from byte `offset`. Both must be multiples of the block size.
    pub async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, buffer.len() as u64)?;
        let blocks = self.blocks_of_command(&namespace);
        let parts = buffer.chunks_mut(blocks as usize * namespace.block_size as usize);
        let commands = run
            .pieces(blocks)
            .zip(parts)
            .map(|(piece, part)| async move {
                let command = Command::read(namespace.nsid, piece.first, piece.blocks as u32);
                let answer = self
                    .controller
                    .queue()
                    .submit(command, Payload::In(part.len()))
                    .await?;
                part.copy_from_slice(&answer.data);
                Ok(())
            });
        self.run_all(commands).await
    }

    /// Writes `data` from byte `offset` on. Both must be multiples of the block size. After an error any part of the
    /// range may have been written, but none is still being written.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, data.len() as u64)?;
        let blocks = self.blocks_of_command(&namespace);
        let parts = data.chunks(blocks as usize * namespace.block_size as usize);
        let commands = run
            .pieces(blocks)
            .zip(parts)
            .map(|(piece, part)| async move {
                let command = Command::write(namespace.nsid, piece.first, piece.blocks as u32);
                self.controller
                    .queue()
                    .submit(command, Payload::Out(Bytes::copy_from_slice(part)))
                    .await
                    .map(drop)
            });
        self.run_all(commands).await
    }

    /// Makes what was written before durable.
    pub async fn flush(&self) -> Result<()> {
        let command = Command::flush(self.namespace().nsid);
        self.controller
            .queue()
            .submit(command, Payload::None)
            .await
            .map(drop)
    }

    /// Makes the range read as zeroes. Both numbers are in bytes, multiples of the block size.
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, length)?;
        if !self.controller.identity.writes_zeroes {
            return Err(self.lacks("Write Zeroes"));
        }
        let commands = run.pieces(COMMAND_BLOCKS).map(|piece| async move {
            let command = Command::write_zeroes(namespace.nsid, piece.first, piece.blocks as u32);
            self.controller
                .queue()
                .submit(command, Payload::None)
                .await
                .map(drop)
        });
        self.run_all(commands).await
    }

    /// Tells the target that the range's contents are not needed; what it reads as then is the target's matter. Both
    /// numbers are in bytes, multiples of the block size.
    pub async fn deallocate(&self, offset: u64, length: u64) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, length)?;
        if !self.controller.identity.deallocates {
            return Err(self.lacks("Dataset Management"));
        }
        let ranges: Vec<_> = run
            .pieces(RANGE_BLOCKS)
            .map(|piece| deallocate_range(piece.first, piece.blocks as u32))
            .collect();
        let commands = ranges.chunks(RANGES).map(|ranges| async move {
            let data: BytesMut = ranges.iter().flatten().copied().collect();
            let command = Command::deallocate(namespace.nsid, ranges.len() as u32);
            self.controller
                .queue()
                .submit(command, Payload::Out(data.freeze()))
                .await
                .map(drop)
        });
        self.run_all(commands).await
    }

    fn lacks(&self, command: &str) -> InitiatorError {
        let problem = format!("it does not support {command}");
        InitiatorError::Unsupported {
            peer: self.controller.peer.clone(),
            problem,
        }
    }

    /// How many blocks a read or write command may transfer; at least one.
    fn blocks_of_command(&self, namespace: &NamespaceInfo) -> u64 {
        (self.controller.max_transfer / u64::from(namespace.block_size)).clamp(1, COMMAND_BLOCKS)
    }

    /// Runs commands, so many at a time. After the first error no more are begun, and those begun are waited for.
    async fn run_all<F>(&self, commands: impl Iterator<Item = F>) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let failed = AtomicBool::new(false);
        let begun = commands.take_while(|_| !failed.load(Ordering::Relaxed));
        let results = stream::iter(begun).buffer_unordered(self.options.commands_per_call.max(1));
        first_error(results, &failed).await
    }
}

async fn first_error(results: impl Stream<Item = Result<()>>, failed: &AtomicBool) -> Result<()> {
    results
        .fold(Ok(()), |first, result| async {
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            first.and(result)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::{NamespaceInfo, Run};

    const NAMESPACE: NamespaceInfo = NamespaceInfo {
        nsid: 1,
        block_size: 4096,
        block_count: 10,
        nguid: [0; 16],
        uuid: None,
    };

    #[test]
    fn only_whole_blocks_that_exist() {
        assert_eq!(
            Run::of(&NAMESPACE, 4096, 8192).unwrap(),
            Run {
                first: 1,
                blocks: 2
            }
        );
        assert!(Run::of(&NAMESPACE, 0, 40960).is_ok());
        for (offset, length) in [
            (512, 4096),
            (0, 4095),
            (0, 45056),
            (40960, 4096),
            (u64::MAX - 4095, 4096),
        ] {
            let error = Run::of(&NAMESPACE, offset, length).unwrap_err();
            let error = crate::error::Error::from(error);
            assert!(
                matches!(error, crate::error::Error::InvalidArgument { .. }),
                "{offset}+{length}: {error}"
            );
        }
    }

    #[test]
    fn pieces_cover_the_run_once() {
        let pieces: Vec<_> = Run {
            first: 3,
            blocks: 7,
        }
        .pieces(3)
        .collect();
        let expected = [(3, 3), (6, 3), (9, 1)].map(|(first, blocks)| Run { first, blocks });
        assert_eq!(pieces, expected);
        assert_eq!(
            Run {
                first: 3,
                blocks: 0
            }
            .pieces(3)
            .count(),
            0
        );
    }
}
