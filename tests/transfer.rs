//! `synod transfer-leader` against real processes: leadership goes where it was told, under load and with leases, nothing is lost, the
//! pause is short, and what cannot be is said with the right exit code.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::Load;
use common::{await_until, say, serial};
use std::process::Output;
use std::time::{Duration, Instant};
use synod_wire::NodeId;

/// Far below the shortest election time-out of the default configuration, far above what a hand-over takes on a busy machine.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How often the pause may be tried: others may share the machine.
const TRIES: usize = 5;

fn transfer(cluster: &Cluster, more: &[&str]) -> (i32, serde_json::Value, String) {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    let mut arguments = vec!["transfer-leader", "--config", config];
    arguments.extend(more);
    let Output { status, stdout, stderr } = cluster.synod(&arguments);
    let code = status.code().expect("the command ends by itself");
    (code, serde_json::from_slice(&stdout).unwrap_or_default(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn leadership_goes_where_it_was_told_and_commits_hardly_pause() {
    let _one = serial();
    let mut cluster = Cluster::prepare("transfer", |config| {
        config.reads.lease_clock_drift_ppm = synod::config::Drift::Ppm(500);
    });
    cluster.start_all();
    let load = Load::start(&cluster, GROUP, 2, 8);
    load.await_acks(500, SOON);
    let mut shortest = Duration::MAX;
    for turn in 1..=TRIES {
        cluster.await_converged_under_load(GROUP);
        let (leader, ballot) = cluster.await_leader_above(GROUP, Default::default());
        let to = cluster.others(leader)[turn % 2];
        let watched = std::thread::scope(|scope| {
            let pause = scope.spawn(|| longest_pause(&load));
            let (code, told, error) = transfer(&cluster, &["--to", &to.to_string(), "-o", "json"]);
            assert_eq!((code, told["outcome"].as_str()), (0, Some("done")), "{told} {error}");
            assert_eq!((told["from"].as_u64(), told["leader"].as_u64()), (Some(leader.0.into()), Some(to.0.into())));
            pause.join().expect("the load is watched")
        });
        let (new, above) = cluster.await_leader_above(GROUP, ballot);
        assert_eq!(new, to);
        assert_eq!(above.round, ballot.round + 1, "one election");
        say(&format!("transfer: node {leader} to node {to}; commits paused for {watched:?}"));
        shortest = shortest.min(watched);
    }
    assert!(shortest < LONGEST_PAUSE, "the shortest pause of {TRIES} hand-overs: {shortest:?}");
    let told = load.finish();
    check_everything(&mut cluster, GROUP, &told);
}

#[test]
fn the_member_that_comes_first_leads_whenever_it_is_there() {
    let _one = serial();
    let mut cluster = Cluster::prepare("priority", |config| config.groups[0].leader_priority = vec![2, 1]);
    cluster.start_all();
    let leads = |cluster: &Cluster, node: u8| {
        await_until(SOON, &format!("node {node} leads"), || {
            (cluster.await_leader(GROUP) == NodeId(node)).then_some(())
        });
    };
    leads(&cluster, 2);
    let load = Load::start(&cluster, GROUP, 1, 8);
    load.await_acks(100, SOON);
    cluster.kill(NodeId(2));
    leads(&cluster, 1);
    load.await_acks(100, SOON);
    cluster.start(NodeId(2));
    leads(&cluster, 2);
    load.await_acks(100, SOON);
    let told = load.finish();
    check_everything(&mut cluster, GROUP, &told);
}

/// The longest pause in the acknowledgements until 500 have come.
fn longest_pause(load: &Load) -> Duration {
    let (mut longest, mut last, mut seen) = (Duration::ZERO, Instant::now(), load.acked());
    let target = seen + 500;
    await_until(SOON, "commits go on", || {
        let acked = load.acked();
        if acked > seen {
            (longest, last, seen) = (longest.max(last.elapsed()), Instant::now(), acked);
        }
        (acked >= target).then_some(longest)
    })
}

#[test]
fn what_cannot_be_is_said_and_without_a_name_somebody_else_leads() {
    let _one = serial();
    let mut cluster = Cluster::prepare("transfer-refused", |_| {});
    cluster.start_all();
    let (leader, ballot) = cluster.await_leader_above(GROUP, Default::default());
    let (code, _, error) = transfer(&cluster, &["--to", &leader.to_string()]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("leads already"), "{error}");
    let (code, _, error) = transfer(&cluster, &["--to", "9"]);
    assert_eq!(code, 2, "{error}");
    let away = cluster.others(leader)[0];
    cluster.kill(away);
    let refused = await_until(SOON, "the leader misses the member", || {
        let (code, told, error) = transfer(&cluster, &["--to", &away.to_string(), "-o", "json"]);
        let silent = told["outcome"] == "silent";
        // It was heard until just now: the leader waits for it, and goes on.
        assert!(silent || matches!(told["outcome"].as_str(), Some("lags" | "not_taken")), "{code} {told} {error}");
        silent.then_some(code)
    });
    assert_eq!(refused, 1);
    assert_eq!(cluster.await_leader_above(GROUP, Default::default()), (leader, ballot), "it leads on");
    let (code, told, error) = transfer(&cluster, &["-o", "json"]);
    let other: NodeId = cluster.others(leader)[1];
    assert_eq!((code, told["leader"].as_u64()), (0, Some(other.0.into())), "the one that is up: {told} {error}");
    cluster.kill(leader);
    cluster.kill(other);
    let (code, _, error) = transfer(&cluster, &["--timeout-ms", "300"]);
    assert_eq!(code, 3, "nobody leads: {error}");
}
