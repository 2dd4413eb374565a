//! The key-value map against real processes: what the command line and the client library say of it, in a group beside one that
//! keeps the log alone; every member holds the same after a leader was killed and after all nodes were.

mod common;

use common::cluster::{Cluster, SOON};
use common::packet::{frame, header, sender};
use common::{await_until, serial};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::process::Output;
use std::time::Instant;
use synod::config::{Group, Machine};
use synod_client::{
    Appender, ClientError, Consistency, GroupId, Kv, KvRead, KvReader, NodeId, Outcome, Questions, ReadOptions,
    Recency, Refusal, Sequence,
};
use synod_wire::ClusterId;
use synod_wire::batch::Run;
use synod_wire::client::SessionBody;
use synod_wire::frame::{Kind, parse};
use synod_wire::guarantee::Guarantee;
use zerocopy::IntoBytes;

const LOG: GroupId = GroupId(0);
const KV: GroupId = GroupId(1);

fn cluster(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.groups = vec![Group::default(), Group { machine: Machine::Kv, ..Group::default() }];
    });
    cluster.start_all();
    cluster.await_leader(KV);
    cluster
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    cluster.synod(&[&["kv"], arguments, &["--config", config]].concat())
}

/// What a command prints with `-o json`, and its exit code.
fn json(cluster: &Cluster, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(cluster, &[arguments, &["--group", "1", "-o", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text);
    (value.unwrap_or_else(|_| panic!("{arguments:?}: {output:?}")), output.status.code())
}

fn kv(cluster: &Cluster, client_id: u128) -> Kv {
    let (id, members) = (cluster.config.cluster_id(), cluster.config.client_addresses(KV));
    Kv::connect(id, KV, members, client_id, cluster.options()).expect("a session")
}

/// What one node says.
fn get(cluster: &Cluster, node: NodeId, key: &[u8], consistency: Consistency, at_least: Sequence) -> KvRead {
    let members = vec![cluster.config.client_address(node, KV)];
    let options = ReadOptions { deadline: SOON, ..ReadOptions::default() };
    let mut reader = KvReader::new(cluster.config.cluster_id(), KV, members, options).expect("a socket");
    reader.get_after(key, consistency, at_least).expect("an answer")
}

#[test]
fn the_command_line_puts_gets_and_deletes() {
    let _one_at_a_time = serial();
    let mut cluster = cluster("kv-cli");
    let (first, code) = json(&cluster, &["put", "colour", "red"]);
    assert_eq!((code, &first["outcome"], &first["previous_version"]), (Some(0), &json!("stored"), &Value::Null));
    let (second, _) = json(&cluster, &["put", "colour", "blue"]);
    assert_eq!(second["previous_version"], first["sequence"]);

    let (found, code) = json(&cluster, &["get", "colour"]);
    assert_eq!((code, &found["value"], &found["version"]), (Some(0), &json!("blue"), &second["sequence"]));
    assert_eq!((&found["found"], &found["recency"]), (&json!(true), &json!(Recency::FreshReadIndex.to_string())));
    for (node, consistency) in [("0", "local"), ("1", "bounded:5000"), ("2", "read_index")] {
        // A follower learns of the last commit a moment later.
        await_until(SOON, "each node shows the value", || {
            let (found, _) = json(&cluster, &["get", "colour", "--node", node, "--consistency", consistency]);
            (found["value"] == "blue").then_some(())
        });
    }
    let text = run(&cluster, &["get", "colour", "--group", "1"]);
    assert_eq!((&text.stdout[..], text.status.code()), (&b"blue\n"[..], Some(0)));

    let (deleted, code) = json(&cluster, &["delete", "colour"]);
    assert_eq!((code, &deleted["outcome"]), (Some(0), &json!("deleted")));
    assert_eq!(deleted["previous_version"], second["sequence"]);
    let (again, code) = json(&cluster, &["delete", "colour"]);
    assert_eq!((code, &again["outcome"]), (Some(0), &json!("absent")));
    let (gone, code) = json(&cluster, &["get", "colour"]);
    assert_eq!((code, &gone["found"], gone.get("value")), (Some(1), &json!(false), None));

    // By lease while leases are off: told at once, and each time, for asking again is in vain.
    for _ in 0..2 {
        let began = Instant::now();
        let output =
            run(&cluster, &["get", "colour", "--group", "1", "--consistency", "lease", "--deadline-ms", "60000"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("NO_LEASE: leases are off"), "{output:?}");
        assert!(began.elapsed() < SOON, "it waited for its deadline");
    }
    let (either, code) = json(&cluster, &["get", "colour", "--consistency", "lease_or_read_index"]);
    assert_eq!((code, &either["found"]), (Some(1), &json!(false)));

    let long = "k".repeat(257);
    for (wrong, says) in [
        (&["get", &long, "--group", "1"][..], "1 to 256 bytes"),
        (&["put", "colour", "red"][..], "machine = \"kv\""),
        (&["put", "colour"][..], "VALUE"),
    ] {
        let output = run(&cluster, wrong);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(says), "{wrong:?}: {output:?}");
    }
    cluster.stop_all();
    let output = run(&cluster, &["get", "colour", "--group", "1", "--deadline-ms", "300"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// A node that opens sessions, and answers nothing else, until it is stopped by an empty datagram.
fn mute_leader(socket: &UdpSocket, cluster: ClusterId) {
    let mut buffer = [0; 2_048];
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer).expect("receive");
        if bytes == 0 {
            return;
        }
        let asked = parse(&buffer[..bytes]).expect("clients send whole frames");
        if asked.header.kind != Kind::OpenSession {
            continue;
        }
        let (run, _) = Run::parse(asked.payload).expect("a whole run");
        let body = SessionBody {
            client_id: run.client_id().into(),
            session: 77.into(),
            last_committed: 0.into(),
            credit: 8.into(),
            max_entry_bytes: 1_350.into(),
            max_run_bytes: 1_392.into(),
            guarantee: Guarantee::COMMITTED.encode(),
        };
        let reply = frame(&header(Kind::SessionOpened, cluster, KV, NodeId(0)), body.as_bytes());
        socket.send_to(&reply, from).expect("send");
    }
}

#[test]
fn a_put_whose_outcome_is_unknown_names_its_session() {
    let _one_at_a_time = serial();
    let cluster = Cluster::prepare("kv-unknown", |config| {
        config.groups = vec![Group::default(), Group { machine: Machine::Kv, ..Group::default() }];
    });
    let address = cluster.config.client_address(NodeId(0), KV);
    let (node, id) = (UdpSocket::bind(address).expect("the port is free"), cluster.config.cluster_id());
    let node = std::thread::spawn(move || mute_leader(&node, id));
    let output = run(&cluster, &["put", "colour", "red", "--group", "1", "--deadline-ms", "300"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    assert!(
        text.contains(", session 77: synod last-committed --client-id 0x") && text.contains(" --session 77 "),
        "{text}"
    );
    assert!(text.contains("outcome unknown"), "{text}");
    sender(address).send(&[]).expect("send");
    node.join().expect("the node's thread");
}

#[test]
fn a_group_that_keeps_the_log_alone_takes_no_question_and_a_map_takes_any_entry() {
    let _one_at_a_time = serial();
    let mut cluster = cluster("kv-other");
    cluster.await_leader(LOG);
    let (id, options) = (cluster.config.cluster_id(), ReadOptions::default());
    let addresses = |group| cluster.config.client_addresses(group).into_iter().map(|(_, address)| address).collect();
    let mut questions = Questions::new(id, LOG, addresses(LOG), options.clone()).expect("a socket");
    let refused = questions.ask(b"how are you?").unwrap_err();
    assert!(matches!(refused, ClientError::Refused { refusal: Refusal::BadQuestion, .. }), "{refused}");

    let mut appender =
        Appender::connect(id, KV, cluster.config.client_addresses(KV), 5, cluster.options()).expect("a session");
    let noise = appender.append(b"buy 100 at market").expect("it is an entry like any other").sequence;
    let mut reader = KvReader::new(id, KV, addresses(KV), options).expect("a socket");
    assert_eq!(reader.outcome(noise).expect("an answer"), Some(Outcome::Malformed));
    cluster.stop_all();
}

#[test]
fn every_member_holds_the_same_map_after_kills_and_rebuilds_it_from_its_log() {
    let _one_at_a_time = serial();
    let mut cluster = cluster("kv-kills");
    let mut writer = kv(&cluster, 9);
    let key = |at: u64| format!("key {:03}", at % 40).into_bytes();
    let mut expected = vec![None; 40];
    let mut last = Sequence::ZERO;
    for at in 0..200u64 {
        if at == 100 {
            let leader = cluster.await_leader(KV);
            cluster.kill(leader);
            cluster.start(leader);
        }
        let written =
            if at % 7 == 3 { writer.delete(&key(at)) } else { writer.put(&key(at), format!("value {at}").as_bytes()) };
        let written = written.expect("the session outlives the leader");
        let before = std::mem::replace(
            &mut expected[(at % 40) as usize],
            (at % 7 != 3).then(|| (written.ack.sequence, format!("value {at}"))),
        );
        let previous = before.map(|(version, _)| version);
        let outcome = match (at % 7 == 3, previous) {
            (false, previous) => Outcome::Stored { previous },
            (true, Some(previous)) => Outcome::Deleted { previous },
            (true, None) => Outcome::Absent,
        };
        assert_eq!(written.outcome, Some(outcome), "write {at}");
        last = written.ack.sequence;
    }
    let check = |cluster: &Cluster, consistency, at_least| {
        for node in cluster.members() {
            for (at, expected) in expected.iter().enumerate() {
                let read = get(cluster, node, &key(at as u64), consistency, at_least);
                let is = read.value.map(|value| (value.version, String::from_utf8(value.bytes).expect("text")));
                assert_eq!(&is, expected, "node {node}, key {at}, {consistency}, applied {}", read.applied);
                assert!(read.applied >= at_least);
            }
        }
    };
    check(&cluster, Consistency::ReadIndex, Sequence::ZERO);
    check(&cluster, Consistency::Local, last);
    cluster.kill_all();
    cluster.start_all();
    cluster.await_leader(KV);
    check(&cluster, Consistency::ReadIndex, Sequence::ZERO);
    check(&cluster, Consistency::Local, last);
    cluster.stop_all();
    cluster.verify();
}
