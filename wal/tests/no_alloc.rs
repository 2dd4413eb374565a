//! Once warm, appending and group commit allocate nothing.

mod common;

use common::{fresh, header, settings, tempdir};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddrV4;
use std::sync::Arc;
use synod_ring::{BlockFile, Event, FileSlot, Io, IoError, RxBuf, Slice};
use synod_wal::Settings;
use synod_wire::Ballot;
use synod_wire::frame::Kind;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A disk that is always done at once.
#[derive(Default)]
struct Instant {
    last: Option<(u64, usize)>,
}

impl Io for Instant {
    type Job = ();
    type Done = ();
    fn poll(&mut self, _: u64, _: bool, _: &mut Vec<Event<()>>) -> Result<(), IoError> {
        Ok(())
    }
    fn now_ns(&self) -> u64 {
        0
    }
    fn wall_ns(&self) -> u64 {
        0
    }
    fn datagram(&self, _: &RxBuf) -> &[u8] {
        &[]
    }
    fn release(&mut self, _: RxBuf) {}
    fn send_peer(&mut self, _: usize, _: Slice<'_>) {}
    fn send_client(&mut self, _: SocketAddrV4, _: Slice<'_>) {}
    fn attach(&mut self, _: FileSlot, _: Arc<dyn BlockFile>) -> Result<(), IoError> {
        Ok(())
    }
    fn write(&mut self, _: FileSlot, _: u64, bytes: Slice<'_>, token: u64) {
        self.last = Some((token, bytes.bytes().len()));
    }
    fn request(&mut self, _: ()) -> Result<(), ()> {
        Ok(())
    }
}

#[test]
fn appending_and_flushing_allocate_nothing() {
    let dir = tempdir();
    let settings = Settings { segment_bytes: 16 << 20, ..settings() };
    synod_wal::format(dir.path(), &common::IDENTITY, (&common::founding().header, common::FOUNDING), &settings)
        .unwrap();
    let mut log = common::recover_dir(dir.path(), &settings).unwrap().0.log;
    let mut disk = Instant::default();
    log.attach_segments(&mut disk).unwrap();
    let payload = [7; 1_400];
    let mut turn = |log: &mut synod_wal::Log| {
        for _ in 0..8 {
            let lsn = log.last_lsn().0 + 1;
            let place = log.append(&header(Kind::Accept, lsn, 1), &payload, None).unwrap();
            log.open_batch(1_400).unwrap().fill(1);
            log.close_batch(&header(Kind::Accept, lsn + 1, 1), 900);
            log.reappend(&header(Kind::Learnt, lsn + 2, 1), place).unwrap();
            assert!(log.frame(place).is_some());
        }
        log.flush(&mut disk, Ballot::ZERO);
        while let Some((token, bytes)) = disk.last.take() {
            log.written(&mut disk, token, Ok(bytes)).unwrap();
            log.idle_mark(&mut disk, Ballot::ZERO);
        }
    };
    turn(&mut log);
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..200 {
        turn(&mut log);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before, "allocations on the hot path");
    assert!(log.durable_lsn().0 > 4_000 && log.durable_lsn() == log.last_lsn());
    // The counter counts: this test could not fail otherwise.
    drop(std::hint::black_box(vec![1_u8]));
    assert!(ALLOCATIONS.with(Cell::get) > before);
    drop(log);
    let other = tempdir();
    fresh(other.path(), &common::settings());
}
