//! kill -9 of a random node every 300 ms for 30 s under load; the victim restarts at once.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP};
use common::load::{Load, acknowledged};
use common::{Rng, say};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long, and how often.
const RUN: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_millis(300);
/// What must have happened, or the test has shown nothing.
const LEAST_ACKS: u64 = 10_000;
const LEAST_CHANGES: usize = 20;

#[test]
fn nothing_acknowledged_is_lost_while_random_nodes_are_killed() {
    let mut rng = Rng::announced("kill");
    let mut cluster = Cluster::prepare("kill", |config| {
        config.consensus.heartbeat_us = 2_000;
        config.consensus.election_timeout_min_us = 10_000;
        config.consensus.election_timeout_max_us = 20_000;
        config.consensus.retransmit_us = 5_000;
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 3, 4);
    load.await_acks(100, Duration::from_secs(10));
    let (since, mut kills) = (Instant::now(), 0);
    while since.elapsed() < RUN {
        let victim = cluster.members()[rng.below(3) as usize];
        cluster.kill(victim);
        cluster.start(victim);
        kills += 1;
        // The faults come by the clock, whatever the cluster makes of them.
        std::thread::sleep((EVERY * kills).saturating_sub(since.elapsed()));
    }
    let told = load.finish();
    let changes = leader_changes(&cluster);
    let acked = acknowledged(&told);
    let entries = check_everything(&mut cluster, GROUP, &told);
    let gap = told.iter().map(|told| told.longest_gap).max().unwrap_or_default();
    say(&format!(
        "kill: {kills} kills, {acked} acknowledged of {entries} entries, {changes} leader changes, gap {gap:?}"
    ));
    assert!(acked >= LEAST_ACKS, "only {acked} acknowledgements");
    assert!(changes >= LEAST_CHANGES, "only {changes} leader changes");
}

/// How often the node that serves was another one than before, by what the nodes logged.
fn leader_changes(cluster: &Cluster) -> usize {
    let mut ballots: BTreeSet<(u64, u8)> = BTreeSet::new();
    for node in cluster.members() {
        let log = cluster.log(node);
        for line in log.lines().filter(|line| line.contains("role changed") && line.contains("role=leader")) {
            let ballot = line.split("ballot=").nth(1).and_then(|rest| rest.split(' ').next()).and_then(ballot);
            let (round, of) = ballot.unwrap_or_else(|| panic!("node {node} leads in no ballot: {line}"));
            assert_eq!(of, node.0, "a node leads in another's ballot: {line}");
            assert!(ballots.insert((round, of)), "a ballot is never used twice: {line}");
        }
    }
    let leaders: Vec<u8> = ballots.into_iter().map(|(_, node)| node).collect();
    leaders.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Round and node, as a ballot is written: "12.1".
fn ballot(text: &str) -> Option<(u64, u8)> {
    let (round, node) = text.split_once('.')?;
    Some((round.parse().ok()?, node.parse().ok()?))
}
