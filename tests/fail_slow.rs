//! Disks that fail slowly, of real processes: a leader whose log takes ten times longer hands over, and one whose log hangs is
//! silent until it moves; clients get every entry acknowledged, once, whatever happens. The disk is slowed by the hook of the log-writer
//! thread (`ring/src/uring/delay.rs`).

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::Load;
use common::{await_until, say, serial};
use std::path::PathBuf;
use std::time::Instant;
use synod_wire::NodeId;
use synod_wire::client::Counter;

/// What a write takes more, microseconds: at least ten times what it takes on any disk that these tests run on.
const LATE_US: &str = "20000\n";
/// Entries that are acknowledged before and after.
const SOME: u64 = 200;

fn order_file(cluster: &Cluster, node: NodeId) -> PathBuf {
    cluster.dir().join(format!("delay-{node}"))
}

/// What the disk of a node does from now on.
fn order(cluster: &Cluster, node: NodeId, what: &str) {
    // Written aside: who looks sees all of it, or what was there before.
    let aside = cluster.dir().join("delay-new");
    std::fs::write(&aside, what).expect("write an order");
    std::fs::rename(aside, order_file(cluster, node)).expect("put it in its place");
}

fn prepared(name: &str, tune: impl FnOnce(&mut synod::config::Config)) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.wal.writer = synod::config::Writer::Thread;
        tune(config);
    });
    for node in cluster.members() {
        let file = order_file(&cluster, node);
        cluster.set_env(node, "SYNOD_TEST_LOG_DELAY", file.to_str().expect("a path in UTF-8"));
    }
    cluster.start_all();
    cluster
}

/// Waits until another than `old` leads and serves.
fn await_another(cluster: &Cluster, old: NodeId) -> NodeId {
    await_until(SOON, "another leads", || {
        let told = cluster.others(old).into_iter().filter_map(|node| cluster.status(node, GROUP));
        told.filter(|status| status.role_name() == "leader").map(|status| status.node).next()
    })
}

#[test]
fn a_leader_whose_disk_is_slow_hands_over_and_takes_nothing_back() {
    let _one = serial();
    let mut cluster = prepared("slow-disk", |_| {});
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(SOME, SOON);
    order(&cluster, leader, LATE_US);
    let since = Instant::now();
    let successor = await_another(&cluster, leader);
    say(&format!(
        "fail_slow: node {successor} leads {:?} after the disk of node {leader} became slow",
        since.elapsed()
    ));
    load.await_acks(SOME, SOON);
    assert_eq!(cluster.counter(leader, GROUP, Counter::SlowDiskYields), 1);
    assert_eq!(cluster.counter(successor, GROUP, Counter::SlowDiskYields), 0);
    // It was handed over, and nobody waited for a time-out.
    await_until(SOON, "the successor says that it was handed over", || {
        cluster.log(successor).contains("the leader handed over").then_some(())
    });
    // Whoever asks for it: the slow one takes nothing back for a while.
    let config = cluster.config_file().to_str().expect("a path in UTF-8").to_owned();
    let back = cluster.synod(&["transfer-leader", "--config", &config, "--to", &leader.to_string()]);
    assert!(!back.status.success(), "{}", String::from_utf8_lossy(&back.stdout));
    assert_ne!(cluster.await_leader(GROUP), leader);
    order(&cluster, leader, "");
    let told = load.finish();
    cluster.await_converged(GROUP);
    check_everything(&mut cluster, GROUP, &told);
}

#[test]
fn a_node_whose_disk_hangs_is_silent_until_it_moves() {
    let _one = serial();
    let mut cluster = prepared("hung-disk", |config| {
        // What is told apart here is a hang, not slowness.
        config.consensus.fail_slow_factor = 0;
        config.wal.hung_after_us = 200_000;
    });
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(SOME, SOON);
    order(&cluster, leader, "hang");
    let successor = await_another(&cluster, leader);
    load.await_acks(SOME, SOON);
    await_until(SOON, "the node says that its disk hangs", || {
        (cluster.counter(leader, GROUP, Counter::DiskHung) == 1).then_some(())
    });
    // Its vote counts for nothing: with one more gone, nobody is elected, and nothing is acknowledged.
    let third = cluster.others(leader).into_iter().find(|node| *node != successor).expect("three nodes");
    cluster.kill(third);
    await_until(SOON, "the rest is no quorum", || {
        let status = cluster.status(successor, GROUP)?;
        (status.mode == Some(synod_client::Mode::Degraded)).then_some(())
    });
    order(&cluster, leader, "");
    load.await_acks(SOME, SOON);
    cluster.start(third);
    let told = load.finish();
    cluster.await_converged(GROUP);
    check_everything(&mut cluster, GROUP, &told);
}
