//! SIGHUP, and `synod config reload`: a node that runs takes over what it safely can of a configuration that changed, names what waits for
//! a restart, and goes on as it was where the file cannot be used.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::{await_until, http, serial};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use synod::config::{Every, Level, reload};
use synod_client::Counter;
use synod_wire::NodeId;

fn hang_up(cluster: &Cluster, node: NodeId) {
    let pid = Pid::from_raw(cluster.pid(node) as i32).expect("a process");
    kill_process(pid, Signal::HUP).expect("send SIGHUP");
}

/// Has every node read the file again, and waits until each has said this.
fn hang_up_all(cluster: &Cluster, said: &str) {
    let before: Vec<usize> = cluster.members().iter().map(|node| cluster.log(*node).matches(said).count()).collect();
    for node in cluster.members() {
        hang_up(cluster, node);
    }
    for (node, before) in cluster.members().into_iter().zip(before) {
        await_until(SOON, said, || (cluster.log(node).matches(said).count() > before).then_some(()));
    }
}

fn append(cluster: &Cluster, entries: usize) {
    let file = cluster.dir().join("input");
    std::fs::write(&file, "a line of some length, which is an entry\n".repeat(entries)).expect("write an input");
    let (config, input) = (cluster.config_file().to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let output = cluster.synod(&["append", "--config", config, "--input", input, "--quiet"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_safe_is_taken_over_while_the_node_runs() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload", |config| config.log.level = Level::Warn);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 2_000);
    let written = |node| cluster.counter(node, GROUP, Counter::SnapshotsWritten);
    assert_eq!(written(leader), 0, "one is due after a million entries");

    // Another who is to lead, snapshots soon, and messages of which there were none.
    let to = cluster.others(leader)[0];
    cluster.config.groups[0].leader_priority = vec![to.0];
    cluster.config.snapshot.every_entries = Every::Entries(1_000);
    cluster.config.retention.max_age_s = 1;
    cluster.config.log.level = Level::Info;
    cluster.write_config();
    assert!(!cluster.log(leader).contains("INFO"), "{}", cluster.log(leader));
    hang_up_all(&cluster, "the configuration was read again");
    let log = cluster.log(leader);
    for change in [
        "key=\"snapshot.every_entries\" old=\"\\\"auto\\\"\" new=\"1000\"".to_owned(),
        format!("key=\"group[0].leader_priority\" old=\"[]\" new=\"[{to}]\""),
        "taken_over=4 waiting=0".to_owned(),
    ] {
        assert!(log.contains(&change), "{change} is not in {log}");
    }
    await_until(SOON, "the one that is to lead leads", || (cluster.await_leader(GROUP) == to).then_some(()));
    append(&cluster, 2_000);
    await_until(SOON, "each makes a snapshot", || {
        cluster
            .members()
            .into_iter()
            .all(|node| cluster.counter(node, GROUP, Counter::SnapshotsWritten) > 0)
            .then_some(())
    });
    await_until(SOON, "what is older than a second is trimmed", || {
        (cluster.counter(to, GROUP, Counter::FirstSequence) > 2_000).then_some(())
    });
}

#[test]
fn what_needs_a_restart_is_named_and_the_node_goes_on_with_what_it_has() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-waits", |_| {});
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    cluster.config.net.max_events = 64;
    cluster.config.catchup.max_bytes_per_s = 2 << 20;
    cluster.write_config();
    hang_up_all(&cluster, "the configuration was read again");
    let log = cluster.log(leader);
    let refused = log.lines().find(|line| line.contains("not taken over"));
    let refused = refused.unwrap_or_else(|| panic!("nothing was refused in {log}"));
    assert!(refused.contains("WARN") && refused.contains("key=\"net.max_events\" old=\"256\" new=\"64\""), "{refused}");
    assert!(log.contains("taken_over=1 waiting=1"), "{log}");
    append(&cluster, 10);

    // Said again, for the file still differs from what runs; what was taken over does not.
    hang_up_all(&cluster, "taken_over=0 waiting=1");
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-bad", |config| config.retention.max_age_s = 3_600);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let good = std::fs::read_to_string(cluster.config_file()).expect("the file");
    let line = good.lines().position(|line| line.starts_with("max_age_s")).expect("the key") + 1;
    let bad = good.replace("max_age_s = 3600", "max_age_s = -1").replace("level = \"info\"", "level = \"debug\"");
    std::fs::write(cluster.config_file(), bad).expect("write the file");
    hang_up_all(&cluster, "the configuration is not taken over");
    let place = format!("{}:{line}: retention.max_age_s: ", cluster.config_file().display());
    let log = cluster.log(leader);
    assert!(log.contains(&place), "{place} is not in {log}");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(&place)), "{log}");
    std::fs::remove_file(cluster.config_file()).expect("remove the file");
    hang_up_all(&cluster, "cannot read the configuration");
    std::fs::write(cluster.config_file(), good).expect("write the file");
    hang_up_all(&cluster, "taken_over=0 waiting=0");
    append(&cluster, 10);
    assert_eq!(cluster.await_leader(GROUP), leader, "nothing of it cost the leader its place");
}

/// `synod config reload` of a node: its exit code, stdout, and stderr.
fn ask_to_reload(cluster: &Cluster, node: u8, style: &[&str]) -> (Option<i32>, String, String) {
    let (config, node) = (cluster.config_file().display().to_string(), node.to_string());
    let output = cluster.synod(&[&["config", "reload", "--config", &config, "--node", &node], style].concat());
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn who_asks_for_a_reload_is_told_what_came_of_it() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-asked", |config| http::listen(config, 7600));
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let running = cluster.config.clone();
    cluster.config.net.max_events = 64;
    cluster.config.catchup.max_bytes_per_s = 2 << 20;
    cluster.write_config();
    let (code, told, _) = ask_to_reload(&cluster, leader.0, &["-o", "json"]);
    let told: reload::Told = serde_json::from_str(&told).expect("JSON");
    let change = |key: &str, old: &str, new: &str| reload::Change { key: key.into(), old: old.into(), new: new.into() };
    let old = running.catchup.max_bytes_per_s.to_string();
    let (taken, waits) =
        (vec![change("catchup.max_bytes_per_s", &old, "2097152")], vec![change("net.max_events", "256", "64")]);
    let file = cluster.config_file().display().to_string();
    assert_eq!((code, told), (Some(0), reload::Told { file, taken, waits, problems: Vec::new() }));
    let (code, told, _) = ask_to_reload(&cluster, leader.0, &[]);
    assert!(code == Some(0) && told.contains("0 taken over, 1 waiting"), "{told}");
    assert!(told.contains("waits for a restart: net.max_events: 256 -> 64"), "{told}");
    assert!(cluster.log(leader).contains("taken_over=1 waiting=1"), "the log says the same");

    // Right for a node that starts with it, and not beside what this one has: nothing of it is taken over.
    cluster.config.wal.segment_bytes = running.wal.segment_bytes / 2;
    cluster.config.retention.max_bytes = 8 * cluster.config.wal.segment_bytes;
    cluster.write_config();
    let (code, _, why) = ask_to_reload(&cluster, leader.0, &[]);
    assert!(code == Some(1) && why.contains("retention.max_bytes") && why.contains("or restart the node"), "{why}");
    let (code, told, _) = ask_to_reload(&cluster, leader.0, &["-o", "json"]);
    let told: reload::Told = serde_json::from_str(&told).expect("JSON");
    assert!(code == Some(1) && told.taken.is_empty() && told.problems.len() == 1, "{told:?}");

    // Over HTTP by whoever is on this host, but for what a page in its browser has it send.
    let status = |request| http::ask(&cluster, leader, request).0;
    assert_eq!(status("POST /reload"), 422);
    assert_eq!((status("GET /reload"), status("POST /health"), status("DELETE /reload")), (404, 405, 405));
    let mut page = TcpStream::connect(http::admin(&cluster, leader)).expect("the admin address answers");
    page.set_read_timeout(Some(SOON)).expect("a time-out");
    write!(page, "POST /reload HTTP/1.0\r\nOrigin: http://elsewhere\r\n\r\n").expect("a request");
    let mut answer = String::new();
    page.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
    append(&cluster, 10);
    assert_eq!(cluster.await_leader(GROUP), leader, "nothing of it cost the leader its place");
}

#[test]
fn a_reload_that_cannot_be_asked_for_says_why() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-unasked", |config| http::listen(config, 7600));
    let fails = |cluster: &Cluster, node: u8, code: i32, words: &str| {
        let (found, told, why) = ask_to_reload(cluster, node, &[]);
        assert!(found == Some(code) && told.is_empty() && why.contains(words), "{found:?} {why}");
    };
    fails(&cluster, 0, 1, "node 0 does not answer at");
    fails(&cluster, 9, 2, "--node must name a member");
    cluster.config.nodes[0].admin_listen = None;
    cluster.config.wal.max_flush_bytes = 1;
    cluster.write_config();
    fails(&cluster, 0, 1, "wal.max_flush_bytes");
    cluster.config.wal.max_flush_bytes = synod::config::Config::default().wal.max_flush_bytes;
    cluster.write_config();
    fails(&cluster, 0, 1, "node 0 has no admin_listen");
}
