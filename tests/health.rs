//! `synod health` and `synod is-leader` against real processes: what their exit codes say as nodes go, one after the other.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::{await_until, serial};
use serde_json::Value;
use std::process::Output;
use synod_wire::NodeId;

const WELL: i32 = 0;
const NOT: i32 = 1;
const UNAVAILABLE: i32 = 3;

fn ask(cluster: &Cluster, command: &str, arguments: &[&str]) -> Output {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    cluster.synod(&[&[command, "--config", config], arguments].concat())
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn await_code(cluster: &Cluster, code_wanted: i32, command: &str, arguments: &[&str]) -> Output {
    await_until(SOON, &format!("{command} {arguments:?} ends with {code_wanted}"), || {
        Some(ask(cluster, command, arguments)).filter(|output| code(output) == code_wanted)
    })
}

fn is_leader(cluster: &Cluster, node: NodeId) -> (i32, String) {
    let output = ask(cluster, "is-leader", &["--node", &node.to_string(), "--group", "0"]);
    (code(&output), out(&output).to_owned())
}

#[test]
fn exit_codes_follow_the_cluster_as_its_nodes_go() {
    let _one = serial();
    let mut cluster = Cluster::prepare("health", |_| {});
    assert_eq!(code(&ask(&cluster, "health", &["--timeout-ms", "100"])), UNAVAILABLE, "no node runs");
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let others = cluster.others(leader);
    let well = await_until(SOON, "all three are in step", || {
        Some(ask(&cluster, "health", &[])).filter(|output| out(output).contains("3 of 3 voters in step"))
    });
    let line = format!("group 0: node {leader} leads, 3 of 3 voters in step\n");
    assert_eq!((code(&well), out(&well)), (WELL, &*line));
    assert_eq!(is_leader(&cluster, leader), (WELL, format!("{leader}\n")));
    for other in &others {
        assert_eq!(is_leader(&cluster, *other), (NOT, format!("{leader}\n")));
        let one = ask(&cluster, "health", &["--node", &other.to_string()]);
        let line = format!("node {other} group 0: TARGET, follows node {leader}\n");
        assert_eq!((code(&one), out(&one)), (WELL, &*line));
    }
    let json = ask(&cluster, "health", &["-o", "json"]);
    let told: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (&told["ok"], &told["groups"][0]["leader"], &told["groups"][0]["quorum"]),
        (&true.into(), &leader.0.into(), &2.into())
    );
    assert_eq!(told["groups"][0]["in_step"], serde_json::json!([0, 1, 2]));

    // One may go.
    cluster.kill(others[0]);
    let one_gone = ask(&cluster, "health", &["--timeout-ms", "200"]);
    let line = format!("group 0: node {leader} leads, 2 of 3 voters in step; node {} does not answer\n", others[0]);
    assert_eq!((code(&one_gone), out(&one_gone)), (WELL, &*line));
    let gone = ask(&cluster, "health", &["--node", &others[0].to_string(), "--timeout-ms", "200"]);
    assert_eq!((code(&gone), out(&gone)), (NOT, &*format!("node {} group 0: does not answer\n", others[0])));

    // Two may not.
    cluster.kill(others[1]);
    let lost = await_code(&cluster, UNAVAILABLE, "health", &["--timeout-ms", "200"]);
    assert!(out(&lost).starts_with("group 0: no ") && out(&lost).lines().count() == 1, "{lost:?}");
    let alone = await_until(SOON, "the last one says that it hears no quorum", || {
        Some(ask(&cluster, "health", &["--node", &leader.to_string()])).filter(|output| out(output).contains("quorum"))
    });
    assert_eq!((code(&alone), out(&alone).lines().count()), (UNAVAILABLE, 1), "{alone:?}");
    await_until(SOON, "it says that nobody leads", || {
        (is_leader(&cluster, leader) == (UNAVAILABLE, String::new())).then_some(())
    });
    let json = ask(&cluster, "is-leader", &["--node", &leader.to_string(), "-o", "json", "--timeout-ms", "200"]);
    let told: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((code(&json), &told["is_leader"], &told["leader"]), (UNAVAILABLE, &false.into(), &Value::Null));
    let unknown = ask(&cluster, "is-leader", &["--node", "7"]);
    assert_eq!(code(&unknown), 2, "{unknown:?}");
    cluster.stop(leader);
}
