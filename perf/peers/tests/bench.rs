//! `synod-peer` as `synod-perf compare` runs it: real nodes, real logs, its answer read through the contract.

#[path = "../src/contract.rs"]
mod contract;

use contract::{NodeSyncs, Outcome};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the end of a process may take.
const END_WAIT: Duration = Duration::from_secs(10);

/// One peer, its logs below `dir`, its tools from `tools`.
fn bench(peer: &str, dir: &Path, tools: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synod-peer"));
    command.args(["bench", "--peer", peer, "--dir"]).arg(dir).arg("--tools").arg(tools).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Its answer.
fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    assert!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A directory with libraft's node, or why it cannot be compiled here.
fn libraft_tools() -> Result<tempfile::TempDir, String> {
    let tools = tempfile::tempdir().unwrap();
    std::fs::create_dir(tools.path().join("bin")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("libraft/build.sh");
    let built = Command::new(script).arg(tools.path().join("bin/libraft-node")).output().unwrap();
    match Path::new("/usr/include/raft/uv.h").exists() {
        true => assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr)),
        false => return Err("libraft-dev is not installed".into()),
    }
    Ok(tools)
}

/// Says so; a failure where everything can run (`.ci/run` sets the variable).
fn skip(test: &str, why: &str) {
    let required = std::env::var("SYNOD_REQUIRE_ROOT_TESTS").is_ok_and(|value| value == "1");
    assert!(!required, "{test} must not be skipped (SYNOD_REQUIRE_ROOT_TESTS=1), but: {why}");
    println!("SKIPPED {test}: {why}");
}

/// Runs it at one and at sixteen in flight, and counts its syncs: every commit has one on two nodes.
fn check_measured(peer: &str, tools: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let length = ["--outstanding", "1,16", "--ms", "1000", "--warm-up-ms", "50", "--count-ms", "1000"];
    let outcome = outcome(&mut bench(peer, dir.path(), tools, &length));
    assert_eq!((outcome.peer.as_str(), &outcome.absent), (peer, &None));
    assert!(!outcome.version.is_empty());
    let outstanding: Vec<usize> = outcome.levels.iter().map(|level| level.outstanding).collect();
    assert_eq!(outstanding, [1, 16]);
    for level in &outcome.levels {
        let latencies: u64 = level.latency_ns.iter().map(|(_, count)| count).sum();
        assert!(level.ended > 0 && latencies > 0 && level.elapsed_ns == 1_000_000_000, "{level:?}");
        // What started in time and what ended in time differ by what was in flight at both ends.
        assert!(level.ended.abs_diff(latencies) <= level.outstanding as u64, "{} and {latencies}", level.ended);
    }
    let syncs = outcome.syncs.expect("it was asked to count");
    let most = |node: &NodeSyncs| node.log.min(syncs.commits);
    assert!(syncs.commits > 0 && syncs.nodes.len() == 3, "{syncs:?}");
    assert!(syncs.nodes.iter().map(most).sum::<u64>() >= 2 * syncs.commits, "{syncs:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its logs are gone");
}

#[cfg(feature = "raft-rs")]
#[test]
fn raft_rs_is_measured_and_syncs_every_commit() {
    check_measured("raft-rs", Path::new("/"));
}

#[cfg(not(feature = "raft-rs"))]
#[test]
fn a_peer_that_was_left_out_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let absent = outcome(&mut bench("raft-rs", dir.path(), dir.path(), &[])).absent;
    assert!(absent.is_some_and(|why| why.contains("feature raft-rs")));
}

#[test]
fn libraft_is_measured_and_syncs_every_commit() {
    match libraft_tools() {
        Ok(tools) => check_measured("libraft", tools.path()),
        Err(why) => skip("libraft_is_measured_and_syncs_every_commit", &why),
    }
}

#[test]
fn a_peer_that_is_not_installed_is_absent_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    for (peer, program) in [("etcd", "bin/etcd"), ("nats", "bin/nats-server"), ("libraft", "bin/libraft-node")] {
        let outcome = outcome(&mut bench(peer, dir.path(), dir.path(), &[]));
        assert!(outcome.levels.is_empty() && outcome.syncs.is_none(), "{outcome:?}");
        let why = outcome.absent.expect("it cannot be there");
        assert!(why.contains(program) && why.contains("install.sh"), "{why}");
    }
}

/// Processes that a process started and that live.
fn children(process: u32) -> BTreeSet<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// Kills it, whatever becomes of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn no_node_outlives_a_bench_that_is_killed() {
    let tools = match libraft_tools() {
        Ok(tools) => tools,
        Err(why) => return skip("no_node_outlives_a_bench_that_is_killed", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Killed(bench("libraft", dir.path(), tools.path(), &["--ms", "60000"]).spawn().unwrap());
    let until = Instant::now() + END_WAIT;
    while children(bench.0.id()).len() < 3 {
        assert!(Instant::now() < until && bench.0.try_wait().unwrap().is_none(), "it starts three nodes");
        std::thread::yield_now();
    }
    let nodes = children(bench.0.id());
    let ends: Vec<_> = nodes.iter().map(|node| pidfd(*node)).collect();
    bench.0.kill().unwrap();
    bench.0.wait().unwrap();
    for (node, end) in nodes.iter().zip(ends) {
        let mut wait = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
        let most = rustix::event::Timespec::try_from(END_WAIT).unwrap();
        assert_eq!(rustix::event::poll(&mut wait, Some(&most)), Ok(1), "node {node} lives on");
    }
    let mut said = String::new();
    bench.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "nothing was measured");
}

/// Becomes readable when the process ends.
fn pidfd(process: u32) -> std::os::fd::OwnedFd {
    let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap()
}
