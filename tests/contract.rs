//! What Longhorn's own tests of its engine demand (`engine-behaviour` §13.1), in our words and from outside. Each test has
//! the name of Longhorn's; docs/conformance.md says which other tests stand for the rest.

mod support;

#[path = "contract/both_ways.rs"]
mod both_ways;
// Shared with the tests of frontends, which use more of it.
#[allow(dead_code)]
#[path = "frontend/cluster.rs"]
mod cluster;
#[path = "contract/discovery.rs"]
mod discovery;
#[path = "contract/disks.rs"]
mod disks;
#[path = "contract/hazards.rs"]
mod hazards;
#[path = "contract/labels.rs"]
mod labels;
#[path = "contract/metrics.rs"]
mod metrics;
#[path = "contract/no_replica.rs"]
mod no_replica;
#[path = "contract/orphans.rs"]
mod orphans;
#[path = "contract/raw.rs"]
mod raw;
#[path = "contract/rebuilding.rs"]
mod rebuilding;
#[path = "contract/replica_add.rs"]
mod replica_add;
#[path = "contract/replicas.rs"]
mod replicas;
#[path = "contract/salvage.rs"]
mod salvage;
#[path = "contract/snapshots.rs"]
mod snapshots;
#[path = "contract/volume.rs"]
mod volume;
