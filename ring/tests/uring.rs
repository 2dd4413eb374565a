//! The contract of `Io`, passed by the reactor on io_uring; and what is this one's alone.
#![cfg(not(loom))]

mod contract;

use std::ops::RangeInclusive;
use synod_ring::{Arena, IoError, LogThread, LogWriter, ReceiveMemory, UringIo, port, probe};

pub(crate) type Reactor = UringIo<u64, u64>;

pub(crate) const THREAD: LogThread = LogThread { cpus: None };
/// The ways of a log write.
pub(crate) const WRITERS: &[LogWriter] = &[LogWriter::Ring, LogWriter::Thread(THREAD), LogWriter::Auto(THREAD)];
/// Of 100 writes one by one, those that the thread has in the automatic mode: 64 come before the first trial, which sends three each
/// way at least; what comes then is for it to say.
pub(crate) const AUTO_BY_THREAD: RangeInclusive<u64> = 67..=97;
/// System calls of a turn without anything to do.
pub(crate) const LOOK_CALLS: u64 = 0;
/// The same of a turn that sends, whatever it sends.
pub(crate) const SEND_CALLS: u64 = 1;

#[test]
fn a_log_arena_beyond_what_the_kernel_registers_is_refused() {
    // Mapped, not touched: costs no memory.
    let log = Arena::new((1 << 30) + 4096).unwrap();
    let send = Arena::new(4096).unwrap();
    let (core, _house) = port::<u64, u64>(1).unwrap();
    let settings = contract::settings();
    let receive = ReceiveMemory::new(&settings).unwrap();
    let Err(IoError::Unsupported { reason, .. }) = UringIo::new(settings, receive, &log, &send, core) else {
        panic!("it was made")
    };
    assert!(reason.contains("1 GiB"), "{reason}");
}

#[test]
fn rings_leave_no_place_of_their_thread_behind() {
    // A ring that stayed registered with its thread would use up the 16 places that it has.
    for _ in 0..20 {
        contract::node(contract::settings()).io.close().unwrap();
    }
    assert!(probe().unwrap().registered_ring, "this thread has a place for a ring left");
}
