//! CRC-64/ISO over clusters: one sum of each, and one of all of them in their order (`engine-behaviour` §3.5).

use std::collections::BTreeMap;

use crc::{CRC_64_GO_ISO, Crc, Digest, Table};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::spdk::DmaBuffer;
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// The CRC that Longhorn's snapshots have, computed sixteen bytes a step.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// Clusters being read while one is summed.
const AHEAD: usize = 2;

/// Reads an open lvol by clusters.
pub(super) struct ClusterReader {
    bdev: BdevClient,
    cluster_size: u64,
}

impl ClusterReader {
    /// Of an lvol with clusters of so many bytes.
    pub(super) fn new(bdev: BdevClient, cluster_size: u64) -> Self {
        Self { bdev, cluster_size }
    }

    /// The sum over these clusters, one after the other.
    pub(super) async fn whole(&self, clusters: &[u64]) -> Result<u64> {
        let digest = self
            .read(clusters)
            .try_fold(CRC.digest(), |digest, (_, data)| async { on_worker(move || updated(digest, &data)).await });
        Ok(digest.await?.finalize())
    }

    /// The sum of each of these clusters.
    pub(super) async fn each(&self, clusters: &[u64]) -> Result<BTreeMap<u64, u64>> {
        let sums = self
            .read(clusters)
            .and_then(|(cluster, data)| async move { Ok((cluster, on_worker(move || CRC.checksum(&data)).await?)) });
        sums.try_collect().await
    }

    fn read(&self, clusters: &[u64]) -> impl futures::Stream<Item = Result<(u64, DmaBuffer)>> {
        let reads = clusters.iter().copied().map(|cluster| async move {
            // A cluster is a few MiB at most.
            let buffer = DmaBuffer::zeroed(self.cluster_size as usize)?;
            Ok((cluster, self.bdev.read(cluster * self.cluster_size, buffer).await?))
        });
        stream::iter(reads.collect::<Vec<_>>()).buffered(AHEAD)
    }
}

fn updated(mut digest: Digest<'static, u64, Table<16>>, data: &[u8]) -> Digest<'static, u64, Table<16>> {
    digest.update(data);
    digest
}

/// Summing a cluster takes up to a millisecond, too long for a thread that others wait for.
async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal("a checksum", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_catalogues() {
        assert_eq!(CRC.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn chained_sums_are_those_of_the_whole() {
        let digest = updated(updated(CRC.digest(), b"1234"), b"56789");
        assert_eq!(digest.finalize(), CRC.checksum(b"123456789"));
    }
}
