//! What a replica gets that is back: of the regions that it missed, the clusters that its head or that of a replica in sync has of
//! its own. Where neither has one, both show the snapshot below, which is the same.

use std::ops::Range;

use crate::engine::backend::HeadMap;

/// The bytes of `missed` (in order, none twice) that lie in an own cluster of either head, for a volume of that size.
pub(super) fn to_copy(missed: &[Range<u64>], heads: [&HeadMap; 2], size: u64) -> Vec<Range<u64>> {
    let mut own: Vec<Range<u64>> = heads.into_iter().flat_map(|head| clusters(head, size)).collect();
    own.sort_by_key(|range| range.start);
    let mut own = joined(own).into_iter().peekable();
    let mut copied = Vec::new();
    for region in missed {
        while own.next_if(|range| range.end <= region.start).is_some() {}
        // One that goes on beyond the region is looked at again for the next.
        while let Some(range) = own.peek().filter(|range| range.start < region.end).cloned() {
            copied.push(range.start.max(region.start)..range.end.min(region.end));
            if range.end > region.end || own.next().is_none() {
                break;
            }
        }
    }
    copied
}

fn clusters(head: &HeadMap, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let bytes = move |cluster: u64| cluster * head.cluster_size..size.min((cluster + 1) * head.cluster_size);
    head.clusters.iter().map(bytes).filter(|range| !range.is_empty())
}

/// Ranges in order of their starts, those that meet made one.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdk::clustermap::ClusterMap;

    fn head(cluster_size: u64, count: u64, own: &[u64]) -> HeadMap {
        let mut clusters = ClusterMap::empty(count);
        own.iter().for_each(|cluster| clusters.insert(*cluster));
        HeadMap { cluster_size, clusters }
    }

    #[test]
    fn only_what_was_missed_and_is_in_a_head_is_copied() {
        let (one, two) = (head(10, 10, &[0, 3, 4, 9]), head(20, 5, &[3]));
        let missed = [0..5, 35..45, 45..50, 60..95];
        assert_eq!(to_copy(&missed, [&one, &two], 95), [0..5, 35..45, 45..50, 60..80, 90..95]);
        assert_eq!(to_copy(&[], [&one, &two], 95), []);
        assert_eq!(to_copy(&missed, [&head(10, 10, &[]), &head(10, 10, &[])], 95), []);
        let all = head(10, 10, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(to_copy(&missed, [&all, &one], 95), missed);
    }
}
