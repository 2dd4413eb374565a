//! `synod evidence` against real nodes: for entries from before and after a failover, with a node down, and from the directories
//! that the nodes leave.

mod common;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, acked_sequences};
use common::{say, serial};
use serde_json::Value;
use std::path::PathBuf;
use support::cluster;
use synod_wire::{Ballot, NodeId};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const UNAVAILABLE: i32 = 3;

/// Runs `synod evidence` to an expected code; what it printed, and nothing where it printed nothing.
fn evidence(cluster: &Cluster, code: i32, source: &[String], what: [&str; 2]) -> Value {
    let mut arguments = vec!["evidence"];
    arguments.extend(source.iter().map(String::as_str).chain(what).chain(["-o", "json"]));
    let output = cluster.synod(&arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    if out.is_empty() { Value::Null } else { serde_json::from_str(&out).expect("JSON") }
}

/// What those that told anything told.
fn told(report: &Value) -> Vec<(u64, &Value)> {
    let rows = report["nodes"].as_array().expect("a row for each node");
    let told = rows.iter().filter(|row| row["answer"] == "told");
    told.map(|row| (row["node"].as_u64().expect("a number"), &row["told"])).collect()
}

/// These nodes tell of the same value, and some of them name a quorum that chose it; the round of its ballot.
fn chosen_round(report: &Value, by: &[NodeId]) -> u64 {
    assert_eq!(report["agree"], true, "{report}");
    let told = told(report);
    let nodes: Vec<u64> = told.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, by.iter().map(|node| u64::from(node.0)).collect::<Vec<_>>(), "{report}");
    for (_, facts) in &told {
        assert_eq!(facts["checksum"], told[0].1["checksum"], "{report}");
        let terms = (&facts["epoch"], &facts["phase1_quorum"], &facts["phase2_quorum"]);
        assert_eq!(terms, (&1.into(), &2.into(), &2.into()), "{report}");
        assert_eq!(facts["members"].as_array().map(Vec::len), Some(3), "{report}");
    }
    let names_quorum = |facts: &&Value| facts["acceptors"].as_array().is_some_and(|acceptors| acceptors.len() >= 2);
    let ballots = told.iter().map(|(_, facts)| *facts).filter(names_quorum);
    let rounds = ballots.filter_map(|facts| facts["chosen_ballot"].as_str()?.split_once('.')?.0.parse().ok());
    rounds.min().unwrap_or_else(|| panic!("nobody names those who chose it: {report}"))
}

#[test]
fn nodes_and_their_logs_agree_on_who_chose_what_before_and_after_a_failover() {
    let _one = serial();
    let mut cluster = Cluster::prepare("evidence", |_| {});
    let running = ["--config".to_owned(), cluster.config_file().to_str().expect("UTF-8").to_owned()];
    cluster.start_all();
    let load = Load::start(&cluster, GROUP, 2, 32);
    load.await_acks(3_000, SOON);
    let (old, ballot) = cluster.await_leader_above(GROUP, Ballot::ZERO);
    cluster.kill(old);
    cluster.await_leader_above(GROUP, ballot);
    load.await_acks(500, SOON);

    // A node is down, and the load goes on: the others tell of old entries, from their disks, and agree.
    let report = evidence(&cluster, DONE, &running, ["--sequence", "1"]);
    let first_round = chosen_round(&report, &cluster.others(old));
    assert_eq!(report["guarantee"], "<replica, total, committed, STALE_POSSIBLE, harmless, unauth>", "{report}");
    assert!(first_round <= ballot.round, "{report}");
    let row = &report["nodes"][usize::from(old.0)];
    assert_eq!((&row["answer"], &row["told"]), (&"silent".into(), &Value::Null), "{report}");

    cluster.start(old);
    load.await_acks(500, SOON);
    let acked = load.finish();
    cluster.await_converged(GROUP);
    let last = acked.iter().flat_map(acked_sequences).map(|(_, sequence)| sequence.0).max().expect("acknowledgements");
    let last_of_all = last.to_string();
    let report = evidence(&cluster, DONE, &running, ["--sequence", &last_of_all]);
    let last_round = chosen_round(&report, &cluster.members());
    assert!(last_round > ballot.round, "{report}");
    let slot = report["slot"].as_u64().expect("a slot").to_string();
    let by_slot = evidence(&cluster, DONE, &running, ["--slot", &slot]);
    assert_eq!((told(&by_slot)[0].1["checksum"].clone(), by_slot["slot"].as_u64()), {
        (told(&report)[0].1["checksum"].clone(), report["slot"].as_u64())
    });
    let report = evidence(&cluster, DONE, &running, ["--sequence", "1"]);
    assert_eq!(chosen_round(&report, &cluster.members()), first_round, "{report}");
    for sequence in [last / 4, last / 2, last - last / 4].map(|sequence| sequence.to_string()) {
        chosen_round(&evidence(&cluster, DONE, &running, ["--sequence", &sequence]), &cluster.members());
    }
    let beyond = (last + 1_000_000).to_string();
    let report = evidence(&cluster, FAILED, &running, ["--sequence", &beyond]);
    assert!(told(&report).is_empty() && report["nodes"][0]["answer"] == "not_yet", "{report}");

    // The same from the directories.
    cluster.stop_all();
    assert_eq!(evidence(&cluster, UNAVAILABLE, &running, ["--sequence", "1"]), Value::Null);
    let dirs: Vec<String> =
        cluster.config.nodes.iter().flat_map(|node| ["--dir".to_owned(), node.dir.display().to_string()]).collect();
    let report = evidence(&cluster, DONE, &dirs, ["--sequence", "1"]);
    assert_eq!(chosen_round(&report, &cluster.members()), first_round, "{report}");
    let report = evidence(&cluster, DONE, &dirs, ["--sequence", &last_of_all]);
    assert_eq!(chosen_round(&report, &cluster.members()), last_round, "{report}");
    assert_eq!(report["slot"].as_u64().map(|slot| slot.to_string()), Some(slot));
    let report = cluster.verify();
    assert_eq!(report["ok"], true, "{report}");
    say(&format!("evidence: sequence 1 was chosen in round {first_round}, sequence {last} in round {last_round}"));
}

#[test]
fn evidence_from_directories_says_who_chose_what_and_who_says_otherwise() {
    let _one = serial();
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _) = cluster(&dir.path().join("sound"), 8, |_, _| None);
    let run_on = |code, dirs: &[PathBuf], more: &[&str]| {
        let output = nodes::synod().arg("evidence").arg("--dir").args(dirs).args(more).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{out}{}", String::from_utf8_lossy(&output.stderr));
        out
    };
    // Slot 1 opens the session, so that sequence 3 is in slot 4.
    let out = run_on(DONE, &dirs, &["--sequence", "3"]);
    assert!(out.contains("sequence 3 is in slot 4") && out.contains("0,1,2") && out.contains("2+2 of 3"), "{out}");
    let out = run_on(DONE, &dirs, &["--slot", "4", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let leader = &report["nodes"][0]["told"];
    assert_eq!((report["agree"].as_bool(), report["slot"].as_u64()), (Some(true), Some(4)), "{out}");
    assert_eq!((&leader["held"], &leader["ballot"]), (&"accepted".into(), &"1.0".into()), "{out}");
    assert_eq!((&leader["chosen_ballot"], leader["acceptors"].as_array().unwrap().len()), (&"1.0".into(), 3), "{out}");
    let checksum = format!("{:08x}", synod_wire::frame::checksum(&support::value(4)));
    assert!(report["nodes"].as_array().unwrap().iter().all(|node| node["told"]["checksum"] == checksum), "{out}");
    // A leader's log alone shows what was chosen; a sequence that does not exist is nowhere.
    run_on(DONE, &dirs[..1], &["--sequence", "3"]);
    let out = run_on(FAILED, &dirs, &["--sequence", "8"]);
    assert!(out.contains("no node knows its slot"), "{out}");
    run_on(FAILED, &dirs, &["--slot", "4", "--group", "1"]);

    // The leader's chosen record names node 2, which never accepted anything there.
    let (dirs, _) = cluster(&dir.path().join("doctored"), 8, |node, slot| (node == 2 && slot == 4).then_some(None));
    let out = run_on(FAILED, &dirs, &["--sequence", "3"]);
    assert!(out.contains("DISAGREE: node 0 names node 2 as an acceptor in ballot 1.0"), "{out}");
    run_on(DONE, &dirs, &["--sequence", "4"]);
}
