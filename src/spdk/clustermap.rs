//! Which clusters of an lvol are its own: a bitmap, one bit a cluster.

/// A set of cluster indexes of one lvol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMap {
    bits: Vec<u8>,
    clusters: u64,
}

impl ClusterMap {
    /// The empty map of an lvol with this many clusters.
    pub fn empty(clusters: u64) -> Self {
        Self { bits: vec![0; clusters.div_ceil(8) as usize], clusters }
    }

    /// From its bytes, the lowest bit of the first byte for cluster 0. `None` when they are not those of so many
    /// clusters, or have bits beyond the last.
    pub fn from_bytes(bits: Vec<u8>, clusters: u64) -> Option<Self> {
        if u64::try_from(bits.len()) != Ok(clusters.div_ceil(8)) {
            return None;
        }
        let unused = clusters.next_multiple_of(8) - clusters;
        let is_clean = bits.last().is_none_or(|last| u64::from(last.leading_zeros()) >= unused);
        is_clean.then_some(Self { bits, clusters })
    }

    /// Its bytes, as [`Self::from_bytes`] takes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// How many clusters the lvol has; the indexes are `0..len()`.
    pub fn len(&self) -> u64 {
        self.clusters
    }

    /// Whether the lvol has no clusters at all.
    pub fn is_empty(&self) -> bool {
        self.clusters == 0
    }

    /// Whether the cluster is in the map; false beyond its end.
    pub fn contains(&self, cluster: u64) -> bool {
        cluster < self.clusters && self.bits[(cluster / 8) as usize] & (1 << (cluster % 8)) != 0
    }

    /// Adds a cluster. One beyond the end is left out.
    pub fn insert(&mut self, cluster: u64) {
        if cluster < self.clusters {
            self.bits[(cluster / 8) as usize] |= 1 << (cluster % 8);
        }
    }

    /// How many clusters are in the map.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Adds all clusters of `other`, a map of the same lvol's parent or child: the shorter is taken as empty beyond its
    /// end, and the longer gives the length.
    pub fn or(&mut self, other: &Self) {
        if other.clusters > self.clusters {
            self.clusters = other.clusters;
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(own, more)| *own |= more);
    }

    /// The clusters in the map, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.bits.iter().enumerate().flat_map(|(index, byte)| {
            let base = index as u64 * 8;
            (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| base + bit)
        })
    }

    /// For the shim to fill; bits beyond the end must stay 0.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bits
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::ClusterMap;

    fn map(clusters: u64, set: &BTreeSet<u64>) -> ClusterMap {
        let mut map = ClusterMap::empty(clusters);
        set.iter().for_each(|cluster| map.insert(*cluster));
        map
    }

    #[test]
    fn bits_beyond_the_last_cluster_are_refused() {
        assert!(ClusterMap::from_bytes(vec![0b111], 3).is_some());
        assert!(ClusterMap::from_bytes(vec![0b1111], 3).is_none());
        assert!(ClusterMap::from_bytes(vec![0xff], 8).is_some());
    }

    proptest! {
        #[test]
        fn it_is_the_set_it_was_made_of(clusters in 0u64..70, set in proptest::collection::btree_set(0u64..80, 0..40)) {
            let inside: BTreeSet<u64> = set.iter().copied().filter(|cluster| *cluster < clusters).collect();
            let map = map(clusters, &set);
            prop_assert_eq!(map.iter().collect::<BTreeSet<_>>(), inside.clone());
            prop_assert_eq!(map.count(), inside.len() as u64);
            prop_assert_eq!(ClusterMap::from_bytes(map.as_bytes().to_vec(), clusters), Some(map.clone()));
            prop_assert_eq!(ClusterMap::from_bytes(map.as_bytes().to_vec(), clusters + 8), None);
            prop_assert!((0..90).all(|cluster| map.contains(cluster) == inside.contains(&cluster)));
        }

        #[test]
        fn or_is_the_union_over_the_longer(a in proptest::collection::btree_set(0u64..40, 0..20),
                                          b in proptest::collection::btree_set(0u64..70, 0..20)) {
            let mut left = map(40, &a);
            left.or(&map(70, &b));
            prop_assert_eq!(left.len(), 70);
            prop_assert_eq!(left.iter().collect::<BTreeSet<_>>(), a.union(&b).copied().collect::<BTreeSet<_>>());
        }
    }
}
