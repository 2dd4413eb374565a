//! Keys that only a process shows the effect of: how its messages are written, and how much of it clients may take.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::{await_until, http, serial};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn messages_are_lines_of_json_where_they_are_to_be() {
    let _one = serial();
    let mut cluster = Cluster::prepare("json-log", |config| config.log.format = synod::config::Format::Json);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    cluster.stop_all();
    let log = cluster.log(leader);
    let line = |line: &str| -> serde_json::Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?} is no JSON"))
    };
    let lines: Vec<serde_json::Value> = log.lines().map(line).collect();
    let to_target =
        |line: &&serde_json::Value| line["details"].as_str().is_some_and(|told| told.ends_with("-> TARGET"));
    let changed = lines.iter().filter(|line| line["message"] == "mode changed").find(to_target);
    let changed = changed.unwrap_or_else(|| panic!("no change of mode in {log}"));
    assert_eq!((&changed["level"], &changed["group"]), (&"INFO".into(), &0.into()), "{changed}");
    assert!(changed["timestamp"].is_string() && changed["reason"].is_string(), "{changed}");
}

#[test]
fn a_connection_to_the_admin_address_ends_and_a_second_one_waits_for_that() {
    let _one = serial();
    let mut cluster = Cluster::prepare("connections", |config| {
        http::listen(config, 7600);
        config.metrics.max_connections = 1;
        config.metrics.connection_timeout_us = 300_000;
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let address = http::admin(&cluster, leader);
    let began = Instant::now();
    // One that says nothing takes the only place, until its time is over.
    let mut silent = TcpStream::connect(address).expect("the admin address answers");
    silent.write_all(b"GET /").expect("a part of a request");
    let (status, ..) = http::ask(&cluster, leader, "GET /status");
    assert_eq!(status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300), "the second was answered beside the first");
    silent.set_read_timeout(Some(SOON)).expect("a time-out");
    let mut rest = Vec::new();
    let _ended: Result<usize, std::io::Error> = silent.read_to_end(&mut rest);
    assert!(rest.is_empty(), "it was answered: {rest:?}");
}

#[test]
fn one_subscriber_more_than_may_be_is_sent_elsewhere() {
    let _one = serial();
    let mut cluster = Cluster::prepare("subscribers", |config| config.clients.max_subscribers = 1);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let subscribe = || {
        let mut command = std::process::Command::new(common::cluster::SYNOD);
        command.arg("subscribe").arg("--config").arg(cluster.config_file());
        command.args(["--from", "1", "--node", &leader.to_string()]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::piped()).spawn().expect("run synod")
    };
    let at_leader = || cluster.counter(leader, GROUP, synod_client::Counter::Subscribers);
    let mut first = subscribe();
    await_until(SOON, "the first is served", || (at_leader() == 1).then_some(()));
    let mut second = subscribe();
    let others = || {
        cluster.others(leader).into_iter().map(|node| cluster.counter(node, GROUP, synod_client::Counter::Subscribers))
    };
    await_until(SOON, "the second is served by another node", || (others().sum::<u64>() == 1).then_some(()));
    assert_eq!(at_leader(), 1);
    for child in [&mut first, &mut second] {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}
