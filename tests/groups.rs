//! Two groups on two cores share nothing: two threads with two affinity masks, two rings, two pairs of ports, two logs; and
//! both work under load at the same time.

mod common;

use common::check::check_group;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, acknowledged};
use common::say;
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use synod::config::Group;
use synod_wire::GroupId;

const SECOND: GroupId = GroupId(1);

#[test]
fn two_groups_have_two_of_everything_and_both_work() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        say("SKIPPED two_groups_have_two_of_everything_and_both_work: needs two cores");
        return;
    }
    let mut cluster = Cluster::prepare("groups", |config| {
        config.groups = vec![Group { core: Some(0), ..Group::default() }, Group { core: Some(1), ..Group::default() }];
        // Six pinned pipelines share two cores here: they must not poll each other's time away.
        config.cpu.wait = synod::config::Wait::Block;
    });
    cluster.start_all();
    for group in [GROUP, SECOND] {
        cluster.await_leader(group);
    }
    for node in cluster.members() {
        let pid = cluster.pid(node);
        assert_eq!(affinity(pid, "synod-group-0"), "0", "node {node}");
        assert_eq!(affinity(pid, "synod-group-1"), "1", "node {node}");
        let links = open_files(pid);
        let rings = links.iter().filter(|link| link.contains("[io_uring]")).count();
        // By plain system calls, where it is started so, it has none.
        let expected = if cluster.log(node).contains("io=\"syscall\"") { 0 } else { 2 };
        assert_eq!(rings, expected, "node {node} has a ring for each group: {links:?}");
        let sockets = [GROUP, SECOND].map(|group| {
            [cluster.config.peer_address(node, group), cluster.config.client_address(node, group)].map(inode)
        });
        let sockets: BTreeSet<u64> = sockets.into_iter().flatten().collect();
        assert_eq!(sockets.len(), 4, "node {node} has four sockets on four ports");
        for group in [GROUP, SECOND] {
            let dir = cluster.config.log_dir(node, group);
            assert!(dir.join(format!("{:016x}.seg", 0)).is_file(), "{} holds a log", dir.display());
            assert_eq!(cluster.status(node, group).expect("an answer").core, Some(u32::from(group.0)));
        }
    }
    let loads = [GROUP, SECOND].map(|group| Load::start(&cluster, group, 2, 32));
    for load in &loads {
        load.await_acks(3_000, SOON);
    }
    for (group, load) in [GROUP, SECOND].into_iter().zip(loads) {
        let told = load.finish();
        let entries = check_group(&cluster, group, &told);
        say(&format!("groups: group {group}, {} acknowledged of {entries} entries", acknowledged(&told)));
    }
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!(report["groups"].as_array().map(Vec::len), Some(2), "{report}");
}

/// The CPUs that the thread of this name may run on, as the kernel lists them.
fn affinity(pid: u32, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the node's threads");
    for task in tasks {
        let task = task.expect("a thread").path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).expect("a thread that lives");
        if read("comm").trim() == name {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            return line.expect("Cpus_allowed_list").trim().to_owned();
        }
    }
    panic!("no thread of process {pid} is called {name}");
}

fn open_files(pid: u32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the node's descriptors");
    let link = |file: std::io::Result<std::fs::DirEntry>| std::fs::read_link(file.expect("a descriptor").path());
    files.filter_map(|file| Some(link(file).ok()?.to_string_lossy().into_owned())).collect()
}

/// The inode of the socket bound to an address.
fn inode(address: SocketAddrV4) -> u64 {
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/udp").expect("/proc/net/udp");
    let row = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|fields| fields.get(1) == Some(&wanted.as_str()));
    let row = row.unwrap_or_else(|| panic!("nothing listens on {address}"));
    row[9].parse().expect("an inode")
}
