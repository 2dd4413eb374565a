//! What a commit costs in system calls: with the log written through the ring, `io_uring_enter` (and `sched_yield`, in the
//! waits that poll) grow with the number of commits, and nothing else does. What the clock causes is kept apart: both loads
//! are traced for the same time.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::host::privileged;
use common::load::{Load, acknowledged};
use common::{await_until, say};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod::config::{Wait, Writer};
use synod_client::Options;
use synod_wire::NodeId;

/// Commits of the short load; the long one has four times as many. Neither fills a segment.
const ENTRIES: u64 = 1_000;
/// What may grow with commits.
const ALLOWED: [&str; 2] = ["io_uring_enter", "sched_yield"];
/// What everything else may differ by: attaching, an arena that grows once, the answer to a question.
const NOISE: u64 = 12;

#[test]
fn only_ring_entries_and_yields_grow_with_commits() {
    if !privileged("only_ring_entries_and_yields_grow_with_commits", &["strace"]) {
        return;
    }
    if std::env::var("SYNOD__CPU__IO").is_ok_and(|io| io == "syscall") {
        return say(
            "SKIPPED only_ring_entries_and_yields_grow_with_commits: SYNOD__CPU__IO has all nodes do without a ring",
        );
    }
    for wait in [Wait::Block, Wait::Yield] {
        let mut cluster = Cluster::prepare("syscalls", |config| {
            config.cpu.wait = wait;
            config.wal.writer = Writer::Ring;
            // A leader that is traced is slow; it is to stay the leader.
            config.consensus.election_timeout_min_us = 1_000_000;
            config.consensus.election_timeout_max_us = 2_000_000;
            config.wal.segment_bytes = 64 << 20;
        });
        cluster.start_all();
        let leader = cluster.await_leader(GROUP);
        // Whatever is done once only, is done by now.
        append(&cluster, ENTRIES);
        let (long, took) = traced(&cluster, leader, 4 * ENTRIES, Duration::ZERO);
        let (short, _) = traced(&cluster, leader, ENTRIES, took);
        assert_eq!(cluster.await_leader(GROUP), leader, "the leader that was traced still leads");
        say(&format!(
            "syscalls ({wait:?}), in {took:?}: {ENTRIES} commits {short:?}; {} commits {long:?}",
            4 * ENTRIES
        ));
        let enters = |calls: &BTreeMap<String, u64>| calls.get("io_uring_enter").copied().unwrap_or_default();
        assert!(enters(&long) >= 4 * ENTRIES && enters(&long) > enters(&short), "io_uring_enter grows with commits");
        for (call, count) in long.iter().filter(|(call, _)| !ALLOWED.contains(&call.as_str())) {
            let before = short.get(call).copied().unwrap_or_default();
            assert!(*count <= before + NOISE, "{call} grew with the commits: {before} to {count}");
        }
        cluster.stop_all();
    }
}

/// One session, one entry in flight: every entry is a commit of its own.
fn append(cluster: &Cluster, entries: u64) {
    let options = Options { window_entries: 1, ..cluster.options() };
    let told = Load::start_limited(cluster, GROUP, 1, options, entries).join();
    assert_eq!(acknowledged(&told), entries);
}

/// The system calls of a node's threads while `entries` entries are committed one by one, and for `at_least` in all; and
/// how long that was.
fn traced(cluster: &Cluster, node: NodeId, entries: u64, at_least: Duration) -> (BTreeMap<String, u64>, Duration) {
    let pid = cluster.pid(node);
    let summary = cluster.dir().join("strace.txt");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(&summary).stdin(Stdio::null());
    let mut strace = Attached(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start strace"));
    await_until(SOON, "strace has attached to every thread", || is_traced(pid).then_some(()));
    let since = Instant::now();
    append(cluster, entries);
    std::thread::sleep(at_least.saturating_sub(since.elapsed()));
    let took = since.elapsed();
    strace.detach();
    let text = std::fs::read_to_string(&summary).expect("strace's summary");
    let calls: BTreeMap<String, u64> = text.lines().filter_map(row).collect();
    assert!(!calls.is_empty(), "strace counted nothing: {text}");
    (calls, took)
}

/// Whether every thread of a process has a tracer.
fn is_traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the node's threads");
    let mut tasks = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    // Threads of the kernel's own (io_uring's workers) make no system calls; a tracer cannot attach to them.
    tasks.all(|status| {
        let traced = status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
        traced || status.lines().any(|line| line.starts_with("Name:\tiou-"))
    })
}

/// A line of the summary: "% time, seconds, usecs/call, calls, [errors,] syscall".
fn row(line: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (name, calls) = (fields.last()?, fields.get(3)?.parse().ok()?);
    (*name != "total").then(|| ((*name).to_owned(), calls))
}

/// A tracer that lets go of its process, whatever becomes of the test.
struct Attached(Child);

impl Attached {
    fn detach(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).expect("interrupt strace");
        self.0.wait().expect("wait for strace");
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.detach();
        }
    }
}
