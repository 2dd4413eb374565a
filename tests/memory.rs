//! Bounds: a node with the defaults stays under 256 MiB resident under load; an entry that is too long is refused by name;
//! so is what exceeds the window, and nothing that was acknowledged suffers.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, acknowledged};
use common::packet::{Answer, RawSession};
use common::{await_until, say, serial};
use std::time::Duration;
use synod::config::{Config, Wal};
use synod_client::{Appender, ClientError, Counter, Options, Refusal};
use synod_wire::NodeId;
use synod_wire::batch::max_entry_bytes;

const MOST_RESIDENT_KIB: u64 = 256 << 10;
const SESSION: u128 = 0xfeed;
const ATTEMPTS: u32 = 20;

#[test]
fn a_node_with_defaults_stays_under_256_mib_and_refuses_what_is_too_large() {
    let _one = serial();
    let mut cluster = Cluster::prepare("memory", |config| config.wal = Wal::default());
    let defaults = Config { nodes: cluster.config.nodes.clone(), ..Config::default() };
    assert_eq!(cluster.config, defaults, "but for the addresses and directories, all is default");
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 8, 1_024);
    // Once the log is longer than its part in memory, that part has been touched from end to end.
    let arena_bytes = cluster.config.wal.arena_bytes as u64;
    await_until(Duration::from_secs(60), "the log has filled its part in memory", || {
        (cluster.status(leader, GROUP)?.durable_bytes > arena_bytes + (1 << 20)).then_some(())
    });
    refuse_too_large(&cluster, leader);
    load.await_acks(1_000, SOON);
    let told = load.finish();
    for node in cluster.members() {
        let peak_kib = peak_resident_kib(cluster.pid(node));
        say(&format!("memory: node {node} held at most {} MiB", peak_kib >> 10));
        assert!(peak_kib < MOST_RESIDENT_KIB, "node {node} held {} MiB", peak_kib >> 10);
    }
    check_everything(&mut cluster, GROUP, &told);
}

/// The most that a process ever had resident.
fn peak_resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the node's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number of KiB")
}

fn refuse_too_large(cluster: &Cluster, leader: NodeId) {
    let limit = max_entry_bytes(cluster.config.net.max_batch_bytes);
    let (before, entry) = (cluster.counter(leader, GROUP, Counter::RefusedTooLarge), vec![1; limit + 1]);
    // The library refuses it before it is sent ...
    let (id, members) = (cluster.config.cluster_id(), cluster.config.client_addresses(GROUP));
    let mut appender = Appender::connect(id, GROUP, members, SESSION, cluster.options()).expect("a session");
    match appender.append(&entry) {
        Err(ClientError::TooLarge { limit_bytes }) => assert_eq!(limit_bytes, limit),
        other => panic!("an entry of {} bytes: {other:?}", entry.len()),
    }
    // ... and the node if it is sent all the same, even if it does not fit a receive buffer.
    let session = RawSession::new(cluster, leader, GROUP, SESSION);
    let mut refused = before;
    for bytes in [limit + 1, 50_000] {
        let answer = send_until_answered(&session, &vec![1; bytes]);
        assert_eq!(answer, Answer::Refused(Refusal::TooLarge, limit as u64), "{bytes} bytes");
        let now = cluster.counter(leader, GROUP, Counter::RefusedTooLarge);
        assert!(now > refused, "an entry of {bytes} bytes was refused, and not counted: {now}");
        refused = now;
    }
}

/// Under the load around it, a datagram may find the node's socket buffer full. Whoever sends it by hand sends it again.
fn send_until_answered(session: &RawSession, entry: &[u8]) -> Answer {
    for _ in 0..ATTEMPTS {
        session.send(1, &[entry]);
        if let Some(answer) = session.receive(SOON / ATTEMPTS) {
            return answer;
        }
    }
    panic!("no answer to {ATTEMPTS} datagrams in {SOON:?}")
}

#[test]
fn overload_is_refused_by_name_and_loses_nothing() {
    let _one = serial();
    let mut cluster = Cluster::prepare("overload", |config| config.consensus.window_slots = 16);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let options = Options { window_entries: 1_024, ..cluster.options() };
    let load = Load::start_limited(&cluster, GROUP, 12, options, 5_000);
    let told = load.join();
    let busy = cluster.counter(leader, GROUP, Counter::RefusedBusy);
    say(&format!("overload: {} acknowledged, BUSY said {busy} times", acknowledged(&told)));
    assert_eq!(acknowledged(&told), 12 * 5_000, "whoever is refused comes again, and is served");
    assert!(busy > 0, "twelve sessions with 1,024 entries in flight each did not fill a window of 16 slots");
    check_everything(&mut cluster, GROUP, &told);
}
