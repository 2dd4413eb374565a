//! What a commit costs in allocations: none, on any pipeline's thread, once it is warm. Three nodes run in this process, whose
//! allocator counts by thread.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, acknowledged};
use common::say;
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use synod::config::KernelIo;
use synod::shard::Order;
use synod_client::Options;

/// Commits before anything is counted, and commits that are. Together they fill no segment.
const WARM_UP: u64 = 30_000;
const COUNTED: u64 = 30_000;
/// Entries in flight.
const WINDOW: usize = 64;
/// The pipelines' threads are called so (the kernel keeps 15 bytes of a name).
const PIPELINE: &str = "synod-group-";

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Where pipelines allocated, and how often.
static SITES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Within the allocator's own bookkeeping, which allocates.
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

fn note() {
    if !COUNTING.load(Ordering::Relaxed) || NOTING.replace(true) {
        return;
    }
    if std::thread::current().name().is_some_and(|name| name.starts_with(PIPELINE)) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let site = Backtrace::force_capture().to_string();
        *SITES.lock().expect("no panic while it is held").entry(site).or_default() += 1;
    }
    NOTING.set(false);
}

#[test]
fn a_warm_pipeline_allocates_nothing() {
    for io in [KernelIo::Uring, KernelIo::Syscall] {
        allocates_nothing(io);
    }
}

fn allocates_nothing(io: KernelIo) {
    let cluster = Cluster::prepare("hot-path", |config| {
        config.cpu.io = io;
        config.wal.segment_bytes = 256 << 20;
        // Backtraces, if there are any, are slow; the leader is to stay the leader.
        config.consensus.election_timeout_min_us = 2_000_000;
        config.consensus.election_timeout_max_us = 4_000_000;
    });
    let nodes: Vec<_> = cluster
        .members()
        .into_iter()
        .map(|node| {
            let config = cluster.config.clone();
            std::thread::spawn(move || {
                synod::node::run(&config, node, Order::Serve, |_| unreachable!("nobody sends SIGHUP"))
            })
        })
        .collect();
    cluster.await_leader(GROUP);
    // One session: the answers that are kept for its duplicates grow until there are as many as it may have.
    let options = Options { window_entries: WINDOW, ..cluster.options() };
    let load = Load::start_limited(&cluster, GROUP, 1, options, WARM_UP + 2 * COUNTED);
    load.await_acks(WARM_UP, SOON);
    COUNTING.store(true, Ordering::Relaxed);
    load.await_acks(COUNTED, SOON);
    COUNTING.store(false, Ordering::Relaxed);
    assert_eq!(acknowledged(&load.join()), WARM_UP + 2 * COUNTED);
    let allocations = ALLOCATIONS.swap(0, Ordering::Relaxed);
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).expect("raise SIGTERM");
    for node in nodes {
        node.join().expect("no node panics").expect("a node that is stopped ends well");
    }
    say(&format!("hot path ({io:?}): {allocations} allocations of three pipelines in {COUNTED} commits"));
    for (site, count) in SITES.lock().expect("no panic while it is held").iter() {
        say(&format!("{count} times:\n{site}"));
    }
    assert_eq!(allocations, 0, "allocations on the pipelines' threads; where they come from stands above");
}
