//! The end of the engine's node between any two steps of an expansion: at the next start it is finished or was never begun, on
//! all replicas alike, and a repeated call does the rest.

use corriente::faults::{Action, Order, Point};

use crate::cluster::{MIB, SIZE};
use crate::lab::{Lab, Work, works_in};
use crate::support::client::Client;

/// Each step, how many pass it before the end, and whether the volume must be the larger one afterwards.
const STEPS: [(Point, u32, Option<bool>); 6] = [
    (Point::ExpansionBegins, 0, None),
    (Point::ReplicaGrows, 0, None),
    (Point::ReplicaGrown, 0, None),
    (Point::ExpansionGrown, 1, Some(true)),
    (Point::ExpansionSeen, 0, Some(true)),
    (Point::ExpansionServed, 0, Some(true)),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_that_the_end_of_the_node_cut_short_is_finished_or_was_never_begun() {
    let mut lab = Lab::start(2).await;
    let (mut image, mut size) = (lab.client().await.image(), SIZE);
    for (point, skip, grown) in STEPS {
        let mut client = Client::with_image(&lab.get().await, image).await;
        client.work().await;
        let wanted = size + 8 * MIB;
        lab.cluster.nodes[0].faults().order(point, Order { action: Action::Kill, skip, times: 1 });
        lab.expand(wanted).await.expect_err("the node ends");
        lab.cluster.nodes[0].killed().await;
        lab.cluster.nodes[0].start_again().await;
        let back = lab.runs_with(&[0, 1]).await;
        assert_eq!(back.port, lab.engine.port);
        assert!(grown.is_none_or(|grown| grown == (back.spec_size == wanted)), "{point:?}: {}", back.spec_size);
        for node in [0, 1] {
            assert_eq!(lab.replica_size(node).await, back.spec_size, "{point:?}");
        }

        let mut again = Client::with_image(&back, client.image()).await;
        assert_eq!(again.initiator().namespace().size_bytes(), back.spec_size, "{point:?}");
        again.check(usize::MAX).await;
        let work = Work::begin(again);
        lab.expand(wanted).await.expect("the repeated call does the rest");
        again = work.end().await;
        works_in(&mut again, wanted).await;
        lab.mirrored(&again, &[0, 1]).await;
        (image, size) = (again.image(), wanted);
    }
}
