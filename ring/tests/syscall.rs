//! The contract of `Io`, passed by the reactor on plain system calls; and what is this one's alone.
#![cfg(not(loom))]

mod contract;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};
use synod_ring::{
    Arena, Event, Io, IoError, LogThread, LogWriter, Reactor as _, ReceiveMemory, Settings, SyscallIo, WaitMode, port,
};

pub(crate) type Reactor = SyscallIo<u64, u64>;

pub(crate) const THREAD: LogThread = LogThread { cpus: None };
/// The ways of a log write: there is one.
pub(crate) const WRITERS: &[LogWriter] = &[LogWriter::Thread(THREAD), LogWriter::Auto(THREAD)];
/// Of 100 writes one by one, those that the thread has in the automatic mode.
pub(crate) const AUTO_BY_THREAD: RangeInclusive<u64> = 100..=100;
/// System calls of a turn without anything to do: it looks into each socket.
pub(crate) const LOOK_CALLS: u64 = 2;
/// The same of a turn that sends from one socket, whatever it sends.
pub(crate) const SEND_CALLS: u64 = 1 + LOOK_CALLS;

#[test]
fn there_is_no_ring_to_write_through() {
    let (log, send) = (Arena::new(4096).unwrap(), Arena::new(4096).unwrap());
    let (core, _house) = port::<u64, u64>(1).unwrap();
    let settings = Settings { log_writer: LogWriter::Ring, ..contract::settings() };
    let receive = ReceiveMemory::new(&settings).unwrap();
    let Err(IoError::Unsupported { reason, mend }) = Reactor::new(settings, receive, &log, &send, core) else {
        panic!("it was made")
    };
    assert!(reason.contains("has none") && mend.contains("thread"), "{reason}: {mend}");
}

#[test]
fn a_turn_that_slept_takes_all_that_came_in_one_call() {
    let mut receiver = contract::node(Settings { wait: WaitMode::Block, ..contract::settings() });
    let mut sender = contract::node_with_peer(Settings { segmentation: false, ..contract::settings() }, &receiver);
    for place in 0..10 {
        let bytes = sender.send.slice(place * 64, 64);
        sender.io.send_peer(0, bytes);
    }
    sender.expect_quiet();
    let before = receiver.io.stats().enters;
    let events = receiver.wait();
    assert_eq!(receiver.io.stats().enters - before, 2, "one sleep, one look into the socket that has something");
    assert_eq!(events.len(), 10);
    for event in events {
        let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
        receiver.io.release(buf);
    }
}

/// While the shard holds all buffers, what waits in the socket must not keep the core from sleeping.
#[test]
fn a_socket_that_waits_for_a_free_buffer_does_not_spin() {
    let few = Settings { rx_buffers_peers: 2, receive_offload: false, wait: WaitMode::Block, ..contract::settings() };
    let mut receiver = contract::node(few);
    let mut sender = contract::node_with_peer(contract::settings(), &receiver);
    for byte in 0..3u8 {
        sender.send_peer(&[byte]);
    }
    let mut held = Vec::new();
    while held.len() < 2 {
        for event in receiver.wait() {
            if let Event::Datagram { buf, .. } = event {
                held.push(buf);
            }
        }
    }
    let (begun, before) = (Instant::now(), receiver.io.stats());
    receiver.io.poll(receiver.io.now_ns() + 20_000_000, false, &mut Vec::new()).unwrap();
    let after = receiver.io.stats();
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert_eq!(after.overruns, 1, "told once");
    assert!(after.enters - before.enters < 10, "{before:?} {after:?}");
    held.into_iter().for_each(|buf| receiver.io.release(buf));
    let (buf, _) = receiver.wait_for_datagram();
    assert_eq!(receiver.io.datagram(&buf), [2]);
    receiver.io.release(buf);
}

/// Neither socket is looked into only when the other has nothing left.
#[test]
fn neither_socket_starves_the_other() {
    let mut receiver = contract::node(Settings { max_events: 4, segmentation: false, ..contract::settings() });
    let mut sender = contract::node_with_peer(Settings { segmentation: false, ..contract::settings() }, &receiver);
    let to = receiver.io.clients_address();
    let bytes = sender.send.slice(0, 8);
    for _ in 0..32 {
        sender.io.send_peer(0, bytes);
        sender.io.send_client(to, bytes);
    }
    sender.expect_quiet();
    let mut clients = 0;
    for _ in 0..4 {
        for event in receiver.wait() {
            let Event::Datagram { buf, from } = event else { panic!("expected a datagram, got {event:?}") };
            clients += usize::from(from.is_some());
            receiver.io.release(buf);
        }
    }
    assert!((4..=12).contains(&clients), "{clients} of 16 are clients'");
}
