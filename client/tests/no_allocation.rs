//! Once a session is made, offering, sending, receiving and reporting allocate nothing: counted, not assumed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use synod_client::{ClusterId, Core, Event, GroupId, NodeId, Options};
use synod_wire::client::{AckHeader, AckRun, Decision, Durability, SessionBody};
use synod_wire::frame::{Header, Kind, parse, write_frame};
use synod_wire::guarantee::Guarantee;
use synod_wire::{Ballot, Epoch, Lsn, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64, U128};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENT: u128 = 5;
const SESSION: u64 = 3;
const LEADER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);

fn reply(out: &mut [u8], kind: Kind, payload: &[u8]) -> usize {
    let header = Header {
        kind,
        flags: 0,
        from: NodeId(0),
        group: GroupId(0),
        cluster: ClusterId(1),
        epoch: Epoch(1),
        slot: Slot(0),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn(0),
    };
    write_frame(out, &header, payload)
}

/// Acknowledges the run in `request`.
fn acknowledge(out: &mut [u8], request: &[u8]) -> usize {
    let (run, _) = synod_wire::batch::Run::parse(parse(request).unwrap().payload).unwrap();
    let head = AckHeader {
        client_id: U128::new(CLIENT),
        session: U64::new(SESSION),
        runs: U16::new(1),
        durability: Durability::Disk as u8,
        receipts: 0,
        credit: U32::new(1_000),
    };
    let ack = AckRun {
        first_seq: U64::new(run.first_seq()),
        first_sequence: U64::new(run.first_seq()),
        timestamp_ns: U64::new(1),
        entries: U16::new(run.len() as u16),
        decision: Decision::Appended as u8,
        reserved: 0,
        guarantee: Guarantee::COMMITTED.encode(),
    };
    let mut payload = [0; size_of::<AckHeader>() + size_of::<AckRun>()];
    payload[..size_of::<AckHeader>()].copy_from_slice(head.as_bytes());
    payload[size_of::<AckHeader>()..].copy_from_slice(ack.as_bytes());
    reply(out, Kind::Appended, &payload)
}

#[test]
fn a_session_allocates_nothing_after_it_was_made() {
    let members = vec![(NodeId(0), LEADER)];
    let options = Options { window_entries: 100, window_bytes: 16_384, ..Options::default() };
    let mut core = Core::new(ClusterId(1), GroupId(0), CLIENT, members, options, 0).unwrap();
    let (mut out, mut answer) = ([0; 1_472], [0; 256]);
    let before = ALLOCATIONS.with(Cell::get);

    assert!(core.poll_transmit(0, &mut out).is_some());
    let body = SessionBody {
        client_id: U128::new(CLIENT),
        session: U64::new(SESSION),
        last_committed: U64::ZERO,
        credit: U32::new(1_000),
        max_entry_bytes: U32::new(1_350),
        max_run_bytes: U32::new(1_392),
        guarantee: Guarantee::COMMITTED.encode(),
    };
    let length = reply(&mut answer, Kind::SessionOpened, body.as_bytes());
    core.handle(1, LEADER, &answer[..length]);
    let (mut now_ns, mut acked, mut datagrams) = (1, 0, 0u64);
    for round in 0..1_000u64 {
        while core.offer(&[round as u8; 200], now_ns).is_ok() {}
        while let Some((_, length)) = core.poll_transmit(now_ns, &mut out) {
            datagrams += 1;
            now_ns += 10_000;
            // Every seventh answer is lost, and some rounds' altogether: both ways of sending again are on the path.
            if datagrams % 7 != 0 && round % 50 != 0 {
                let length = acknowledge(&mut answer, &out[..length]);
                core.handle(now_ns, LEADER, &answer[..length]);
            }
        }
        while let Some(event) = core.poll_event() {
            if let Event::Acked { entries, .. } = event {
                acked += u64::from(entries);
            }
        }
        now_ns = core.poll_timeout().unwrap_or(now_ns).max(now_ns);
    }

    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    let (timeouts, resent) = (core.counters().timeouts, core.counters().entries_resent);
    assert!(acked > 10_000 && timeouts > 0 && resent > timeouts, "{acked} entries, {:?}", core.counters());
    // The counter counts: this very allocation.
    assert_eq!(vec![1u8; 10].len(), 10);
    assert!(ALLOCATIONS.with(Cell::get) > before);
}
