//! Every metric of a scrape stands in a table (`tests/metrics.txt`) with what makes it move, and nothing else does; what moves here, moves in
//! one life of a cluster of real processes: load, reads, a subscriber, bad datagrams, refusals, a leader that dies, a lost quorum, changes
//! of the members.

use super::common::cluster::{Cluster, GROUP, SOON};
use super::common::load::Load;
use super::common::numbered::synod;
use super::common::packet::{RawSession, frame, header, run, sender};
use super::common::{await_until, http, say, serial};
use super::{PORT, scrape};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};
use synod::config::{Drift, Every};
use synod_client::{Questions, ReadOptions, Sequence, Subscription};
use synod_wire::frame::{HEADER_BYTES, Kind};
use synod_wire::members::{ChangeBody, change};
use synod_wire::{ClusterId, NodeId};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// The table.
const TABLE: &str = include_str!("../metrics.txt");
/// Labels that tell samples of one series apart, not series.
const WITHIN: [&str; 5] = ["group", "le", "percentile", "member", "what"];
/// Series of which one of several names is 1: a series for all of them.
const STATES: [&str; 3] = ["synod_mode", "synod_role", "synod_mode_reason"];

/// Rows of the table: a series, and what moves it.
fn table() -> BTreeMap<&'static str, &'static str> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|line| line.split_once(' ').unwrap_or_else(|| panic!("no mover: {line}"))).collect()
}

/// A sample's series: without what tells its samples apart.
fn series(sample: &str) -> String {
    let (name, labels) = sample.trim_end_matches('}').split_once('{').expect("a sample has labels");
    let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let kept: Vec<&str> = labels
        .split(',')
        .filter(|label| label.split_once('=').is_some_and(|(label, _)| !WITHIN.contains(&label)))
        .filter(|_| !STATES.contains(&name))
        .collect();
    if kept.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", kept.join(",")) }
}

/// What was seen of each sample of each node.
#[derive(Default)]
struct Seen {
    first: BTreeMap<(NodeId, String), f64>,
    /// Which of several names was 1 last.
    states: BTreeMap<(NodeId, String), String>,
    moved: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Seen {
    /// Looks at the nodes that run.
    fn look(&mut self, cluster: &Cluster, nodes: &[NodeId]) {
        for node in nodes {
            for (sample, value) in scrape(cluster, *node) {
                let series = series(&sample);
                let name = sample.split('{').next().unwrap_or_default().to_owned();
                let is = STATES.contains(&name.as_str()) && value == 1.0;
                let other = is && self.states.insert((*node, name), sample.clone()).is_some_and(|last| last != sample);
                let before = *self.first.entry((*node, sample)).or_insert(value);
                // A counter began at zero, with its process.
                if other || before != value || series.contains("_total") && value > 0.0 {
                    self.moved.insert(series.clone());
                }
                self.all.insert(series);
            }
        }
    }
}

#[test]
fn every_metric_is_in_the_table_and_what_is_in_the_table_moves() {
    let _one = serial();
    let mut cluster = Cluster::prepare("moves", |config| {
        http::listen(config, PORT);
        config.snapshot.every_entries = Every::Entries(2_000);
        config.wal.segment_bytes = 4 << 20;
        config.reads.lease_clock_drift_ppm = Drift::Ppm(500);
    });
    let mut seen = Seen::default();
    cluster.start_all();
    await_until(SOON, "all answer", || {
        cluster.members().iter().all(|node| cluster.status(*node, GROUP).is_some()).then_some(())
    });
    seen.look(&cluster, &cluster.members());
    let leader = cluster.await_leader(GROUP);
    load(&cluster, leader, &mut seen);
    bad_datagrams(&cluster, leader, &mut seen);
    refusals(&cluster, leader, &mut seen);
    follower_comes_back(&mut cluster, leader, &mut seen);
    trims(&cluster, &mut seen);
    let leader = leader_dies(&mut cluster, leader, &mut seen);
    quorum_is_lost(&mut cluster, leader, &mut seen);
    members_change(&cluster, &mut seen);
    let table = table();
    let here: BTreeSet<&str> = table.iter().filter(|(_, mover)| **mover == "here").map(|(series, _)| *series).collect();
    let missing: Vec<_> = seen.all.iter().filter(|series| !table.contains_key(series.as_str())).collect();
    let gone: Vec<_> = table.keys().filter(|series| !seen.all.contains(**series)).collect();
    let still: Vec<_> = here.iter().filter(|series| !seen.moved.contains(**series)).collect();
    say(&format!("metrics: {} series, {} of them moved", seen.all.len(), seen.moved.len()));
    assert!(missing.is_empty(), "in a scrape and not in tests/metrics.txt: {missing:#?}");
    assert!(gone.is_empty(), "in tests/metrics.txt and not in a scrape: {gone:#?}");
    assert!(still.is_empty(), "tests/metrics.txt says that these move here: {still:#?}");
}

/// Clients append, read and subscribe.
fn load(cluster: &Cluster, leader: NodeId, seen: &mut Seen) {
    let load = Load::start(cluster, GROUP, 4, 64);
    let members = vec![cluster.config.client_address(leader, GROUP)];
    let mut stream =
        Subscription::new(cluster.config.cluster_id(), GROUP, members, ReadOptions::default(), Sequence(1))
            .expect("a socket");
    // A look amid the load, while a subscriber has credit: what is open and under way shows.
    for _ in 0..10 {
        load.await_acks(500, SOON);
        for _ in 0..200 {
            stream.next_entry(SOON).expect("the stream goes on").expect("there are entries");
        }
        seen.look(cluster, &cluster.members());
    }
    let read = synod(cluster, &["read"], &["--from", "1", "--count", "2000"]);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    load.finish();
    // Once there is nothing left to send, what it allows stays.
    await_until(SOON, "a subscriber that has all has credit", || {
        while stream.next_entry(Duration::from_millis(20)).expect("the stream goes on").is_some() {}
        (scrape(cluster, leader)["synod_subscriber_credit_least_datagrams{group=\"0\"}"] > 0.0).then_some(())
    });
    seen.look(cluster, &[leader]);
    stream.close().expect("it says that it leaves");
    let count = |series: &str| scrape(cluster, leader).get(series).copied().unwrap_or_default();
    await_until(SOON, "a snapshot", || {
        (count("synod_snapshots_total{group=\"0\",event=\"written\"}") > 0.0).then_some(())
    });
    seen.look(cluster, &cluster.members());
}

/// Sends until a sample of the node has grown.
fn moves(cluster: &Cluster, node: NodeId, sample: &str, send: impl Fn()) {
    let value = || scrape(cluster, node).get(sample).copied().unwrap_or_default();
    let before = value();
    let since = Instant::now();
    send();
    await_until(SOON, &format!("{sample} of node {node} grows"), || {
        // A datagram may be lost, and a change refused for another reason first.
        if since.elapsed() > Duration::from_millis(300) {
            send();
        }
        (value() > before).then_some(())
    });
}

fn send(to: &UdpSocket, bytes: &[u8]) {
    to.send(bytes).expect("send");
}

/// A request of more than a receive buffer holds.
fn oversize(cluster: &Cluster) -> Vec<u8> {
    frame(&header(Kind::Append, cluster.config.cluster_id(), GROUP, NodeId(0)), &vec![7; 9_000])
}

/// One of each kind that is dropped.
fn bad_datagrams(cluster: &Cluster, node: NodeId, seen: &mut Seen) {
    let (id, group) = (cluster.config.cluster_id(), GROUP);
    let to = sender(cluster.config.client_address(node, GROUP));
    let payload = run(1, 1, 1, &[b"entry"]);
    let good = frame(&header(Kind::Append, id, group, NodeId(0)), &payload);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let foreign = frame(&header(Kind::Append, ClusterId(id.0 + 1), group, NodeId(0)), &payload);
    let stranger = frame(&header(Kind::Append, id, synod_wire::GroupId(7), NodeId(0)), &payload);
    let members_kind = frame(&header(Kind::Prepare, id, group, NodeId(1)), &[]);
    let no_body = frame(&header(Kind::Read, id, group, NodeId(0)), &[]);
    for (reason, bytes) in [
        ("truncated", vec![0x5a; 10]),
        ("version", with(16, 99)),
        ("kind", members_kind),
        ("checksum", with(HEADER_BYTES, good[HEADER_BYTES] ^ 1)),
        ("body", no_body),
        ("foreign_cluster", foreign),
        ("foreign_sender", stranger),
        ("oversize", oversize(cluster)),
    ] {
        let sample = format!("synod_dropped_frames_total{{group=\"0\",reason=\"{reason}\"}}");
        moves(cluster, node, &sample, || send(&to, &bytes));
    }
    seen.look(cluster, &[node]);
}

/// Requests that are refused while the group serves.
fn refusals(cluster: &Cluster, leader: NodeId, seen: &mut Seen) {
    let refused = |reason: &str| format!("synod_refused_requests_total{{group=\"0\",reason=\"{reason}\"}}");
    let follower = cluster.others(leader)[0];
    let at_follower = RawSession::new(cluster, follower, GROUP, 77);
    moves(cluster, follower, &refused("not_leader"), || at_follower.send(1, &[b"entry"]));
    let session = RawSession::new(cluster, leader, GROUP, 78);
    session.open();
    moves(cluster, leader, &refused("session"), || session.send(9, &[b"a gap before it"]));
    session.send(1, &[b"entry"]);
    let again = "synod_duplicates_answered_total{group=\"0\"}";
    moves(cluster, leader, again, || session.send(1, &[b"entry"]));
    let at_leader = vec![cluster.config.client_address(leader, GROUP)];
    let id = cluster.config.cluster_id();
    let mut questions = Questions::new(id, GROUP, at_leader, ReadOptions::default()).expect("a socket");
    // The group keeps the log alone.
    let refusal = questions.ask(b"how are you?").expect_err("nobody answers").to_string();
    assert!(refusal.contains("BAD_QUESTION"), "{refusal}");
    moves(cluster, leader, &refused("too_large"), || {
        send(&sender(cluster.config.client_address(leader, GROUP)), &oversize(cluster))
    });
    seen.look(cluster, &cluster.members());
}

/// A follower is away, and catches up.
fn follower_comes_back(cluster: &mut Cluster, leader: NodeId, seen: &mut Seen) {
    let follower = cluster.others(leader)[0];
    cluster.kill(follower);
    let load = Load::start(cluster, GROUP, 2, 32);
    load.await_acks(1_000, SOON);
    seen.look(cluster, &[leader]);
    cluster.start(follower);
    cluster.await_converged_under_load(GROUP);
    load.finish();
    cluster.await_converged(GROUP);
    seen.look(cluster, &cluster.members());
}

fn trims(cluster: &Cluster, seen: &mut Seen) {
    let lines = "x".repeat(1_000) + "\n";
    let file = cluster.dir().join("lines");
    std::fs::write(&file, lines.repeat(12_000)).expect("a file");
    let input = file.display().to_string();
    let output = synod(cluster, &["append"], &["--quiet", "--input", &input]);
    assert!(output.status.success(), "{output:?}");
    cluster.await_converged(GROUP);
    seen.look(cluster, &cluster.members());
    await_until(SOON, "nothing holds the trim back", || {
        let output = synod(cluster, &["trim"], &["--before", "14000", "-o", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (told["held_back_by"] == "nothing").then_some(())
    });
    let node = cluster.members()[0];
    let refused = "synod_refused_requests_total{group=\"0\",reason=\"trimmed\"}";
    moves(cluster, node, refused, || drop(synod(cluster, &["read"], &["--node", "0", "--from", "5", "--count", "1"])));
    await_until(SOON, "segments are removed", || {
        let removed = scrape(cluster, node)["synod_log_segments_removed_total{group=\"0\"}"];
        (removed > 0.0).then_some(())
    });
    seen.look(cluster, &cluster.members());
}

/// The leader is killed, and comes back.
fn leader_dies(cluster: &mut Cluster, leader: NodeId, seen: &mut Seen) -> NodeId {
    cluster.kill(leader);
    let next = cluster.await_leader(GROUP);
    seen.look(cluster, &cluster.others(leader));
    cluster.start(leader);
    cluster.await_converged(GROUP);
    // Handed over: an election that no silence causes. It may have caught up from others before it has answered the leader.
    let to = leader.to_string();
    await_until(SOON, &format!("{next} hands over to {to}"), || {
        synod(cluster, &["transfer-leader"], &["--to", &to]).status.success().then_some(())
    });
    seen.look(cluster, &cluster.members());
    cluster.await_leader(GROUP)
}

/// A leader without a quorum refuses, and serves again.
fn quorum_is_lost(cluster: &mut Cluster, leader: NodeId, seen: &mut Seen) {
    let session = RawSession::new(cluster, leader, GROUP, 79);
    session.open();
    for other in cluster.others(leader) {
        cluster.kill(other);
    }
    let refused = "synod_refused_requests_total{group=\"0\",reason=\"quorum_unavailable\"}";
    moves(cluster, leader, refused, || session.send(1, &[b"entry"]));
    seen.look(cluster, &[leader]);
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster.await_converged(GROUP);
    seen.look(cluster, &cluster.members());
}

/// Every change of the members that is refused, and some that are made: the members that join are made up, and where they are said to be no
/// datagram can be sent.
fn members_change(cluster: &Cluster, seen: &mut Seen) {
    let leader = cluster.await_leader(GROUP);
    let follower = cluster.others(leader)[0];
    let epoch = || scrape(cluster, leader)["synod_configuration_epoch{group=\"0\"}"] as u32;
    let ask = |of: NodeId, epoch: u32, what: u8, node: u8| {
        let body = ChangeBody {
            request_id: U64::new(1),
            incarnation: U64::new(u64::from(node) + 1),
            epoch: U32::new(epoch),
            change: what,
            node,
            peer_port: U16::new(7),
            peer_ip: Ipv4Addr::BROADCAST.octets(),
            client_ip: Ipv4Addr::BROADCAST.octets(),
            client_port: U16::new(8),
            reserved: [0; 6],
        };
        let bytes = frame(&header(Kind::ChangeMembers, cluster.config.cluster_id(), GROUP, NodeId(0)), body.as_bytes());
        sender(cluster.config.client_address(of, GROUP)).send(&bytes).expect("send");
    };
    let refused =
        |reason: &str| format!("synod_configuration_changes_refused_total{{group=\"0\",reason=\"{reason}\"}}");
    moves(cluster, follower, &refused("not_leader"), || ask(follower, 1, change::REMOVE, 0));
    moves(cluster, leader, &refused("stale"), || ask(leader, 99, change::REMOVE, 0));
    moves(cluster, leader, &refused("already_member"), || ask(leader, epoch(), change::PROMOTE, 0));
    moves(cluster, leader, &refused("not_a_member"), || ask(leader, epoch(), change::PROMOTE, 9));
    moves(cluster, leader, &refused("pending"), || {
        ask(leader, epoch(), change::ADD, 3);
        ask(leader, epoch(), change::ADD, 4);
    });
    let members = "synod_configuration_epoch{group=\"0\"}";
    moves(cluster, leader, &refused("not_caught_up"), || ask(leader, epoch(), change::PROMOTE, 3));
    for node in 4..=8 {
        if !scrape(cluster, leader)
            .contains_key(&format!("synod_member_silent_seconds{{group=\"0\",member=\"{node}\"}}"))
        {
            moves(cluster, leader, members, || ask(leader, epoch(), change::ADD, node));
        }
    }
    moves(cluster, leader, &refused("too_many"), || ask(leader, epoch(), change::ADD, 9));
    let errors = "synod_send_errors_total{group=\"0\"}";
    moves(cluster, leader, errors, || {});
    for other in cluster.others(leader) {
        moves(cluster, leader, members, || ask(leader, epoch(), change::REMOVE, other.0));
    }
    moves(cluster, leader, &refused("last_voter"), || ask(leader, epoch(), change::REMOVE, leader.0));
    // Who was removed, and hears of it, serves no more.
    let floor = "synod_mode_entered_total{group=\"0\",mode=\"FLOOR\"}";
    await_until(SOON, "one of the removed members is told", || {
        cluster.others(leader).into_iter().any(|node| scrape(cluster, node)[floor] > 0.0).then_some(())
    });
    seen.look(cluster, &cluster.members());
}

#[test]
fn the_tests_that_the_table_names_exist() {
    for (series, mover) in table() {
        match mover.split_once(':') {
            None => assert_eq!(mover, "here", "{series}"),
            // Looked at by sim/tests/metrics.rs.
            Some(("sim", _)) => {}
            Some(("test", at)) => {
                let (file, name) = at.split_once(' ').unwrap_or_else(|| panic!("{series}: a file and a test"));
                let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
                let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{series}: {file}: {error}"));
                assert!(text.contains(&format!("fn {name}()")), "{series}: {file} has no test {name}");
            }
            Some(_) => panic!("{series}: {mover}"),
        }
    }
}
