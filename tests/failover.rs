//! How long commits pause when the leader is killed: under a second with the default time-outs, on a machine that is not
//! busy otherwise; and time-outs of 5 ms are allowed and work.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::Load;
use common::{say, serial};
use std::time::{Duration, Instant};

/// The bound, and how often the test may try: others may share the machine.
const LONGEST_GAP: Duration = Duration::from_secs(1);
const TRIES: usize = 3;

#[test]
fn with_the_default_timeouts_commits_pause_for_less_than_a_second() {
    let _one = serial();
    let mut cluster = Cluster::prepare("failover", |_| {});
    cluster.start_all();
    let load = Load::start(&cluster, GROUP, 1, 8);
    let mut gaps = Vec::new();
    while gaps.len() < TRIES && gaps.last().is_none_or(|gap| *gap >= LONGEST_GAP) {
        load.await_acks(500, SOON);
        let (leader, ballot) = cluster.await_leader_above(GROUP, Default::default());
        let killed = Instant::now();
        cluster.kill(leader);
        // What was on its way to the client when the leader died is acknowledged before the gap.
        let gap = pause(&load, killed);
        let (new, _) = cluster.await_leader_above(GROUP, ballot);
        say(&format!("failover: node {leader} killed, node {new} leads; commits paused for {gap:?}"));
        gaps.push(gap);
        cluster.start(leader);
        cluster.await_converged_under_load(GROUP);
    }
    assert!(gaps.iter().any(|gap| *gap < LONGEST_GAP), "the shortest pause of {TRIES} tries: {gaps:?}");
    let told = load.finish();
    check_everything(&mut cluster, GROUP, &told);
}

/// The longest pause in the acknowledgements from `since` on, until 300 have come after it.
fn pause(load: &Load, since: Instant) -> Duration {
    let (mut longest, mut last, mut seen) = (Duration::ZERO, since, load.acked());
    let target = seen + 300;
    common::await_until(SOON, "commits go on", || {
        let acked = load.acked();
        if acked > seen {
            (longest, last, seen) = (longest.max(last.elapsed()), Instant::now(), acked);
        }
        (acked >= target).then_some(longest)
    })
}

#[test]
fn timeouts_of_five_milliseconds_elect_and_commit() {
    let _one = serial();
    let mut cluster = Cluster::prepare("five-ms", |config| {
        config.consensus.heartbeat_us = 1_000;
        config.consensus.election_timeout_min_us = 5_000;
        config.consensus.election_timeout_max_us = 10_000;
        config.consensus.retransmit_us = 2_000;
    });
    cluster.start_all();
    let load = Load::start(&cluster, GROUP, 1, 8);
    load.await_acks(1_000, SOON);
    let leader = cluster.await_leader(GROUP);
    let killed = Instant::now();
    cluster.kill(leader);
    let gap = pause(&load, killed);
    say(&format!("failover: with time-outs of 5 to 10 ms commits paused for {gap:?}"));
    cluster.start(leader);
    load.await_acks(500, SOON);
    let told = load.finish();
    check_everything(&mut cluster, GROUP, &told);
}
