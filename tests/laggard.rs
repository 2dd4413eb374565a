//! A member that was away while the others gave up the front of their logs, and one that joins after that: both are sent a snapshot.
//! Who is killed while one comes goes on where it was, though newer ones were made meanwhile.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::numbered::{append, read, synod};
use common::{await_until, serial};
use std::process::Output;
use std::time::Duration;
use synod::config::{Every, Group, Machine};
use synod_client::{Appender, Counter, NodeId};
use synod_wal::{Expect, snapshot};
use synod_wire::Slot;
use synod_wire::frame::checksum;
use synod_wire::kv::{Command, MAX_COMMAND_BYTES};

const ENTRIES: u64 = 24_000;
const KEPT_FROM: u64 = 20_000;
const SNAPSHOT_EVERY: u64 = 2_000;
/// What housekeeping does takes so long at most: it has the lowest priority, and other work on the machine goes first.
const IN_ITS_TIME: Duration = Duration::from_secs(100);

fn run(cluster: &Cluster, command: &[&str], rest: &[&str]) -> Output {
    let output = synod(cluster, command, rest);
    assert!(output.status.success(), "{command:?} {rest:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A node has applied what the leader has, and began with a snapshot of another's.
fn await_caught_up(cluster: &Cluster, node: NodeId) {
    let furthest = cluster.members().into_iter().filter_map(|other| cluster.status(other, GROUP)).map(|s| s.tail).max();
    await_until(SOON, &format!("node {node} catches up"), || {
        cluster.status(node, GROUP).filter(|status| Some(status.tail) >= furthest).map(drop)
    });
    let dir = cluster.config.log_dir(node, GROUP).display().to_string();
    await_until(SOON, "its log and its events tell of the snapshot", || {
        let events = cluster.synod(&["inspect", "events", "--dir", &dir]).stdout;
        let all = [cluster.log(node), String::from_utf8_lossy(&events).into_owned()];
        let told = ["a snapshot is fetched", "a member's snapshot is installed"];
        told.iter().all(|what| all.iter().all(|text| text.contains(what))).then_some(())
    });
}

/// Trims all but the last entries, and waits until the others' logs begin above what `away` has.
fn trim(cluster: &Cluster, away: NodeId, before: u64) {
    // A member that was heard of late holds trims back.
    await_until(SOON, "nothing holds the trim back", || {
        let output = run(cluster, &["trim"], &["--before", &before.to_string(), "-o", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (told["held_back_by"] == "nothing").then_some(())
    });
    for node in cluster.others(away) {
        let removed = || (cluster.counter(node, GROUP, Counter::SegmentsRemoved) >= 4).then_some(());
        await_until(IN_ITS_TIME, &format!("the log's front of node {node} is removed"), removed);
    }
}

#[test]
fn who_lacks_what_the_others_gave_up_is_sent_a_snapshot() {
    let _one = serial();
    let mut cluster = Cluster::prepare("laggard", |config| {
        config.wal.segment_bytes = 4 << 20;
        config.snapshot.every_entries = Every::Entries(SNAPSHOT_EVERY);
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 1, 100);
    let away = cluster.others(leader)[0];
    cluster.kill(away);
    append(&cluster, 101, ENTRIES - 100);
    trim(&cluster, away, KEPT_FROM);
    cluster.start(away);
    await_caught_up(&cluster, away);
    append(&cluster, ENTRIES + 1, 100);
    read(&cluster, None, KEPT_FROM, ENTRIES + 100 + 1 - KEPT_FROM);

    // It is worth as much as the others: the group goes on with it and one more.
    let other = cluster.others(away).into_iter().find(|node| *node != leader).expect("three members");
    cluster.kill(other);
    append(&cluster, ENTRIES + 101, 100);
    cluster.start(other);

    // A new member finds nothing of the log's beginning anywhere.
    let new = cluster.add_node();
    assert!(cluster.format(new).status.success());
    cluster.start(new);
    run(&cluster, &["member", "add"], &["--node", &new.to_string()]);
    run(&cluster, &["member", "promote"], &["--node", &new.to_string()]);
    await_caught_up(&cluster, new);
    append(&cluster, ENTRIES + 201, 100);
    read(&cluster, None, KEPT_FROM, ENTRIES + 300 + 1 - KEPT_FROM);

    cluster.kill_all();
    cluster.start_all();
    cluster.await_leader(GROUP);
    append(&cluster, ENTRIES + 301, 100);
    cluster.await_converged(GROUP);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!(report["ok"], true, "{report}");
}

/// Keys of a map, and bytes of each value: a state of some MiB, which takes seconds at the pace that the test sets.
const KEYS: u64 = 8_000;
const VALUE_BYTES: usize = 1_000;
const PACE_BYTES_PER_S: u64 = 2 << 20;
/// A receiver that has so much is killed.
const BEFORE_THE_KILL: u64 = 3 << 20;

/// Puts to one key after the other.
fn put(cluster: &Cluster, appender: &mut Appender, count: u64) {
    let first = appender.next_client_seq();
    let puts = (first..first + count).map(|number| {
        let (key, value) = ((number % KEYS).to_le_bytes(), [number as u8; VALUE_BYTES]);
        let mut out = [0; MAX_COMMAND_BYTES];
        let bytes = Command::Put { key: &key, value: &value }.write(&mut out).expect("a put of an allowed length");
        out[..bytes].to_vec()
    });
    let appended = appender.append_all(puts, |_| {}).expect("the puts are committed");
    assert_eq!(appended, count, "{:?}", cluster.members());
}

/// All but one have made a snapshot of one of the last slots: no other is due before more is appended.
fn await_snapshots(cluster: &Cluster, away: NodeId) {
    for node in cluster.others(away) {
        let newest = || {
            let status = cluster.status(node, GROUP)?;
            let newest = status.picture?.snapshot?;
            (newest.0 + 100 > status.applied.0).then_some(())
        };
        await_until(IN_ITS_TIME, &format!("node {node} makes the last snapshot that is due"), newest);
    }
}

/// The snapshots that a node has: each slot, and the checksum of the state.
fn states(cluster: &Cluster, node: NodeId) -> Vec<(Slot, u32)> {
    let dir = cluster.config.nodes[usize::from(node.0)].dir.join("group-000");
    let expect = Expect { cluster: cluster.config.cluster_id(), group: GROUP, node };
    // One may be removed, and a newer one be there, between the two.
    let read = |slot| snapshot::read(dir.as_path(), &expect, slot).ok();
    let state = |slot| {
        let read = read(slot)?;
        Some((slot, checksum(synod_wire::snapshot::parts(&read.body).expect("a whole snapshot").0)))
    };
    snapshot::list(dir.as_path()).expect("a directory").into_iter().filter_map(state).collect()
}

#[test]
fn who_is_killed_while_a_snapshot_comes_goes_on_where_it_was() {
    let _one = serial();
    let mut cluster = Cluster::prepare("laggard-killed", |config| {
        config.wal.segment_bytes = 4 << 20;
        config.snapshot.every_entries = Every::Entries(SNAPSHOT_EVERY);
        config.catchup.max_bytes_per_s = PACE_BYTES_PER_S;
        config.groups = vec![Group { machine: Machine::Kv, ..Group::default() }];
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let (id, members) = (cluster.config.cluster_id(), cluster.config.client_addresses(GROUP));
    let mut appender = Appender::connect(id, GROUP, members, 77, cluster.options()).expect("a session");
    put(&cluster, &mut appender, 100);
    let away = cluster.others(leader)[0];
    cluster.kill(away);
    put(&cluster, &mut appender, ENTRIES - 100);
    trim(&cluster, away, KEPT_FROM);
    await_snapshots(&cluster, away);

    cluster.start(away);
    let (came, whole) = await_until(SOON, "half of the snapshot comes", || {
        let status = cluster.status(away, GROUP)?;
        let (came, whole) =
            (status.counter(Counter::SnapshotBytesReceived)?, status.counter(Counter::SnapshotBytesWanted)?);
        (came >= BEFORE_THE_KILL).then_some((came, whole))
    });
    cluster.kill(away);
    put(&cluster, &mut appender, SNAPSHOT_EVERY);
    await_snapshots(&cluster, away);
    let sent = |cluster: &Cluster| -> u64 {
        cluster.others(away).into_iter().map(|node| cluster.counter(node, GROUP, Counter::SnapshotBytesSent)).sum()
    };
    let before = sent(&cluster);
    assert!(came < whole, "{came} of {whole} bytes: the kill comes in the middle");
    assert!(!cluster.log(away).contains("a member's snapshot is installed"), "{}", cluster.log(away));
    cluster.start(away);
    await_until(SOON, "the rest comes", || {
        cluster.log(away).contains("a member's snapshot is installed").then_some(())
    });
    // What was stored in groups before the kill did not come again: no more than the rest and what was lost of two groups.
    let again = sent(&cluster) - before;
    let group_bytes = (synod_wal::partial::MAX_BLOCKS * synod_wal::partial::DATA_BYTES) as u64;
    assert!(again > 0 && again <= whole - came + 2 * group_bytes, "{again} bytes came after {came} of {whole}");
    await_caught_up(&cluster, away);

    // The state of one slot, which it and another made snapshots of, is the same.
    let installed = states(&cluster, away).last().map(|(slot, _)| *slot).expect("it has that snapshot");
    put(&cluster, &mut appender, 2_500);
    let (of_away, of_leader) = await_until(SOON, "both have a snapshot of one slot", || {
        let (own, other) = (states(&cluster, away), states(&cluster, leader));
        let newest = own.last().copied()?;
        let same = other.into_iter().find(|(slot, _)| *slot == newest.0)?;
        (installed < newest.0).then_some((newest, same))
    });
    assert_eq!(of_away, of_leader);
    cluster.await_converged(GROUP);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!(report["ok"], true, "{report}");
}
