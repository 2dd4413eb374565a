//! Deadlines and wakes, in each way of waiting; the housekeeping thread's side.

use super::{JOBS, Node, PATIENCE, node, settings};
use crate::{LOOK_CALLS, SEND_CALLS};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
#[allow(unused_imports, reason = "one of the reactors has these as methods of its own")]
use synod_ring::Reactor as _;
use synod_ring::{Event, Io, Settings, WaitMode};

const MODES: [WaitMode; 4] = [
    WaitMode::Spin,
    WaitMode::Yield { idle_us: 50, durable_us: 500 },
    WaitMode::Block,
    WaitMode::Auto { idle_us: 50, durable_us: 500 },
];

fn waiting(wait: WaitMode) -> Node {
    let mut node = node(Settings { wait, ..settings() });
    node.expect_quiet();
    node
}

#[test]
fn the_deadline_is_kept_in_each_mode() {
    for mode in MODES {
        for eager in [false, true] {
            let mut node = waiting(mode);
            let before = Instant::now();
            let deadline_ns = node.io.now_ns() + 20_000_000;
            let mut events = Vec::new();
            node.io.poll(deadline_ns, eager, &mut events).unwrap();
            assert!(events.is_empty());
            assert!(node.io.now_ns() >= deadline_ns, "{mode:?} returned early");
            assert!(before.elapsed() < Duration::from_secs(2), "{mode:?} overslept: {:?}", before.elapsed());
        }
    }
}

#[test]
fn a_deadline_in_the_past_only_looks() {
    for mode in MODES {
        let mut node = waiting(mode);
        let before = node.io.stats();
        node.expect_quiet();
        let after = node.io.stats();
        assert_eq!((after.blocks, after.yields), (before.blocks, before.yields), "{mode:?}");
        assert_eq!(after.enters - before.enters, LOOK_CALLS, "{mode:?}: nothing to submit, nothing to run");
    }
}

#[test]
fn each_mode_waits_in_its_own_way() {
    let counts = MODES.map(|mode| {
        let mut node = waiting(mode);
        let before = node.io.stats();
        // Long enough that a busy machine's late yields do not use it up.
        let deadline_ns = node.io.now_ns() + 100_000_000;
        node.io.poll(deadline_ns, false, &mut Vec::new()).unwrap();
        let after = node.io.stats();
        (after.blocks - before.blocks, after.yields - before.yields)
    });
    let [spin, yields, block, auto] = counts;
    assert_eq!(spin, (0, 0));
    assert!(yields.0 >= 1 && yields.1 >= 1, "{yields:?}");
    assert!(block.0 >= 1 && block.1 == 0, "{block:?}");
    assert!(auto.0 >= 1 && auto.1 >= 1, "{auto:?}");
}

#[test]
fn long_work_gives_way_unless_the_core_is_its_own() {
    let gave_way = MODES.map(|mode| {
        let mut node = waiting(mode);
        let (before, start) = (node.io.stats().yields, Instant::now());
        while node.io.stats().yields < before + 3 && start.elapsed() < Duration::from_millis(50) {
            node.io.give_way(8);
        }
        node.io.stats().yields - before
    });
    assert_eq!(gave_way[0], 0, "spinning is for a core that nobody else runs on");
    assert!(gave_way[1..].iter().all(|times| *times >= 1), "{gave_way:?}");
}

#[test]
fn a_turn_with_work_sends_all_in_one_call() {
    for mode in MODES {
        let receiver = waiting(mode);
        let mut sender = super::node_with_peer(Settings { wait: mode, ..settings() }, &receiver);
        sender.expect_quiet();
        let before = sender.io.stats().enters;
        for place in 0..10 {
            let bytes = sender.send.slice(place * 64, 64);
            sender.io.send_peer(0, bytes);
        }
        sender.expect_quiet();
        assert_eq!(sender.io.stats().enters - before, SEND_CALLS, "{mode:?}");
    }
}

#[test]
fn another_thread_ends_the_wait_in_each_mode() {
    for mode in MODES {
        let mut node = waiting(mode);
        let waker = node.io.waker();
        let (go, gone) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for () in gone {
                waker.wake();
            }
        });
        for _ in 0..100 {
            go.send(()).unwrap();
            let events = node.wait();
            assert!(matches!(events[..], [Event::Woken]), "{mode:?}: {events:?}");
        }
        drop(go);
        thread.join().unwrap();
        assert_eq!(node.io.stats().wakes, 100);
    }
}

#[test]
fn without_a_deadline_it_sleeps_until_something_comes() {
    let mut node = waiting(WaitMode::Block);
    let waker = node.io.waker();
    let thread = std::thread::spawn(move || {
        // Long enough for a wait that ends at once to be seen going round.
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        waker.wake();
    });
    let before = node.io.stats().blocks;
    let mut events = Vec::new();
    node.io.poll(u64::MAX, false, &mut events).unwrap();
    assert!(matches!(events[..], [Event::Woken]), "{events:?}");
    assert!(node.io.stats().blocks - before < 10, "{:?}", node.io.stats());
    thread.join().unwrap();
}

/// Binds the calling thread to one CPU of those that it may use.
fn pin() {
    // SAFETY: all bytes zero is an empty set; both calls read and write live locals.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &allowed)).unwrap();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one), 0);
    }
}

/// A hog on the same CPU, whose every run leaves an event behind: a yield comes back late, and always with something. The
/// automatic mode must notice all the same, and block.
#[test]
fn auto_learns_from_a_hog_that_yielding_does_not_pay() {
    pin();
    let mut node = waiting(WaitMode::Auto { idle_us: 100_000, durable_us: 100_000 });
    let waker = node.io.waker();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin();
            while !stop.load(Ordering::Relaxed) {
                waker.wake();
            }
        });
        let begun = Instant::now();
        while node.io.stats().blocks_backed_off == 0 && begun.elapsed() < PATIENCE {
            node.wait();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stats = node.io.stats();
    assert!(stats.yields_late > 0 && stats.blocks_backed_off > 0, "{stats:?}");
}

#[test]
fn a_wake_before_the_first_poll_is_kept() {
    let mut node = node(settings());
    let waker = node.io.waker();
    waker.wake();
    waker.wake();
    assert!(matches!(node.wait()[..], [Event::Woken]));
    node.expect_quiet();
}

#[test]
fn a_waker_outlives_its_reactor() {
    let node = node(settings());
    let waker = node.io.waker();
    node.io.close().unwrap();
    waker.wake();
}

#[test]
fn jobs_go_out_and_answers_come_back() {
    for mode in MODES {
        let Node { mut io, house, log: _log, send: _send } = waiting(mode);
        let stop = AtomicBool::new(false);
        let doorbell = house.doorbell().clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Some(job) = house.next(&stop) {
                    house.done(job * 2);
                }
            });
            let (mut asked, mut answers) = (0, Vec::new());
            while answers.len() < 500 {
                while asked < 500 && io.request(asked).is_ok() {
                    asked += 1;
                }
                let mut events = Vec::new();
                io.poll(io.now_ns() + PATIENCE.as_nanos() as u64, false, &mut events).unwrap();
                assert!(!events.is_empty(), "an answer was lost");
                for event in events {
                    let Event::Done(done) = event else { panic!("expected an answer, got {event:?}") };
                    answers.push(done);
                }
            }
            assert_eq!(answers, (0..500).map(|job| job * 2).collect::<Vec<u64>>());
            stop.store(true, Ordering::Release);
            doorbell.ring();
        });
    }
}

#[test]
fn with_all_jobs_outstanding_the_next_is_refused_and_counted() {
    let mut node = waiting(WaitMode::Block);
    for job in 0..JOBS as u64 {
        node.io.request(job).unwrap();
    }
    assert_eq!(node.io.request(9), Err(9));
    assert_eq!(node.io.stats().requests_refused, 1);
    let job = node.house.try_next().unwrap();
    node.house.done(job);
    assert!(matches!(node.wait()[..], [Event::Done(0)]));
    node.io.request(9).unwrap();
}

#[test]
fn what_a_poll_had_no_room_for_comes_with_the_next_without_waiting() {
    for mode in MODES {
        let mut node = node(Settings { max_events: 1, wait: mode, ..settings() });
        for job in 0..JOBS as u64 {
            node.io.request(job).unwrap();
        }
        while let Some(job) = node.house.try_next() {
            node.house.done(job);
        }
        assert!(matches!(node.wait()[..], [Event::Done(0)]));
        let before = node.io.stats();
        for job in 1..JOBS as u64 {
            let events = node.wait();
            assert!(matches!(events[..], [Event::Done(done)] if done == job), "{mode:?}: {events:?}");
        }
        let after = node.io.stats();
        assert_eq!((after.blocks, after.yields), (before.blocks, before.yields), "{mode:?}");
    }
}

#[test]
fn a_wake_and_an_answer_at_once_are_both_told() {
    let mut node = node(Settings { max_events: 1, ..settings() });
    node.io.request(7).unwrap();
    let job = node.house.try_next().unwrap();
    node.house.done(job);
    node.io.waker().wake();
    let mut events = node.wait();
    events.extend(node.wait());
    assert!(matches!(events[..], [Event::Woken, Event::Done(7)]), "{events:?}");
}

#[test]
fn the_clocks_are_the_systems() {
    let mut node = waiting(WaitMode::Block);
    node.expect_quiet();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(wall.abs_diff(node.io.wall_ns()) < 5_000_000_000);
    let before = node.io.now_ns();
    assert_eq!(before, node.io.now_ns(), "read once a poll");
    node.expect_quiet();
    assert!(node.io.now_ns() > before);
}
