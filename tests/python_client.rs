//! An independent client: Python with stubs that are generated here and now from our `.proto` files, as a user would
//! have them. Needs Debian's own Python and gRPC, which `scripts/setup` installs.

mod support;

use std::path::Path;
use std::time::Duration;

use support::node::{Node, NodeOptions};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(180);

/// Runs a program from the repository's root; its output is in the panic when it fails.
async fn succeeds(what: &str, command: &mut Command) -> String {
    command.current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{what} runs longer than {LIMIT:?}")).expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

async fn stubs(directory: &Path) {
    succeeds("examples/stubs", Command::new("examples/stubs").arg(directory)).await;
}

fn python(stubs: &Path, script: &str, nodes: &[Node]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).env("PYTHONPATH", stubs).env("PYTHONDONTWRITEBYTECODE", "1");
    for node in nodes {
        command.args(["--node", &node.grpc_address().to_string()]);
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_examples_runs_and_leaves_nothing() {
    let nodes = [Node::start(NodeOptions::named("a")).await, Node::start(NodeOptions::named("b")).await];
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let generated = work.path().join("stubs");
    stubs(&generated).await;
    // Twice: what the first left behind would be in the way of the second.
    for _ in 0..2 {
        let mut tour = python(&generated, "examples/tour.py", &nodes);
        let output = succeeds("examples/tour.py", tour.arg("--work").arg(work.path())).await;
        for words in ["backup tour-backup-1: full", "backup tour-backup-2: incremental", "equal: "] {
            assert!(output.contains(words), "{words:?} is not in {output}");
        }
        std::fs::remove_dir_all(work.path().join("backups")).expect("the backups");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_language_sees_codes_texts_watches_and_health_as_grpc_has_them() {
    let nodes = [Node::start(NodeOptions::named("a")).await];
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let generated = work.path().join("stubs");
    stubs(&generated).await;
    let mut checks = python(&generated, "tests/python_client/checks.py", &nodes);
    succeeds("tests/python_client/checks.py", checks.arg("--work").arg(work.path())).await;
}
