//! From byte ranges of any length to commands: checked, split by the controller's limits, and run side by side.

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    Initiator,
    command::{Command, deallocate_range},
    error::{InitiatorError, Result},
    identify::NamespaceInfo,
    inflight::Payload,
};

/// The most blocks of one read, write or write zeroes command (NLB is 16 bits, zero based).
const COMMAND_BLOCKS: u64 = 1 << 16;
/// The most blocks of one deallocated range.
const RANGE_BLOCKS: u64 = u32::MAX as u64;

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
        if !offset.is_multiple_of(block) {
            let problem = format!("{offset} is not a multiple of the block size, {block}");
            return Err(InitiatorError::argument("offset", problem));
        }
        if !length.is_multiple_of(block) {
            let problem = format!("{length} bytes are not a multiple of the block size, {block}");
            return Err(InitiatorError::argument("length", problem));
        }
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let problem = format!("{length} bytes at {offset} end beyond the namespace's {size} bytes");
            return Err(InitiatorError::argument("length", problem));
        }
        Ok(Self { first: offset / block, blocks: length / block })
    }

    /// The run in pieces of at most `limit` blocks.
    fn pieces(self, limit: u64) -> impl Iterator<Item = Self> {
        let end = self.first + self.blocks;
        let mut next = self.first;
        std::iter::from_fn(move || {
            let piece = Self { first: next, blocks: limit.min(end - next) };
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
        let mut pieces = run.pieces(blocks).zip(parts);
        self.run_all(|| {
            let (piece, part) = pieces.next()?;
            let command = Command::read(namespace.nsid, piece.first, piece.blocks as u32);
            Some(async move {
                let answer = self.controller.queue().submit(command, Payload::In(part.len())).await?;
                part.copy_from_slice(&answer.data);
                Ok(())
            })
        })
        .await
    }

    /// Writes `data` from byte `offset` on. Both must be multiples of the block size. After an error any part of the
    /// range may have been written, but none is still being written.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, data.len() as u64)?;
        let blocks = self.blocks_of_command(&namespace);
        let parts = data.chunks(blocks as usize * namespace.block_size as usize);
        let mut pieces = run.pieces(blocks).zip(parts);
        self.run_all(|| {
            let (piece, part) = pieces.next()?;
            let command = Command::write(namespace.nsid, piece.first, piece.blocks as u32);
            Some(self.run(command, Payload::Out(Bytes::copy_from_slice(part))))
        })
        .await
    }

    /// Makes what was written before durable.
    pub async fn flush(&self) -> Result<()> {
        self.run(Command::flush(self.namespace().nsid), Payload::None).await
    }

    /// Makes the range read as zeroes. Both numbers are in bytes, multiples of the block size.
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, length)?;
        if !self.controller.identity.writes_zeroes {
            return Err(self.lacks("Write Zeroes"));
        }
        let mut pieces = run.pieces(COMMAND_BLOCKS);
        self.run_all(|| {
            let piece = pieces.next()?;
            let command = Command::write_zeroes(namespace.nsid, piece.first, piece.blocks as u32);
            Some(self.run(command, Payload::None))
        })
        .await
    }

    /// Tells the target that the range's contents are not needed; what it reads as then is the target's matter. Both
    /// numbers are in bytes, multiples of the block size.
    pub async fn deallocate(&self, offset: u64, length: u64) -> Result<()> {
        let namespace = self.namespace();
        let run = Run::of(&namespace, offset, length)?;
        if !self.controller.identity.deallocates {
            return Err(self.lacks("Dataset Management"));
        }
        let mut pieces = run.pieces(RANGE_BLOCKS);
        self.run_all(|| {
            let piece = pieces.next()?;
            let range = deallocate_range(piece.first, piece.blocks as u32);
            Some(self.run(Command::deallocate(namespace.nsid, 1), Payload::Out(Bytes::copy_from_slice(&range))))
        })
        .await
    }

    fn lacks(&self, command: &str) -> InitiatorError {
        let problem = format!("it does not support {command}");
        InitiatorError::Unsupported { peer: self.controller.peer.clone(), problem }
    }

    /// How many blocks a read or write command may transfer; at least one.
    fn blocks_of_command(&self, namespace: &NamespaceInfo) -> u64 {
        (self.controller.max_transfer / u64::from(namespace.block_size)).clamp(1, COMMAND_BLOCKS)
    }

    async fn run(&self, command: Command, payload: Payload) -> Result<()> {
        self.controller.queue().submit(command, payload).await.map(drop)
    }

    /// Runs the commands that `next` gives, so many at a time. After the first error no more are begun, and those
    /// begun are waited for.
    async fn run_all<F>(&self, mut next: impl FnMut() -> Option<F>) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let limit = self.options.commands_per_call.max(1);
        let mut running = FuturesUnordered::new();
        let mut outcome = Ok(());
        loop {
            while outcome.is_ok() && running.len() < limit {
                match next() {
                    Some(command) => running.push(command),
                    None => break,
                }
            }
            match running.next().await {
                Some(result) => outcome = outcome.and(result),
                None => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NamespaceInfo, Run};

    const NAMESPACE: NamespaceInfo =
        NamespaceInfo { nsid: 1, block_size: 4096, block_count: 10, nguid: [0; 16], uuid: None };

    #[test]
    fn only_whole_blocks_that_exist() {
        assert_eq!(Run::of(&NAMESPACE, 4096, 8192).unwrap(), Run { first: 1, blocks: 2 });
        assert!(Run::of(&NAMESPACE, 0, 40960).is_ok());
        for (offset, length) in [(512, 4096), (0, 4095), (0, 45056), (40960, 4096), (u64::MAX - 4095, 4096)] {
            let error = Run::of(&NAMESPACE, offset, length).unwrap_err();
            let error = crate::error::Error::from(error);
            assert!(matches!(error, crate::error::Error::InvalidArgument { .. }), "{offset}+{length}: {error}");
        }
    }

    #[test]
    fn pieces_cover_the_run_once() {
        let pieces: Vec<_> = Run { first: 3, blocks: 7 }.pieces(3).collect();
        let expected = [(3, 3), (6, 3), (9, 1)].map(|(first, blocks)| Run { first, blocks });
        assert_eq!(pieces, expected);
        assert_eq!(Run { first: 3, blocks: 0 }.pieces(3).count(), 0);
    }
}
