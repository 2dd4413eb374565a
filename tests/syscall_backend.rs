//! Nodes where a host gives less than they ask for: without io_uring, without privileges, without O_DIRECT. What was acknowledged is
//! kept all the same, and each says what it does without.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON, SYNOD};
use common::host::privileged;
use common::load::{Load, acknowledged};
use common::{await_until, refuse, say, serial};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use synod::config::{Config, KernelIo};
use synod_client::{Counter, Options};
use synod_wire::NodeId;

const NODE: NodeId = NodeId(0);
/// More than `wal.writer = "auto"` has written before its first trial of the ring.
const ENTRIES: u64 = 300;

/// A cluster of one node that answers HTTP, not formatted. It enters the kernel as it is told here, whatever the environment says.
fn one_node(name: &str, io: KernelIo, tune: impl FnOnce(&mut Config)) -> Cluster {
    let mut cluster = Cluster::unformatted(name, |config| {
        Cluster::members_are(config, 1);
        let node = &mut config.nodes[0];
        node.admin_listen = Some(SocketAddrV4::new(*node.client_listen.ip(), 7600));
        tune(config);
    });
    cluster.set_env(NODE, "SYNOD__CPU__IO", &format!("{io:?}").to_lowercase());
    cluster
}

fn format(cluster: &Cluster) {
    let output = cluster.format(NODE);
    assert!(output.status.success(), "format: {}", String::from_utf8_lossy(&output.stderr));
}

/// One session, one entry in flight: each is a log write of its own.
fn append(cluster: &Cluster) -> Vec<common::load::Told> {
    let options = Options { window_entries: 1, ..cluster.options() };
    let told = Load::start_limited(cluster, GROUP, 1, options, ENTRIES).join();
    assert_eq!(acknowledged(&told), ENTRIES);
    told
}

fn get(cluster: &Cluster, path: &str) -> String {
    let admin = cluster.config.nodes[0].admin_listen.expect("it was configured");
    let mut stream = TcpStream::connect(admin).expect("the admin address answers");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: synod\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

/// Log writes of a node, by the log-writer thread and in all, as it says at one moment.
fn writes(cluster: &Cluster, node: NodeId) -> (u64, u64) {
    let status = await_until(SOON, "the node answers", || cluster.status(node, GROUP));
    let count = |counter| status.counter(counter).expect("the node has every counter");
    (count(Counter::WritesByThread), count(Counter::Flushes))
}

/// What the node says that it does without: in its status, and, as it must be the same, in its metrics.
fn without(cluster: &Cluster) -> Vec<String> {
    let status: serde_json::Value = serde_json::from_str(&get(cluster, "/status")).expect("JSON");
    let list = status["groups"][0]["without"].as_array().expect("a list").clone();
    let names: Vec<String> = list.iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
    let metrics = get(cluster, "/metrics");
    let lacks = metrics.lines().filter(|line| line.starts_with("synod_host_lacks{") && line.ends_with("} 1"));
    assert!(lacks.clone().count() == names.len() && lacks.clone().count() > 0, "{names:?} {metrics}");
    for line in lacks {
        assert!(names.iter().any(|name| line.contains(&format!("what=\"{name}\""))), "{line} {names:?}");
    }
    names
}

/// The line of the node's log in which it says so.
fn told_of(cluster: &Cluster, lack: &str) -> String {
    let log = cluster.log(NODE);
    let line = log.lines().find(|line| line.contains("WARN") && line.contains(&format!("without=\"{lack}\"")));
    line.unwrap_or_else(|| panic!("nothing of {lack} in {log}")).to_owned()
}

#[test]
fn plain_system_calls_carry_a_cluster_through_the_death_of_its_leader() {
    let _one = serial();
    let mut cluster = Cluster::prepare("syscall", |config| config.cpu.io = KernelIo::Syscall);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 16);
    load.await_acks(2_000, SOON);
    cluster.kill(leader);
    load.await_acks(2_000, SOON);
    cluster.start(leader);
    load.await_acks(500, SOON);
    let told = load.finish();
    for node in cluster.members() {
        assert!(cluster.log(node).contains("io=\"syscall\""), "it says how it enters the kernel");
        let log = cluster.log(node);
        assert!(!log.contains("without=\"io_uring\""), "what was asked for is not missed: {log}");
        let (by_thread, all) = writes(&cluster, node);
        assert!(by_thread >= all, "all writes are the thread's: {by_thread} of {all}");
        assert!(node == leader || by_thread > 0, "who was there all the time has written");
    }
    let entries = check_everything(&mut cluster, GROUP, &told);
    say(&format!("syscall: {} acknowledged of {entries} entries", acknowledged(&told)));
}

#[test]
fn auto_does_without_io_uring_where_it_is_refused_and_uring_insists() {
    let _one = serial();
    let mut cluster = one_node("refused", KernelIo::Auto, |_| {});
    cluster.restrict(refuse::io_uring);
    format(&cluster);
    cluster.start(NODE);
    let told = append(&cluster);
    assert!(without(&cluster).contains(&"io_uring".to_owned()));
    let line = told_of(&cluster, "io_uring");
    for part in ["io_uring_setup", "Operation not permitted", "seccomp profile", "cpu.io"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    check_everything(&mut cluster, GROUP, &told);
    cluster.stop_all();
    cluster.set_env(NODE, "SYNOD__CPU__IO", "uring");
    cluster.start(NODE);
    assert_eq!(cluster.await_end(NODE).code(), Some(1));
    let log = cluster.log(NODE);
    assert!(log.lines().last().is_some_and(|line| line.contains("io_uring cannot be used")), "{log}");
}

#[test]
fn a_node_without_privileges_serves_and_says_what_it_does_without() {
    let _one = serial();
    let name = "a_node_without_privileges_serves_and_says_what_it_does_without";
    if !privileged(name, &[]) {
        return;
    }
    if !refuse::is_reachable(Path::new(SYNOD)) {
        return say(&format!("SKIPPED {name}: others may not enter the directory of {SYNOD}"));
    }
    for io in [KernelIo::Uring, KernelIo::Syscall] {
        let mut cluster = one_node("nobody", io, |config| {
            // The kernel, or the reactor, may have it or not; asked for, it is said.
            config.net.napi_busy_poll_us = 50;
        });
        cluster.restrict(refuse::privileges);
        refuse::give_to_nobody(cluster.dir());
        format(&cluster);
        cluster.start(NODE);
        let told = append(&cluster);
        let lacks = without(&cluster);
        for lack in ["locked_memory", "real_time"] {
            assert!(lacks.contains(&lack.to_owned()), "{lack} is not in {lacks:?}");
            assert!(told_of(&cluster, lack).contains("ulimit"), "it says how to mend it");
        }
        assert!(io == KernelIo::Uring || lacks.contains(&"busy_poll".to_owned()), "{lacks:?}");
        let status = process_status(cluster.pid(NODE));
        assert!(status.contains("Uid:\t65534\t"), "{status}");
        // The first trial sends writes through the ring, from an arena that is not registered.
        let (by_thread, all) = writes(&cluster, NODE);
        assert_eq!(by_thread < all, io == KernelIo::Uring, "{by_thread} of {all} by the thread");
        cluster.kill(NODE);
        cluster.start(NODE);
        cluster.await_leader(GROUP);
        check_everything(&mut cluster, GROUP, &told);
    }
}

fn process_status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process that runs")
}

#[test]
fn a_file_system_without_o_direct_is_written_through_the_page_cache_and_synced() {
    let _one = serial();
    for io in [KernelIo::Auto, KernelIo::Syscall] {
        let mut cluster = one_node("buffered", io, |_| {});
        cluster.restrict(refuse::direct_io);
        format(&cluster);
        cluster.start(NODE);
        let told = append(&cluster);
        assert!(without(&cluster).contains(&"direct_io".to_owned()));
        assert!(told_of(&cluster, "direct_io").contains("ext4 or XFS"), "it says how to mend it");
        // What is open to be written is so without the flag.
        let open = open_flags(cluster.pid(NODE), "seg");
        assert!(!open.is_empty() && open.iter().all(|flags| flags & libc::O_DIRECT == 0), "{open:?}");
        cluster.kill(NODE);
        cluster.start(NODE);
        cluster.await_leader(GROUP);
        check_everything(&mut cluster, GROUP, &told);
    }
}

/// The flags of the files with this suffix that a process has open.
fn open_flags(pid: u32, suffix: &str) -> Vec<i32> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the files of a process that runs");
    let found = files.filter_map(|file| {
        let file = file.ok()?.path();
        let name = std::fs::read_link(&file).ok()?;
        name.extension().filter(|extension| *extension == suffix)?;
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", file.file_name()?.to_str()?)).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(flags.trim(), 8).ok()
    });
    found.collect()
}

#[test]
fn a_leader_is_found_again_with_the_cores_asleep() {
    let _one = serial();
    let mut cluster = Cluster::prepare("asleep", |config| {
        config.cpu.io = KernelIo::Syscall;
        config.cpu.wait = synod::config::Wait::Block;
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    cluster.kill(leader);
    let next = await_until(SOON, "another leads", || {
        let others = cluster.others(leader).into_iter().filter_map(|node| cluster.status(node, GROUP));
        others.filter(|status| status.role == synod_wire::client::role::LEADER).map(|status| status.node).next()
    });
    let told = append(&cluster);
    cluster.start(leader);
    assert_ne!(next, leader);
    check_everything(&mut cluster, GROUP, &told);
}
