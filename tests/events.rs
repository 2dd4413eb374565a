//! What happened at each core, as `synod inspect events` tells it: of a node that runs, of one that was killed, of a file that was
//! damaged; and the lines of the log that go with it.

mod common;

use common::cluster::{Cluster, GROUP};
use common::{await_until, cluster::SOON, serial};
use serde_json::Value;
use std::process::Output;
use synod_wire::NodeId;

fn inspect(cluster: &Cluster, node: NodeId, style: &[&str]) -> Output {
    let dir = cluster.config.log_dir(node, GROUP).display().to_string();
    cluster.synod(&[&["inspect", "events", "--dir", &dir], style].concat())
}

/// The records of a node, of JSON.
fn events(cluster: &Cluster, node: NodeId) -> Vec<Value> {
    let output = inspect(cluster, node, &["-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn is(event: &Value, what: &str, details: &str) -> bool {
    event["what"] == what && event["details"].as_str().unwrap_or_default() == details
}

#[test]
fn what_happened_is_told_of_a_node_that_runs_and_of_one_that_was_killed() {
    let _one = serial();
    let mut cluster = Cluster::prepare("events", |_| {});
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let leads = |events: &[Value]| events.iter().any(|event| is(event, "role changed", "role=leader"));
    let running = await_until(SOON, "the leader's election is told while it runs", || {
        let events = events(&cluster, leader);
        leads(&events).then_some(events)
    });
    let election = running.iter().find(|event| event["what"] == "election").expect("it stood");
    assert_eq!(
        (&election["reason"], &election["details"]),
        (&"no word of a leader in time".into(), &"role=candidate".into())
    );
    assert!(
        election["figures"]["ballot"].as_str().is_some_and(|ballot| ballot.ends_with(&format!(".{leader}"))),
        "{election}"
    );
    assert!(election["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{election}");

    cluster.kill(leader);
    let after = events(&cluster, leader);
    assert!(after.len() >= running.len() && leads(&after), "{after:#?}");
    assert!(!after.iter().any(|event| event["what"] == "stopped in order"), "{after:#?}");
    // The log has the same, each a line with its reason and its figures.
    let log = cluster.log(leader);
    let line = log.lines().find(|line| line.contains("election")).unwrap_or_else(|| panic!("no election in {log}"));
    assert!(line.contains("no word of a leader in time") && line.contains("ballot="), "{line}");
    assert!(log.contains("mode changed") && log.contains("ELECTION -> TARGET"), "{log}");

    // Its successor drops it, and hears it again.
    let next = cluster.await_leader(GROUP);
    let member = format!("member {leader}");
    let tells = |cluster: &Cluster, what: &str| {
        await_until(SOON, what, || events(cluster, next).iter().any(|event| is(event, what, &member)).then_some(()));
    };
    tells(&cluster, "member dropped");
    cluster.start(leader);
    tells(&cluster, "member heard again");
    cluster.stop_all();
    let numbers: Vec<u64> =
        events(&cluster, leader).iter().map(|event| event["number"].as_u64().expect("a number")).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "one behind the other over two lives: {numbers:?}");
    let last = events(&cluster, leader).pop().expect("records");
    assert_eq!(last["what"], "stopped in order");
    let text = String::from_utf8(inspect(&cluster, leader, &[]).stdout).expect("UTF-8");
    assert!(text.lines().count() == numbers.len() && text.contains("  election role=candidate: no word"), "{text}");
}

#[test]
fn a_damaged_file_is_told_and_the_node_begins_another() {
    let _one = serial();
    let mut cluster = Cluster::prepare("events-damaged", |_| {});
    let node = NodeId(0);
    let missing = inspect(&cluster, node, &[]);
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(missing.status.code() == Some(1) && told.contains("No such file"), "{told}");
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster.stop_all();
    let path = cluster.config.log_dir(node, GROUP).join("events");
    let whole = std::fs::read(&path).expect("the file");

    let mut bytes = whole.clone();
    bytes[64 + 20] ^= 0x40;
    std::fs::write(&path, &bytes).expect("write");
    let output = inspect(&cluster, node, &["-o", "json"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("1 record(s) are damaged"), "{told}");
    assert!(!output.stdout.is_empty(), "the others are told");

    for bytes in [&whole[..1_000], &[0x5a; 65_536][..], &[][..]] {
        std::fs::write(&path, bytes).expect("write");
        let output = inspect(&cluster, node, &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("remove it"), "{told}");
    }
    cluster.start_all();
    cluster.await_leader(GROUP);
    let first = await_until(SOON, "the node begins another file", || {
        let output = inspect(&cluster, node, &["-o", "json"]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().next().map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
    });
    assert_eq!((&first["number"], &first["what"]), (&1.into(), &"started".into()));
    cluster.stop_all();
}
