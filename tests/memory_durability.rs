//! `wal.durability = "memory"`: what an acknowledgement says, who may be started again, and what the logs keep.

mod common;

use common::check::{check_everything, check_log, read_log};
use common::cluster::{Cluster, GROUP};
use common::load::{Load, Told, acknowledged};
use common::serial;
use std::time::Duration;
use synod::config::Durability;
use synod_client::NodeId;

const ENOUGH: u64 = 200;
const SOON: Duration = Duration::from_secs(20);

fn in_memory(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| config.wal.durability = Durability::Memory);
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

/// What every acknowledgement of a load rested on.
fn all_rest_on(told: &[Told], durability: synod_client::Durability) {
    for ack in told.iter().flat_map(|told| told.acks.iter().flatten()) {
        assert_eq!(ack.durability, durability, "sequence {}", ack.sequence);
    }
}

/// Starts a node that must refuse to, and returns what it says.
fn refused(cluster: &mut Cluster, node: NodeId) -> String {
    cluster.start(node);
    let status = cluster.await_end(node);
    assert_eq!(status.code(), Some(1), "node {node} must not run");
    cluster.log(node)
}

#[test]
fn who_was_killed_is_refused_whatever_the_configuration_says_and_its_log_stays_readable() {
    let _one = serial();
    let mut cluster = in_memory("memory-kill");
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(ENOUGH, SOON);
    let victim = cluster.await_leader(GROUP);
    cluster.kill(victim);
    load.await_acks(ENOUGH, SOON);
    let said = refused(&mut cluster, victim);
    assert!(said.contains("ran under memory durability") && said.contains("must not vote"), "{said}");
    // Neither a change of the configuration nor another try brings it back.
    cluster.set_env(victim, "SYNOD__WAL__DURABILITY", "disk");
    let before = said.matches("ran under memory durability").count();
    let said = refused(&mut cluster, victim);
    assert!(said.matches("ran under memory durability").count() > before, "{said}");
    load.await_acks(ENOUGH, SOON);
    let told = load.finish();
    all_rest_on(&told, synod_client::Durability::Memory);
    let leader = cluster.await_leader(GROUP);
    check_log(&read_log(&cluster, leader, GROUP, &told), &told);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!(report["ok"], true, "{report}");
    let unsynced: Vec<bool> = report["groups"][0]["logs"]
        .as_array()
        .expect("a list of logs")
        .iter()
        .map(|log| log["unsynced"].as_bool().expect("a bool"))
        .collect();
    let expected: Vec<bool> = cluster.members().iter().map(|node| *node == victim).collect();
    assert_eq!(unsynced, expected, "{report}");
}

#[test]
fn who_was_stopped_in_order_comes_back_with_everything_and_under_disk_durability_may_crash_again() {
    let _one = serial();
    let mut cluster = in_memory("memory-stop");
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(ENOUGH, SOON);
    // One after the other under load, the leader among them.
    for node in cluster.members() {
        cluster.stop(node);
        cluster.start(node);
        cluster.await_leader(GROUP);
        load.await_acks(ENOUGH, SOON);
    }
    let mut told = load.finish();
    all_rest_on(&told, synod_client::Durability::Memory);
    // All at once, and back on the disks: nothing is lost, and from here on a crash is survived again.
    cluster.stop_all();
    cluster.config.wal.durability = Durability::Disk;
    cluster.write_config();
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(ENOUGH, SOON);
    cluster.kill_all();
    cluster.start_all();
    cluster.await_leader(GROUP);
    load.await_acks(ENOUGH, SOON);
    let later = load.finish();
    all_rest_on(&later, synod_client::Durability::Disk);
    told.extend(later);
    assert!(acknowledged(&told) >= 6 * ENOUGH);
    check_everything(&mut cluster, GROUP, &told);
}
