//! Members that change while clients append: one is added at an address that no file but its own has, the leader is removed, and one
//! loses its disk and comes back as another life of its log.

mod common;

use common::check::{check_log, read_log};
use common::cluster::{Cluster, GROUP, SOON};
use common::load::Load;
use common::{await_until, serial};
use rustix::process::Signal;
use std::process::Output;
use synod_client::NodeId;
use synod_wire::client::role;

/// Entries in flight of each client. With many, processes without optimization have no processor left on two cores, and a learner, which
/// has more to do than the others, comes up with them after minutes, or on a busy host never.
const IN_FLIGHT: usize = 8;
/// A learner beside clients that append without a pause: it may take its time on a busy host.
const CAUGHT_UP_MS: &str = "120000";

/// Runs `synod member` or `synod recover`; it must succeed.
fn run(cluster: &Cluster, words: &[&str]) -> String {
    let output = attempt(cluster, words);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {} {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn attempt(cluster: &Cluster, words: &[&str]) -> Output {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    cluster.synod(&[words, &["--config", config]].concat())
}

/// The voters and learners, and the epoch, as `synod member list` has them.
fn listed(cluster: &Cluster) -> (Vec<u64>, Vec<u64>, u64) {
    let rows = run(cluster, &["member", "list", "-o", "json"]);
    let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).expect("JSON")).collect();
    let of = |role: &str| {
        let some = rows.iter().filter(|row| row["role"] == role).map(|row| row["node"].as_u64().expect("a number"));
        some.collect()
    };
    (of("voter"), of("learner"), rows[0]["epoch"].as_u64().expect("a number"))
}

#[test]
fn members_come_and_go_while_clients_append() {
    let _one = serial();
    let mut cluster = Cluster::prepare("members", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, IN_FLIGHT);
    load.await_acks(500, SOON);
    assert_eq!(listed(&cluster), (vec![0, 1, 2], vec![], 1));

    // The others learn of its address from the log.
    let new = cluster.add_node();
    assert!(cluster.format(new).status.success());
    cluster.start(new);
    run(&cluster, &["member", "add", "--node", "3"]);
    assert_eq!(listed(&cluster), (vec![0, 1, 2], vec![3], 2));
    run(&cluster, &["member", "promote", "--node", "3", "--timeout-ms", CAUGHT_UP_MS]);
    assert_eq!(listed(&cluster), (vec![0, 1, 2, 3], vec![], 3));
    load.await_acks(200, SOON);

    // The leader goes, and the rest has a majority of three again.
    let leader = cluster.await_leader(GROUP);
    run(&cluster, &["member", "remove", "--node", &leader.to_string()]);
    let rest: Vec<u64> = (0..4).filter(|node| *node != u64::from(leader.0)).collect();
    assert_eq!(listed(&cluster), (rest.clone(), vec![], 4));
    let ended = || cluster.status(leader, GROUP).filter(|status| status.role == role::HALTED).map(drop);
    await_until(SOON, "the removed leader serves no more", ended);
    load.await_acks(200, SOON);

    // It comes back with its old configuration, and is told.
    cluster.kill(leader);
    cluster.start(leader);
    await_until(SOON, "the removed member is told", || {
        cluster.status(leader, GROUP).filter(|status| status.role == role::HALTED).map(drop)
    });
    cluster.stop(leader);
    load.await_acks(200, SOON);

    // A follower loses its disk.
    let now_leads = cluster.await_leader(GROUP);
    let victim = NodeId(*rest.iter().find(|node| **node != u64::from(now_leads.0)).expect("two follow") as u8);
    cluster.kill(victim);
    std::fs::remove_dir_all(&cluster.config.node(victim).expect("a node").dir).expect("remove a disk");
    run(&cluster, &["recover", "--node", &victim.to_string()]);
    cluster.start(victim);
    run(&cluster, &["member", "promote", "--node", &victim.to_string(), "--timeout-ms", CAUGHT_UP_MS]);
    assert_eq!(listed(&cluster), (rest.clone(), vec![], 6));
    load.await_acks(200, SOON);

    // All of it survives a power cut, in which the one that is out stays out.
    for node in rest.iter().map(|node| NodeId(*node as u8)) {
        cluster.kill(node);
    }
    for node in rest.iter().map(|node| NodeId(*node as u8)) {
        cluster.start(node);
    }
    load.await_acks(200, SOON);
    assert_eq!(listed(&cluster), (rest.clone(), vec![], 6));
    let told = load.finish();
    let leader = cluster.await_leader(GROUP);
    check_log(&read_log(&cluster, leader, GROUP, &told), &told);
    cluster.stop_all();
    cluster.verify();
}

/// A member stands still, and all that it knows are replaced by one whose address its configuration file has not.
#[test]
fn a_member_that_was_away_is_found_by_those_that_came_meanwhile() {
    let _one = serial();
    let mut cluster = Cluster::prepare("members-all-replaced", |_| {});
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, IN_FLIGHT);
    load.await_acks(200, SOON);
    let [goes, away] = cluster.others(leader)[..] else { panic!("two follow") };
    cluster.signal(away, Signal::STOP);
    let new = cluster.add_node();
    assert!(cluster.format(new).status.success());
    cluster.start(new);
    run(&cluster, &["member", "add", "--node", "3"]);
    run(&cluster, &["member", "promote", "--node", "3"]);
    run(&cluster, &["member", "remove", "--node", &goes.to_string()]);
    load.await_acks(200, SOON);
    // Of those who are left both must know it; one is away.
    let (code, text) = said(&cluster, &["member", "remove", "--node", &leader.to_string(), "--timeout-ms", "2000"]);
    assert_eq!(code, Some(3), "{text}");
    cluster.kill(goes);
    cluster.kill(leader);
    cluster.signal(away, Signal::CONT);
    load.await_acks(200, SOON);
    let mut left = vec![u64::from(away.0), u64::from(new.0)];
    left.sort_unstable();
    assert_eq!(listed(&cluster), (left, vec![], 5));
    let told = load.finish();
    let applied = |node| cluster.status(node, GROUP).map(|status| status.applied);
    let leader = cluster.await_leader(GROUP);
    let upto = applied(leader);
    await_until(SOON, "both have applied it all", || (applied(away) >= upto && applied(new) >= upto).then_some(()));
    for node in [away, new] {
        check_log(&read_log(&cluster, node, GROUP, &told), &told);
    }
}

/// Under the same number, at another address; the others have run all the while.
#[test]
fn a_member_that_comes_back_elsewhere_is_reached_there() {
    let _one = serial();
    let mut cluster = Cluster::prepare("members-elsewhere", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let node = cluster.add_node();
    for life in 0..2 {
        assert!(cluster.format(node).status.success());
        cluster.start(node);
        run(&cluster, &["member", "add", "--node", "3"]);
        // Who does not answer is not promoted.
        run(&cluster, &["member", "promote", "--node", "3"]);
        if life == 0 {
            run(&cluster, &["member", "remove", "--node", "3"]);
            cluster.kill(node);
            let moves = cluster.config.nodes.last_mut().expect("the node");
            std::fs::remove_dir_all(&moves.dir).expect("remove a disk");
            for at in [&mut moves.peer_listen, &mut moves.client_listen] {
                at.set_port(at.port() + 5);
            }
            cluster.write_config();
        }
    }
    assert_eq!(listed(&cluster), (vec![0, 1, 2, 3], vec![], 6));
}

#[test]
fn changes_that_cannot_be_are_refused() {
    let _one = serial();
    let mut cluster = Cluster::prepare("members-refused", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let (code, text) = said(&cluster, &["member", "remove", "--node", "9"]);
    assert_eq!(code, Some(0), "it is none: {text}");
    let (code, text) = said(&cluster, &["member", "promote", "--node", "9", "--timeout-ms", "1000"]);
    assert!(code == Some(1) && text.contains("no member"), "{code:?} {text}");
    let (code, text) = said(&cluster, &["member", "add", "--node", "1", "--timeout-ms", "1000"]);
    assert!(code == Some(1) && text.contains("does not wait to be added"), "{code:?} {text}");
    let (code, text) = said(&cluster, &["recover", "--node", "1"]);
    assert!(code == Some(1) && text.contains("cannot format"), "its directory is in use: {code:?} {text}");
    let (code, text) = said(&cluster, &["member", "list", "--group", "3"]);
    assert!(code == Some(2) && text.contains("--group"), "{code:?} {text}");
    cluster.kill(NodeId(1));
    cluster.kill(NodeId(2));
    let (code, text) = said(&cluster, &["member", "remove", "--node", "2", "--timeout-ms", "1000"]);
    assert!(code == Some(3), "no quorum: {code:?} {text}");
}

fn said(cluster: &Cluster, words: &[&str]) -> (Option<i32>, String) {
    let output = attempt(cluster, words);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
