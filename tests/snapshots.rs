//! Snapshots of real nodes: a restart reads the log behind the newest alone and has everything all the same; one that is
//! damaged is told by `verify`, and the node goes back to the one before it.

mod common;

use common::await_until;
use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::Load;
use std::path::PathBuf;
use synod::config::{Every, Group, Machine};
use synod_client::{Consistency, Counter, GroupId, Kv, KvReader, NodeId, ReadOptions};

const EVERY: u64 = 500;

fn cluster(name: &str, machine: Machine) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.groups = vec![Group { machine, ..Group::default() }];
        config.snapshot.every_entries = Every::Entries(EVERY);
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

/// Every node has written so many.
fn await_snapshots(cluster: &Cluster, count: u64) {
    for node in cluster.members() {
        let enough = || (cluster.counter(node, GROUP, Counter::SnapshotsWritten) >= count).then_some(());
        await_until(SOON, &format!("{count} snapshots of node {node}"), enough);
    }
}

/// The files of a node's snapshots, the newest last.
fn files(cluster: &Cluster, node: NodeId) -> Vec<PathBuf> {
    let dir = cluster.config.log_dir(node, GROUP);
    let names = std::fs::read_dir(dir).expect("the log's directory").map(|entry| entry.expect("a name").path());
    let mut files: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|ext| ext == "snap")).collect();
    files.sort();
    files
}

/// What the last start of a node found: the snapshot's slot (0: none), and the records that it read.
fn last_start(cluster: &Cluster, node: NodeId) -> (u64, u64) {
    let log = cluster.log(node);
    let line = log.lines().rev().find(|line| line.contains("the log is read")).expect("it tells");
    let number = |key: &str| {
        let rest = &line[line.find(key).unwrap_or_else(|| panic!("{key} in {line}")) + key.len()..];
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    (number("snapshot_slot"), number("records"))
}

#[test]
fn a_restart_reads_the_log_behind_the_snapshot_alone_and_has_everything() {
    let mut cluster = cluster("snapshots", Machine::Log);
    let load = Load::start(&cluster, GROUP, 2, 64);
    load.await_acks(20_000, SOON);
    await_snapshots(&cluster, 3);
    // Under load: what is accepted and not chosen at the end is above every snapshot.
    cluster.kill_all();
    cluster.start_all();
    cluster.await_leader(GROUP);
    load.await_acks(200, SOON);
    let told = load.finish();
    assert!(told.iter().all(|told| told.reopened == 0), "the sessions are in the snapshots");
    for node in cluster.members() {
        let (slot, _) = last_start(&cluster, node);
        assert!(slot > 0, "node {node} began with its first record");
        assert_eq!(files(&cluster, node).len(), 2, "two are kept");
    }
    // All entries from all nodes, those below the snapshots too, and `verify` over logs and snapshots.
    check_everything(&mut cluster, GROUP, &told);
}

#[test]
fn a_damaged_snapshot_is_told_and_the_one_before_it_is_used() {
    let mut cluster = cluster("snapshot-damage", Machine::Log);
    let load = Load::start(&cluster, GROUP, 1, 64);
    load.await_acks(5_000, SOON);
    await_snapshots(&cluster, 2);
    load.finish();
    cluster.await_converged(GROUP);
    cluster.stop_all();
    let whole = cluster.verify();
    assert_eq!((&whole["ok"], &whole["groups"][0]["logs"][0]["snapshots"]), (&true.into(), &2.into()), "{whole}");
    let node = NodeId(1);
    let newest = files(&cluster, node).pop().expect("a snapshot");
    // Each makes its own, of a slot of its own.
    let newest_of_other = files(&cluster, NodeId(0)).pop().expect("a snapshot");
    let mut bytes = std::fs::read(&newest).expect("its bytes");
    // Behind the header's block: in what every member has.
    bytes[16_384 + 16 + 40] ^= 0x40;
    std::fs::write(&newest, &bytes).expect("its bytes, changed");
    let dirs: Vec<String> = cluster.config.nodes.iter().map(|node| node.dir.display().to_string()).collect();
    let dirs: Vec<&str> = dirs.iter().map(String::as_str).collect();
    let output = cluster.synod(&[&["verify", "-o", "json"], &dirs[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let problem = &found["problems"][0];
    assert_eq!(
        (&found["ok"], &problem["fault"], &problem["node"]),
        (&false.into(), &"snapshot".into(), &1.into()),
        "{found}"
    );
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster.await_converged(GROUP);
    let slot =
        |path: &PathBuf| u64::from_str_radix(path.file_stem().and_then(|name| name.to_str()).unwrap(), 16).unwrap();
    assert!(last_start(&cluster, node).0 < slot(&newest), "not the damaged one");
    assert!(last_start(&cluster, node).0 > 0, "the one before it");
    assert_eq!(last_start(&cluster, NodeId(0)).0, slot(&newest_of_other), "the others had theirs");
}

#[test]
fn a_map_is_restored_with_what_came_behind_its_snapshot() {
    let mut cluster = cluster("snapshot-kv", Machine::Kv);
    let (id, members) = (cluster.config.cluster_id(), cluster.config.client_addresses(GROUP));
    let mut kv = Kv::connect(id, GROUP, members, 7, cluster.options()).expect("a session");
    for round in 0..EVERY + 20 {
        kv.put(format!("key-{}", round % 50).as_bytes(), format!("value-{round}").as_bytes()).expect("it is stored");
    }
    await_snapshots(&cluster, 1);
    kv.delete(b"key-3").expect("it is deleted");
    cluster.await_converged(GROUP);
    cluster.kill_all();
    cluster.start_all();
    cluster.await_leader(GROUP);
    for node in cluster.members() {
        assert!(last_start(&cluster, node).0 > 0, "node {node} began with its first record");
        let members = vec![cluster.config.client_address(node, GroupId(0))];
        let options = ReadOptions { deadline: SOON, ..ReadOptions::default() };
        let mut reader = KvReader::new(id, GROUP, members, options).expect("a socket");
        let mut get = |key: &str| {
            let read = reader.get(key.as_bytes(), Consistency::ReadIndex).expect("an answer");
            read.value.map(|value| value.bytes)
        };
        assert_eq!(get("key-3"), None);
        for key in (0..50).filter(|key| *key != 3) {
            let last = (0..EVERY + 20).rev().find(|round| round % 50 == key).unwrap();
            assert_eq!(get(&format!("key-{key}")), Some(format!("value-{last}").into_bytes()), "node {node}");
        }
    }
}
