//! What a node makes of datagrams that it should not get, and of a host that it cannot work with: it drops and counts the
//! ones, and ends with exit code 1 and words that help on the others. Nothing acknowledged is lost to either.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::host::{privileged, run as run_program};
use common::load::Load;
use common::packet::{frame, header, run, sender};
use common::{Rng, await_until, say, serial};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use synod_client::Counter;
use synod_wire::frame::{HEADER_BYTES, Kind};
use synod_wire::{ClusterId, GroupId, NodeId};

const NODE: NodeId = NodeId(0);
/// Many times what the load can write before it ends.
const DISK_BYTES: u64 = 1 << 30;
const PROGRAMS: &[&str] = &["mkfs.ext4", "losetup", "mount", "umount", "setsid"];

/// A datagram, and the counter that it must raise by one.
type Bad = (&'static str, Vec<u8>, Counter);

/// What is wrong at either port; `kind` and `payload` would be right there, `from` is a member.
fn bad_everywhere(cluster: ClusterId, kind: Kind, from: NodeId, payload: &[u8]) -> Vec<Bad> {
    let good = frame(&header(kind, cluster, GROUP, from), payload);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let foreign = frame(&header(kind, ClusterId(cluster.0 + 1), GROUP, from), payload);
    let other_group = frame(&header(kind, cluster, GroupId(7), from), payload);
    vec![
        ("ten bytes", vec![0x5a; 10], Counter::DroppedTruncated),
        ("a header cut short", good[..HEADER_BYTES - 1].to_vec(), Counter::DroppedTruncated),
        ("another version", with(16, 99), Counter::DroppedVersion),
        ("a flipped bit in the header", with(33, good[33] ^ 1), Counter::DroppedChecksum),
        ("a flipped bit in the payload", with(HEADER_BYTES, good[HEADER_BYTES] ^ 1), Counter::DroppedChecksum),
        ("a payload cut short", good[..HEADER_BYTES + 3].to_vec(), Counter::DroppedTruncated),
        ("another cluster's", foreign, Counter::DroppedCluster),
        ("another group's", other_group, Counter::DroppedSender),
    ]
}

fn bad_for_clients(cluster: &Cluster) -> Vec<Bad> {
    let id = cluster.config.cluster_id();
    let mut all = bad_everywhere(id, Kind::Append, NODE, &run(1, 1, 1, &[b"entry"]));
    let append = |payload: &[u8]| frame(&header(Kind::Append, id, GROUP, NODE), payload);
    let peers_kind = frame(&header(Kind::Prepare, id, GROUP, NodeId(1)), &[]);
    let mut miscounted = run(1, 1, 1, &[b"entry", b"another"]);
    miscounted[24] = 3;
    all.push(("a member's message", peers_kind, Counter::DroppedKind));
    all.push(("a run that is no run", append(&[0xff; 40]), Counter::DroppedTruncated));
    all.push(("a run that miscounts its entries", append(&miscounted), Counter::DroppedBody));
    all.push(("a read without a body", frame(&header(Kind::Read, id, GROUP, NODE), &[]), Counter::DroppedBody));
    let evidence = |body: &[u8]| frame(&header(Kind::Evidence, id, GROUP, NODE), body);
    all.push(("evidence of nothing", evidence(&[0; 24]), Counter::DroppedBody));
    all.push(("evidence of a slot and a sequence", evidence(&[1; 24]), Counter::DroppedBody));
    let mut trim = run(1, 1, 1, &[b"entry"])[..40].to_vec();
    // A run of no client, no session and no entries, of kind 3: only a leader writes one.
    trim[..16].fill(0);
    trim[24..40].copy_from_slice(&[0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    all.push(("a trim in the dress of an append", append(&trim), Counter::DroppedBody));
    all.push((
        "a trim before no sequence",
        frame(&header(Kind::Trim, id, GROUP, NODE), &[0; 16]),
        Counter::DroppedBody,
    ));
    all.push(("more than a buffer holds", append(&vec![7; 9_000]), Counter::DroppedOversize));
    all
}

fn bad_for_members(cluster: &Cluster) -> Vec<Bad> {
    let id = cluster.config.cluster_id();
    let mut all = bad_everywhere(id, Kind::Heartbeat, NodeId(1), &[0; 8]);
    let from = |from, kind, payload: &[u8]| frame(&header(kind, id, GROUP, from), payload);
    all.push(("a client's request", from(NodeId(1), Kind::Append, &run(1, 1, 1, &[b"entry"])), Counter::DroppedKind));
    all.push(("from no member", from(NodeId(9), Kind::Heartbeat, &[0; 8]), Counter::DroppedSender));
    all.push(("from the node itself", from(NODE, Kind::Heartbeat, &[0; 8]), Counter::DroppedSender));
    all.push(("a heartbeat without a body", from(NodeId(1), Kind::Heartbeat, &[]), Counter::DroppedBody));
    all.push(("a promise without a body", from(NodeId(1), Kind::Promise, &[1]), Counter::DroppedBody));
    all.push(("addresses of nobody", from(NodeId(9), Kind::Whereabouts, &[0; 16]), Counter::DroppedBody));
    all.push(("a value that is no batch", from(NodeId(1), Kind::Learnt, &[0xee; 30]), Counter::DroppedBody));
    all.push(("more than a buffer holds", from(NodeId(1), Kind::Accept, &vec![7; 9_000]), Counter::DroppedOversize));
    all
}

#[test]
fn bad_datagrams_are_dropped_and_counted_and_the_node_goes_on() {
    let _one = serial();
    let mut rng = Rng::announced("bad_datagrams");
    let mut cluster = Cluster::prepare("bad-datagrams", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 1, 16);
    load.await_acks(100, SOON);
    let pid = cluster.pid(NODE);
    let ports = [
        (cluster.config.client_address(NODE, GROUP), bad_for_clients(&cluster)),
        (cluster.config.peer_address(NODE, GROUP), bad_for_members(&cluster)),
    ];
    for (port, datagrams) in ports {
        for (what, bytes, counter) in datagrams {
            let before = cluster.counter(NODE, GROUP, counter);
            sender(port).send(&bytes).expect("send");
            await_until(SOON, &format!("{} counts {what} to {port}", counter.name()), || {
                (cluster.counter(NODE, GROUP, counter) == before + 1).then_some(())
            });
        }
        send_noise(&cluster, port, &mut rng);
    }
    load.await_acks(500, SOON);
    assert_eq!(cluster.pid(NODE), pid, "the node is still the same process");
    let told = load.finish();
    check_everything(&mut cluster, GROUP, &told);
}

/// Random bytes. Valid acts of the protocol in a member's name are no noise: as there are no MACs yet, they are obeyed.
fn send_noise(cluster: &Cluster, port: SocketAddrV4, rng: &mut Rng) {
    let socket = sender(port);
    for _ in 0..3_000 {
        let mut bytes = vec![0; rng.below(1_472) as usize];
        bytes.fill_with(|| rng.next() as u8);
        // Half of them get past the version, to the checksum.
        if bytes.len() > 17 && rng.below(2) == 0 {
            bytes[16] = 1;
        }
        socket.send(&bytes).expect("send");
    }
    let answered = await_until(SOON, "the node answers after the noise", || cluster.status(NODE, GROUP));
    assert_eq!(answered.node, NODE);
}

/// Runs a command that must fail with exit code 1 and say all of `words`.
fn fails_with(what: &str, command: &mut Command, words: &[&str]) {
    let Output { status, stderr, .. } = command.output().expect("run synod");
    let text = String::from_utf8_lossy(&stderr);
    say(&format!("bad_input: {what}: {}", text.lines().last().unwrap_or_default()));
    assert_eq!(status.code(), Some(1), "{what}: {status}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: the error does not say {word:?}: {text}");
    }
}

#[test]
fn a_host_that_does_not_fit_ends_the_node_with_words_that_help() {
    let _one = serial();
    let cluster = Cluster::prepare("bad-host", |_| {});
    let start = |node| cluster.start_command(node);

    let busy = UdpSocket::bind(cluster.config.client_address(NODE, GROUP)).expect("the node's port");
    let me = format!("process {}", std::process::id());
    fails_with("a busy port", &mut start(NODE), &["UDP port 7500 is held by", &me, "listen on another port"]);
    drop(busy);

    let mut command = start(NODE);
    without_io_uring(&mut command);
    // By default it would go on without.
    command.env("SYNOD__CPU__IO", "uring");
    let words = ["io_uring cannot be used", "Operation not permitted", "kernel.io_uring_disabled=0", "seccomp"];
    fails_with("io_uring switched off", &mut command, &words);

    let dir = cluster.config.log_dir(NodeId(1), GROUP);
    let away = dir.with_extension("away");
    std::fs::rename(&dir, &away).expect("move the log away");
    fails_with("no log", &mut start(NodeId(1)), &["holds no log", "Format it if this node is new"]);
    std::fs::rename(&away, &dir).expect("move it back");

    let text = std::fs::read_to_string(cluster.config_file()).expect("the configuration");
    let line = text.lines().position(|line| line == "[wal]").expect("a section [wal]") + 2;
    let wrong = text.replace("[wal]\n", "[wal]\nsegment_byte = 1\n");
    std::fs::write(cluster.config_file(), wrong).expect("write");
    fails_with("a wrong key", &mut start(NODE), &["segment_byte", &format!("synod.toml:{line}"), "segment_bytes"]);
    std::fs::write(cluster.config_file(), text.replace("heartbeat_us = 20000", "heartbeat_us = 9999999"))
        .expect("write");
    fails_with("a wrong value", &mut start(NODE), &["heartbeat_us", "election_timeout_min_us"]);
    std::fs::write(cluster.config_file(), &text).expect("write");
}

#[test]
fn a_directory_in_use_or_read_only_ends_the_node_with_words_that_help() {
    let _one = serial();
    let mut cluster = Cluster::prepare("bad-directory", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    fails_with(
        "a directory in use",
        &mut cluster.start_command(NODE),
        &["in use by another process", "Stop that process"],
    );
    let load = Load::start(&cluster, GROUP, 1, 4);
    load.await_acks(100, SOON);
    let told = load.finish();
    cluster.stop(NODE);
    if privileged("a_directory_in_use_or_read_only_ends_the_node_with_words_that_help", PROGRAMS) {
        // Permissions do not stop root; a read-only mount does.
        let dir = cluster.config.nodes[0].dir.clone();
        let at = dir.to_str().expect("a path in UTF-8");
        let _undo = common::host::Cleanup::promise(&[format!("umount {at}")]);
        run_program("mount", &["--bind", at, at]);
        run_program("mount", &["-o", "remount,ro,bind", at]);
        fails_with("a read-only directory", &mut cluster.start_command(NODE), &["Read-only file system", at, "Check"]);
    }
    cluster.start(NODE);
    check_everything(&mut cluster, GROUP, &told);
}

#[test]
fn a_full_disk_stops_a_follower_which_says_so_and_nothing_is_lost() {
    full_disk("a_full_disk_stops_a_follower_which_says_so_and_nothing_is_lost", false);
}

#[test]
fn a_leader_with_a_full_disk_makes_way_says_so_and_nothing_is_lost() {
    full_disk("a_leader_with_a_full_disk_makes_way_says_so_and_nothing_is_lost", true);
}

fn full_disk(test: &str, of_leader: bool) {
    let _one = serial();
    if !privileged(test, PROGRAMS) {
        return;
    }
    let node = NodeId(2);
    let mut cluster = cluster_with_small_disk(node);
    let segment_bytes = cluster.config.wal.segment_bytes;
    // Room for nothing: the node cannot even be formatted.
    let ballast = cluster.disk(node).fill_up_to(segment_bytes / 2);
    let output = cluster.format(node);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no space for") && text.contains("Free or add space"), "{text}");
    std::fs::remove_file(&ballast).expect("remove the ballast");
    assert!(cluster.format(node).status.success(), "format");

    // Room for one more segment, and not for another.
    let ballast = cluster.disk(node).fill_up_to(segment_bytes + segment_bytes / 2);
    let first = if of_leader { node } else { NodeId(0) };
    start_with_leader(&mut cluster, first);
    let load = Load::start(&cluster, GROUP, 2, 16);
    await_until(SOON, "the node says that its disk is full", || {
        cluster.log(node).contains("no space for").then_some(())
    });
    await_until(SOON, "its last segment is full, and the others go on", || {
        let own = cluster.status(node, GROUP)?;
        let peers = cluster.others(node).into_iter().filter_map(|peer| cluster.status(peer, GROUP));
        let leads = own.role == synod_wire::client::role::LEADER;
        (!leads && peers.map(|peer| peer.applied.0).max()? > own.applied.0 + 500).then_some(())
    });
    load.await_acks(2_000, SOON);
    let log = cluster.log(node);
    let complaints = log.lines().filter(|line| line.contains("no space for")).count();
    assert!(log.contains("Free or add space"), "the error says how to mend it");
    assert!(complaints < 100, "the log of the node is flooded: {complaints} complaints");
    let events =
        cluster.synod(&["inspect", "events", "--dir", &cluster.config.log_dir(node, GROUP).display().to_string()]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    let failures: Vec<&str> = events.lines().filter(|line| line.contains("log segment cannot be prepared")).collect();
    assert!(failures.len() == 1 && failures[0].contains("No space left on device"), "{events}");
    std::fs::remove_file(&ballast).expect("remove the ballast");
    cluster.await_converged_under_load(GROUP);
    let told = load.finish();
    let gap = told.iter().map(|told| told.longest_gap).max().unwrap_or_default();
    say(&format!(
        "bad_input: a full disk (of the leader: {of_leader}): {complaints} complaints, longest pause {gap:?}"
    ));
    check_everything(&mut cluster, GROUP, &told);
}

/// Starts all nodes; `first` stands for election before the others do.
fn start_with_leader(cluster: &mut Cluster, first: NodeId) {
    cluster.set_env(first, "SYNOD__CONSENSUS__ELECTION_TIMEOUT_MIN_US", "50000");
    cluster.set_env(first, "SYNOD__CONSENSUS__ELECTION_TIMEOUT_MAX_US", "60000");
    loop {
        cluster.start_all();
        let leader = cluster.await_leader(GROUP);
        if leader == first {
            return;
        }
        // A busy machine let another one be faster.
        cluster.kill(leader);
    }
}

/// A cluster, not formatted on `node`, whose disk is its own.
fn cluster_with_small_disk(node: NodeId) -> Cluster {
    let mut cluster = Cluster::unformatted("full-disk", |config| config.wal.segment_bytes = 4 << 20);
    cluster.put_on_disk(node, DISK_BYTES);
    for peer in cluster.others(node) {
        assert!(cluster.format(peer).status.success(), "format");
    }
    cluster
}

/// The process to be started may not use io_uring: `io_uring_setup` fails with EPERM, as in a container.
fn without_io_uring(command: &mut Command) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let filter = [
        // The system call's number is the first word of seccomp_data.
        statement(load, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec only prctl is called; the filter was copied into the closure, lives through the calls
    // and is as long as it says.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            let sealed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if sealed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}
