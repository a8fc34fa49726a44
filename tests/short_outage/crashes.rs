//! The engine's node ends while a replica comes back. At its next start that replica is out, whatever it had by then: nobody reads it,
//! and nothing acknowledged is lost.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::lab::Lab;
use crate::support::client::Client;

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_at_any_step_of_a_return_comes_back_without_the_replica() {
    let mut lab = Lab::start().await;
    for point in [Point::ReturnProven, Point::ReturnJoined, Point::ReturnFilled] {
        println!("{point:?}");
        lab.cluster.nodes[0].faults().once(point, Action::Block);
        lab.kill_second().await;
        lab.start_second().await;
        lab.works_until_blocked(point).await;
        lab.cluster.nodes[0].kill9();
        lab.cluster.nodes[0].faults().clear();
        lab.start_first().await;
        let image = lab.client.image_of_all();
        lab.client = Client::with_image(&lab.cluster.get("vol").await, image).await;
        lab.client.check(usize::MAX).await;
        lab.client.resize(crate::lab::WRITTEN);
        assert_eq!(lab.mode().await, Some(wire::ReplicaMode::Err), "{point:?}");
        lab.rebuild_second().await;
        lab.until_quiet().await;
    }
    lab.check().await;
}
