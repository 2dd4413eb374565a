//! Stage receipts and the stages of `synod status`: every append that asks is told where its time went.

mod common;

use common::cluster::{Cluster, GROUP, SYNOD};
use common::serial;
use std::io::Write;
use std::process::{Command, Stdio};
use synod::config::Durability;
use synod_client::{Appender, Options, Receipt, Stage};

/// More than the window, so that batches hold several runs.
const ENTRIES: u64 = 2_000;

fn started(name: &str, durability: Durability) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| config.wal.durability = durability);
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

/// The receipts of a session's entries, one or none for each.
fn receipts(cluster: &Cluster, options: Options) -> Vec<Option<Receipt>> {
    let members = cluster.config.client_addresses(GROUP);
    let id = 1 + u128::from(options.receipts);
    let mut appender =
        Appender::connect(cluster.config.cluster_id(), GROUP, members, id, options).expect("a session opens");
    let mut all = Vec::new();
    let entries = (0..ENTRIES).map(|n| n.to_string());
    let appended = appender.append_all(entries, |ack| all.push(ack.receipt)).expect("everything is acknowledged");
    assert_eq!((appended, all.len() as u64), (ENTRIES, ENTRIES));
    all
}

/// What must hold for every time line.
fn check(receipt: &Receipt) {
    let at = |stage: Stage| receipt.stages_ns[stage as usize];
    let (sequenced, quorum, replied) = (at(Stage::Sequenced), at(Stage::Quorum), at(Stage::Replied));
    assert!(sequenced.is_some() && sequenced <= quorum && quorum <= replied, "{receipt:?}");
    // The leader's own disk may be behind the others', or busy with the write before.
    let (written, durable) = (at(Stage::Written), at(Stage::Durable));
    assert!(written.is_none_or(|written| Some(written) >= sequenced), "{receipt:?}");
    assert!(durable.is_none_or(|durable| written.is_some_and(|written| written <= durable)), "{receipt:?}");
}

#[test]
fn every_append_that_asks_has_a_time_line_and_no_other() {
    let _one = serial();
    let cluster = started("receipts", Durability::Disk);
    assert!(receipts(&cluster, cluster.options()).iter().all(Option::is_none), "nobody asked");
    let all = receipts(&cluster, Options { receipts: true, ..cluster.options() });
    // What was acknowledged twice (a datagram was lost on loopback) may lack it.
    let some: Vec<&Receipt> = all.iter().flatten().collect();
    assert!(some.len() as u64 > ENTRIES / 2, "{} receipts for {ENTRIES} entries", some.len());
    some.iter().for_each(|receipt| check(receipt));
    assert!(some.iter().any(|receipt| receipt.reached(Stage::Durable).is_some()), "the leader's disk is in a quorum");

    let leader = cluster.await_leader(GROUP);
    let status = cluster.status(leader, GROUP).expect("the leader answers");
    let counts: Vec<u64> = status.stages.iter().map(|times| times.count).collect();
    assert_eq!(status.stages.iter().map(|times| times.stage).collect::<Vec<_>>(), Stage::ALL);
    assert!(counts.iter().all(|count| *count == counts[0]) && counts[0] > 0, "a quiet leader: {counts:?}");
    for times in &status.stages {
        assert!(
            times.p50 <= times.p99 && times.p99.as_micros() <= times.max.as_micros() + times.max.as_micros() / 64 + 1
        );
    }
    assert_eq!(status.durability, Some(synod_client::Durability::Disk));
}

#[test]
fn the_command_line_prints_them() {
    let _one = serial();
    let cluster = started("receipts-cli", Durability::Memory);
    let config = cluster.config_file().to_str().expect("a text");
    let mut append = Command::new(SYNOD);
    append.args(["append", "--config", config, "--receipt"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = append.spawn().expect("start synod append");
    child.stdin.take().expect("a pipe").write_all(b"one\ntwo\nthree\n").expect("write entries");
    let output = child.wait_with_output().expect("wait for synod append");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("a text");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for line in &lines {
        let names: Vec<&str> = line[2..].iter().map(|field| field.split_once('=').expect("name=value").0).collect();
        assert_eq!(names, Stage::ALL.map(Stage::name), "{text}");
    }
    let ns = |field: &str| field.split_once('=').and_then(|(_, ns)| ns.parse::<u64>().ok());
    let replied = lines.iter().filter_map(|line| ns(line[6])).collect::<Vec<_>>();
    assert!(!replied.is_empty() && replied.iter().all(|ns| *ns > 0), "{text}");

    let output = cluster.synod(&["status", "--config", config, "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let leader = rows.as_array().expect("rows").iter().find(|row| row["state"]["role"] == "leader").expect("a leader");
    assert_eq!(leader["state"]["durability"], "memory");
    for stage in Stage::ALL {
        let times = &leader["state"]["stages"][stage.name()];
        assert!(times["p50_us"].is_f64() && times["p99_us"].is_f64() && times["max_us"].is_f64(), "{times}");
    }
    assert!(leader["state"]["stages"]["replied"]["count"].as_u64() > Some(0));
}
