//! Which parts of a chain of layers hold data, and which changed between two of its snapshots. Pure.

use crate::backup::{ByteOffset, ChangedMap, Extent};
use crate::spdk::clustermap::ClusterMap;

/// The map of a backup: `layers` are the own clusters of the snapshot and its ancestors, the snapshot's first;
/// `above_base` of them are strictly above the base (all of them without a base).
pub(super) fn changed_map(layers: &[ClusterMap], above_base: usize, cluster_size: u64) -> ChangedMap {
    let union = |layers: &[ClusterMap]| {
        let mut union = ClusterMap::empty(0);
        layers.iter().for_each(|layer| union.or(layer));
        union
    };
    ChangedMap {
        changed: extents(&union(&layers[..above_base.min(layers.len())]), cluster_size),
        allocated: extents(&union(layers), cluster_size),
    }
}

/// The clusters of a map as the fewest ranges.
pub(super) fn extents(map: &ClusterMap, cluster_size: u64) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for cluster in map.iter() {
        let offset = cluster * cluster_size;
        match extents.last_mut() {
            Some(last) if last.offset.0 + last.length == offset => last.length += cluster_size,
            _ => extents.push(Extent { offset: ByteOffset(offset), length: cluster_size }),
        }
    }
    extents
}

/// The parts of `range` (offset, length) that lie in clusters of the map.
pub(super) fn held_parts(map: &ClusterMap, cluster_size: u64, offset: u64, length: u64) -> Vec<(u64, u64)> {
    let end = offset.saturating_add(length);
    let parts = extents(map, cluster_size).into_iter().filter_map(|extent| {
        let first = extent.offset.0.max(offset);
        let last = (extent.offset.0 + extent.length).min(end);
        (first < last).then(|| (first, last - first))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(clusters: u64, own: &[u64]) -> ClusterMap {
        let mut map = ClusterMap::empty(clusters);
        own.iter().for_each(|cluster| map.insert(*cluster));
        map
    }

    fn pairs(extents: &[Extent]) -> Vec<(u64, u64)> {
        extents.iter().map(|extent| (extent.offset.0, extent.length)).collect()
    }

    #[test]
    fn only_layers_above_the_base_count_as_changed() {
        // The oldest is smaller: it was made before an expansion.
        let layers = [layer(8, &[1, 7]), layer(8, &[2]), layer(4, &[0, 1, 3])];
        let map = changed_map(&layers, 2, 10);
        assert_eq!(pairs(&map.changed), [(10, 20), (70, 10)]);
        assert_eq!(pairs(&map.allocated), [(0, 40), (70, 10)]);
    }

    #[test]
    fn without_a_base_all_that_is_allocated_changed() {
        let layers = [layer(4, &[]), layer(4, &[1])];
        let map = changed_map(&layers, layers.len(), 10);
        assert_eq!(map.changed, map.allocated);
        assert_eq!(pairs(&map.changed), [(10, 10)]);
    }

    #[test]
    fn a_range_is_cut_to_what_is_held() {
        let map = layer(8, &[1, 2, 5]);
        assert_eq!(held_parts(&map, 10, 0, 80), [(10, 20), (50, 10)]);
        assert_eq!(held_parts(&map, 10, 15, 3), [(15, 3)]);
        assert_eq!(held_parts(&map, 10, 25, 30), [(25, 5), (50, 5)]);
        assert_eq!(held_parts(&map, 10, 30, 20), []);
        assert_eq!(held_parts(&map, 10, 55, u64::MAX), [(55, 5)]);
    }
}
