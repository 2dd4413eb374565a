//! A member that was away while the others gave up the front of their logs, and one that joins after that: both are sent a snapshot.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::numbered::{append, read, synod};
use common::{await_until, serial};
use std::process::Output;
use synod::config::Every;
use synod_client::{Counter, NodeId};

const ENTRIES: u64 = 24_000;
const KEPT_FROM: u64 = 20_000;

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
    assert!(cluster.log(node).contains("a member's snapshot is installed"), "{}", cluster.log(node));
}

#[test]
fn who_lacks_what_the_others_gave_up_is_sent_a_snapshot() {
    let _one = serial();
    let mut cluster = Cluster::prepare("laggard", |config| {
        config.wal.segment_bytes = 4 << 20;
        config.snapshot.every_entries = Every::Entries(2_000);
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 1, 100);
    let away = cluster.others(leader)[0];
    cluster.kill(away);
    append(&cluster, 101, ENTRIES - 100);
    // A member that was heard of late holds trims back.
    await_until(SOON, "nothing holds the trim back", || {
        let output = run(&cluster, &["trim"], &["--before", &KEPT_FROM.to_string(), "-o", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (told["held_back_by"] == "nothing").then_some(())
    });
    for node in cluster.others(away) {
        let removed = || (cluster.counter(node, GROUP, Counter::SegmentsRemoved) >= 4).then_some(());
        await_until(SOON, &format!("the log's front of node {node} is removed"), removed);
    }
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
