//! From one engine of a volume to another on another node.

use corriente::initiator::{Initiator, Options};
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{Cluster, MIB, NVMF, SIZE, connect, fill, holds, host, nqn, refused, request, target_of};

/// A volume with an engine on each node, and its frontend on the first.
struct Migration {
    cluster: Cluster,
    targets: [String; 2],
}

impl Migration {
    async fn start() -> Self {
        let cluster = Cluster::start(2).await;
        let replicas = cluster.replicas("v1").await;
        let old = target_of(&cluster.engine(0, ("v1", 0), NVMF, replicas.clone()).await);
        cluster.frontend(0, request("v1", NVMF, &old)).await;
        let new = target_of(&cluster.engine(1, ("v1", 1), NVMF, replicas).await);
        Self { cluster, targets: [old, new] }
    }

    async fn switch(&self, engine: &str, target: &str, phase: &str) -> Result<(), Status> {
        let request = wire::EngineFrontendSwitchOverRequest {
            name: "v1-ef".into(),
            engine_name: engine.into(),
            target_address: target.into(),
            switchover_phase: phase.into(),
        };
        self.cluster.nodes[0].spdk().engine_frontend_switch_over(request).await.map(drop)
    }

    async fn frontend(&self) -> wire::EngineFrontend {
        self.cluster.frontend_get(0, "v1").await.expect("it is there")
    }

    /// The access states of its paths, the active one first.
    async fn states(&self) -> Vec<(String, String)> {
        self.frontend().await.paths.into_iter().map(|path| (path.engine_name, path.ana_state)).collect()
    }

    /// Whether a host gets at the data of a target. One that is closed takes no connections, or, where the linked SPDK has
    /// access states, no I/O.
    async fn is_open(&self, target: usize) -> bool {
        let nqn = corriente::name::Nqn::parse(&nqn("v1")).expect("an NQN");
        let address = self.targets[target].parse().expect("an address");
        match Initiator::connect(address, &nqn, &host(), Options::default()).await {
            Ok(host) => host.read(0, &mut [0; 4096]).await.is_ok(),
            Err(_) => false,
        }
    }
}

fn states(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(engine, state)| ((*engine).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_to_another_engine_in_three_phases_with_its_data() {
    let migration = Migration::start().await;
    let (old, new) = (migration.targets[0].clone(), migration.targets[1].clone());
    let volume = connect(&migration.frontend().await.endpoint).await;
    fill(&volume, 0, MIB, 0x11).await;

    migration.switch("v1-e-1", &new, "preparing").await.expect("prepared");
    assert_eq!(migration.states().await, states(&[("v1-e-0", "optimized"), ("v1-e-1", "inaccessible")]));
    assert!(migration.is_open(0).await && !migration.is_open(1).await);
    fill(&volume, MIB, MIB, 0x22).await;

    migration.switch("v1-e-1", &new, "switching").await.expect("switched");
    migration.switch("v1-e-1", &new, "switching").await.expect("switched already is done");
    assert!(!migration.is_open(0).await && !migration.is_open(1).await, "no two engines are open");
    assert_eq!(migration.frontend().await.active_path, old);

    migration.switch("v1-e-1", &new, "promoting").await.expect("promoted");
    let frontend = migration.frontend().await;
    assert_eq!((frontend.engine_name.as_str(), frontend.active_path.as_str()), ("v1-e-1", new.as_str()));
    assert_eq!(migration.states().await, states(&[("v1-e-1", "optimized"), ("v1-e-0", "inaccessible")]));
    assert!(!migration.is_open(0).await, "the old engine serves no I/O");
    let volume = connect(&frontend.endpoint).await;
    assert!(holds(&volume, 0, MIB, 0x11).await && holds(&volume, MIB, MIB, 0x22).await);
    fill(&volume, 2 * MIB, MIB, 0x33).await;
    migration.switch("v1-e-1", &new, "promoting").await.expect("promoted already is done");

    // The old engine goes, and what goes through the frontend reaches the new one.
    let mut spdk = migration.cluster.nodes[0].spdk();
    spdk.engine_delete(wire::EngineDeleteRequest { name: "v1-e-0".into() }).await.expect("the old engine is deleted");
    spdk.engine_frontend_snapshot_create(crate::cluster::snapshot("v1", "s1")).await.expect("a snapshot");
    let engine = migration.cluster.engine_get(1, "v1-e-1").await.expect("it is there");
    assert_eq!(engine.snapshots.into_keys().collect::<Vec<_>>(), ["s1"]);
    assert!(holds(&volume, 2 * MIB, MIB, 0x33).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_phase_means_all_and_the_way_back_is_the_same() {
    let migration = Migration::start().await;
    let (old, new) = (migration.targets[0].clone(), migration.targets[1].clone());
    migration.switch("v1-e-1", &new, "").await.expect("switched over");
    let volume = connect(&migration.frontend().await.endpoint).await;
    fill(&volume, 0, MIB, 0x44).await;
    volume.disconnect().await.expect("an orderly end");
    migration.switch("v1-e-0", &old, "").await.expect("switched back");
    let frontend = migration.frontend().await;
    assert_eq!((frontend.engine_name.as_str(), frontend.active_path.as_str()), ("v1-e-0", old.as_str()));
    assert!(holds(&connect(&frontend.endpoint).await, 0, MIB, 0x44).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_over_that_cannot_be_is_refused_and_the_volume_stays_where_it_is() {
    let migration = Migration::start().await;
    let (old, new) = (migration.targets[0].clone(), migration.targets[1].clone());
    let volume = connect(&migration.frontend().await.endpoint).await;
    refused(migration.switch("v1-e-1", &new, "finalizing").await, Code::InvalidArgument, "switchover_phase");
    refused(migration.switch("v1-e-1", "", "").await, Code::InvalidArgument, "target_address");
    refused(migration.switch("", &new, "").await, Code::InvalidArgument, "engine_name");
    refused(migration.switch("v1-e-7", &new, "").await, Code::NotFound, "v1-e-7");
    let elsewhere = new.replace(new.rsplit_once(':').expect("a port").1, "29999");
    refused(migration.switch("v1-e-1", &elsewhere, "").await, Code::FailedPrecondition, "its target is at");
    migration.switch("v1-e-1", &new, "preparing").await.expect("prepared");
    refused(migration.switch("v1-e-7", &new, "promoting").await, Code::FailedPrecondition, "v1-e-1");
    migration.cluster.suspend(0, "v1").await.expect("it is suspended");
    refused(migration.switch("v1-e-1", &new, "").await, Code::FailedPrecondition, "resume it");
    migration.cluster.resume(0, "v1").await.expect("it goes on");
    assert_eq!(migration.frontend().await.active_path, old);
    fill(&volume, 0, MIB, 0x55).await;
    // Given up: the engine in use is asked for.
    migration.switch("v1-e-0", &old, "").await.expect("it is there already");
    assert!(holds(&volume, 0, MIB, 0x55).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_states_are_set_by_call_and_closed_targets_keep_their_address() {
    let cluster = Cluster::start(1).await;
    let engine = cluster.volume("v1", NVMF).await;
    let mut spdk = cluster.nodes[0].spdk();
    let state = |name: &str, state: &str| wire::EngineSetTargetListenerAnaStateRequest {
        name: name.into(),
        ana_state: state.into(),
    };
    refused(
        spdk.engine_set_target_listener_ana_state(state("v1-e-0", "lost")).await,
        Code::InvalidArgument,
        "ana_state",
    );
    refused(spdk.engine_set_target_listener_ana_state(state("absent", "optimized")).await, Code::NotFound, "absent");
    let endpoint = format!("nvmf://{}/{}", target_of(&engine), nqn("v1"));
    let volume = connect(&endpoint).await;
    fill(&volume, 0, MIB, 0x66).await;
    let size = volume.namespace().size_bytes();
    assert_eq!(size, SIZE);
    spdk.engine_set_target_listener_ana_state(state("v1-e-0", "inaccessible")).await.expect("closed");
    let mut data = vec![0; 4096];
    volume.read(0, &mut data).await.expect_err("a closed target serves no I/O");
    let closed = cluster.engine_get(0, "v1-e-0").await.expect("it is there");
    assert_eq!((closed.state.as_str(), closed.port), ("running", engine.port));
    spdk.engine_set_target_listener_ana_state(state("v1-e-0", "non-optimized")).await.expect("open");
    assert!(holds(&connect(&endpoint).await, 0, MIB, 0x66).await);
    spdk.engine_set_target_listener_ana_state(state("v1-e-0", "optimized")).await.expect("open");
}

/// The new engine starts over replicas that the old one writes to. Where those are dirty they may differ for a moment, with the
/// writes in flight; a copy between them then would undo an acknowledged write.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_engine_copies_nothing_between_replicas_that_the_old_one_writes_to() {
    let cluster = Cluster::start(2).await;
    let replicas = cluster.replicas("v1").await;
    let old = target_of(&cluster.engine(0, ("v1", 0), NVMF, replicas.clone()).await);
    cluster.frontend(0, request("v1", NVMF, &old)).await;
    let volume = connect(&cluster.frontend_get(0, "v1").await.expect("it is there").endpoint).await;
    fill(&volume, 0, MIB, 0x55).await;
    cluster.engine(1, ("v1", 1), NVMF, replicas).await;
    fill(&volume, 4 * MIB, MIB, 0x66).await;
    let log = cluster.nodes[1].log();
    assert!(
        !log.contains("members may differ"),
        "the new engine makes members equal under the old one's writes:\n{log}"
    );
}

/// The engine in use puts the replica out, though the one that waits has raised the generation of the others; and that one takes part
/// without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_fails_while_the_next_engine_waits_costs_no_write_and_is_not_read_by_that_engine() {
    let mut cluster = Cluster::start(3).await;
    let replicas = cluster.replicas("v1").await;
    let old = target_of(&cluster.engine(0, ("v1", 0), NVMF, replicas.clone()).await);
    cluster.frontend(0, request("v1", NVMF, &old)).await;
    let volume = connect(&cluster.frontend_get(0, "v1").await.expect("it is there").endpoint).await;
    fill(&volume, 0, MIB, 0x11).await;
    let new = target_of(&cluster.engine(1, ("v1", 1), NVMF, replicas).await);
    cluster.nodes[2].kill9();
    fill(&volume, 0, 4 * MIB, 0x22).await;
    let order = wire::EngineFrontendSwitchOverRequest {
        name: "v1-ef".into(),
        engine_name: "v1-e-1".into(),
        target_address: new,
        switchover_phase: String::new(),
    };
    cluster.nodes[0].spdk().engine_frontend_switch_over(order).await.expect("switched over");
    let volume = connect(&cluster.frontend_get(0, "v1").await.expect("it is there").endpoint).await;
    assert!(holds(&volume, 0, 4 * MIB, 0x22).await);
    fill(&volume, MIB, MIB, 0x33).await;
    let engine = cluster.engine_get(1, "v1-e-1").await.expect("it is there");
    assert_eq!(engine.replica_mode_map["v1-r-00000002"], wire::ReplicaMode::Err as i32, "{engine:?}");
    assert_eq!(engine.replica_mode_map["v1-r-00000000"], wire::ReplicaMode::Rw as i32, "{engine:?}");
}
