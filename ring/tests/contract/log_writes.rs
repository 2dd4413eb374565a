//! Log writes, whichever way they go: what is reported written is in the file, what fails is told, nothing in flight outlives
//! its memory.

use super::{Node, PATIENCE, node, settings};
use crate::{AUTO_BY_THREAD, THREAD, WRITERS};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Instant;
#[allow(unused_imports, reason = "one of the reactors has these as methods of its own")]
use synod_ring::Reactor as _;
use synod_ring::{BlockFile, Event, FileSlot, Haste, Io, LogThread, LogWriter, Settings, View, WRITES_MAX};
use tempfile::{NamedTempFile, TempDir};

const BLOCK: usize = 4096;
const FILE_BLOCKS: usize = 128;

/// A directory on a file system that takes O_DIRECT: beside the build, not on a tmpfs.
fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn log_file(directory: &TempDir) -> NamedTempFile {
    let file = NamedTempFile::new_in(directory).unwrap();
    file.as_file().set_len((FILE_BLOCKS * BLOCK) as u64).unwrap();
    file
}

fn open_direct(file: &NamedTempFile, write: bool) -> File {
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(file.path()).unwrap()
}

fn with_log(slot: FileSlot, directory: &TempDir, log_writer: LogWriter) -> (Node, NamedTempFile) {
    let file = log_file(directory);
    let mut node = node(Settings { log_writer, ..settings() });
    node.io.attach(slot, Arc::new(open_direct(&file, true))).unwrap();
    (node, file)
}

fn write(node: &mut Node, slot: FileSlot, block: usize, byte: u8, token: u64) {
    node.log.get_mut(block * BLOCK, BLOCK).fill(byte);
    node.io.write(slot, (block * BLOCK) as u64, node.log.slice(block * BLOCK, BLOCK), token);
}

/// Waits for `count` writes and returns what was said of each.
fn written(node: &mut Node, count: usize) -> Vec<(u64, Result<usize, i32>)> {
    let mut all = Vec::new();
    while all.len() < count {
        for event in node.wait() {
            let Event::Written { token, result } = event else { panic!("expected a write, got {event:?}") };
            all.push((token, result));
        }
    }
    all
}

fn block_of(file: &NamedTempFile, block: usize) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()[block * BLOCK..][..BLOCK].to_vec()
}

#[test]
fn what_is_written_is_in_the_file() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let (mut node, file) = with_log(FileSlot(0), &directory, writer);
        write(&mut node, FileSlot(0), 3, 0x5a, u64::MAX);
        assert_eq!(written(&mut node, 1), [(u64::MAX, Ok(BLOCK))]);
        assert_eq!(block_of(&file, 3), [0x5a; BLOCK]);
        assert_eq!(block_of(&file, 2), [0; BLOCK]);
    }
}

#[test]
fn as_many_writes_as_allowed_each_find_their_token() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let (mut node, file) = with_log(FileSlot(2), &directory, writer);
        for round in 0..3 {
            for block in 0..WRITES_MAX {
                write(&mut node, FileSlot(2), block, (block + round) as u8, block as u64 + 1_000);
            }
            let mut all = written(&mut node, WRITES_MAX);
            all.sort();
            let expected: Vec<_> = (0..WRITES_MAX).map(|block| (block as u64 + 1_000, Ok(BLOCK))).collect();
            assert_eq!(all, expected);
            for block in 0..WRITES_MAX {
                assert_eq!(block_of(&file, block), [(block + round) as u8; BLOCK]);
            }
        }
        assert_eq!(node.io.stats().writes, 3 * WRITES_MAX as u64);
    }
}

#[test]
fn each_slot_is_a_file_of_its_own_and_can_be_replaced() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let (mut node, first) = with_log(FileSlot(0), &directory, writer);
        let second = log_file(&directory);
        let third = log_file(&directory);
        node.io.attach(FileSlot(3), Arc::new(open_direct(&second, true))).unwrap();
        write(&mut node, FileSlot(0), 1, 1, 1);
        write(&mut node, FileSlot(3), 2, 2, 2);
        assert_eq!(written(&mut node, 2).len(), 2);
        node.io.attach(FileSlot(0), Arc::new(open_direct(&third, true))).unwrap();
        write(&mut node, FileSlot(0), 1, 3, 3);
        assert_eq!(written(&mut node, 1), [(3, Ok(BLOCK))]);
        assert_eq!(
            [&first, &second, &third].map(|file| [block_of(file, 1)[0], block_of(file, 2)[0]]),
            [[1, 0], [0, 2], [3, 0]]
        );
    }
}

#[test]
fn errors_are_told_once_and_never_retried() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let file = log_file(&directory);
        let mut node = node(Settings { log_writer: writer, ..settings() });
        node.io.attach(FileSlot(1), Arc::new(open_direct(&file, false))).unwrap();
        write(&mut node, FileSlot(1), 0, 1, 42);
        assert_eq!(written(&mut node, 1), [(42, Err(libc::EBADF))], "opened for reading only");
        node.io.attach(FileSlot(1), Arc::new(open_direct(&file, true))).unwrap();
        node.io.write(FileSlot(1), 100, node.log.slice(0, BLOCK), 43);
        assert_eq!(written(&mut node, 1), [(43, Err(libc::EINVAL))], "not aligned");
        node.io.attach(FileSlot(1), Arc::new(OpenOptions::new().write(true).open("/dev/full").unwrap())).unwrap();
        node.io.write(FileSlot(1), 0, node.log.slice(0, BLOCK), 44);
        // This device takes no write with flags from the thread's system call, which then does without.
        assert_eq!(written(&mut node, 1), [(44, Err(libc::ENOSPC))], "no space");
        assert_eq!(node.io.stats().writes_retried, 0);
        node.expect_quiet();
    }
}

#[test]
fn closing_waits_for_what_is_in_flight_or_queued() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        for drops in [false, true] {
            for submitted in [false, true] {
                let (mut node, file) = with_log(FileSlot(0), &directory, writer);
                for block in 0..32 {
                    write(&mut node, FileSlot(0), block, 9, block as u64);
                }
                if submitted {
                    node.look();
                }
                let Node { io, log, .. } = node;
                if drops {
                    drop(io);
                } else {
                    io.close().unwrap();
                }
                drop(log);
                for block in 0..32 {
                    assert_eq!(block_of(&file, block), [9; BLOCK]);
                }
            }
        }
    }
}

#[test]
fn an_arena_may_go_before_its_reactor() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let (mut node, file) = with_log(FileSlot(0), &directory, writer);
        write(&mut node, FileSlot(0), 5, 6, 7);
        let Node { mut io, log, send, house } = node;
        drop((log, send, house));
        let mut events = Vec::new();
        while events.is_empty() {
            io.poll(io.now_ns() + 1_000_000_000, true, &mut events).unwrap();
        }
        assert!(matches!(events[..], [Event::Written { token: 7, result: Ok(BLOCK) }]), "{events:?}");
        assert_eq!(block_of(&file, 5), [6; BLOCK]);
    }
}

#[test]
#[should_panic(expected = "file slot 0 has writes in flight")]
fn a_file_is_not_replaced_under_its_writes() {
    let directory = directory();
    let (mut node, file) = with_log(FileSlot(0), &directory, WRITERS[0]);
    write(&mut node, FileSlot(0), 0, 1, 1);
    let replacement = open_direct(&file, true);
    node.io.attach(FileSlot(0), Arc::new(replacement)).unwrap();
}

#[test]
#[should_panic(expected = "file slot 1 has no file")]
fn a_write_needs_a_file() {
    let mut node = node(settings());
    write(&mut node, FileSlot(1), 0, 1, 1);
}

#[test]
#[should_panic(expected = "from an arena that this reactor was not made with")]
fn a_write_comes_from_the_log_arena() {
    let directory = directory();
    let (mut node, _file) = with_log(FileSlot(0), &directory, LogWriter::Thread(THREAD));
    node.io.write(FileSlot(0), 0, node.send.slice(0, BLOCK), 1);
}

#[test]
fn each_writer_takes_its_own_way() {
    let directory = directory();
    for writer in WRITERS.iter().copied() {
        let (mut node, _file) = with_log(FileSlot(0), &directory, writer);
        for number in 0..100 {
            write(&mut node, FileSlot(0), number % FILE_BLOCKS, 1, number as u64);
            assert_eq!(written(&mut node, 1), [(number as u64, Ok(BLOCK))]);
        }
        let by_thread = node.io.stats().writes_by_thread;
        match writer {
            LogWriter::Ring => assert_eq!(by_thread, 0),
            LogWriter::Thread(_) => assert_eq!(by_thread, 100),
            LogWriter::Auto(_) => assert!(AUTO_BY_THREAD.contains(&by_thread), "{by_thread}"),
        }
        assert_eq!(node.io.log_thread().is_some(), !matches!(writer, LogWriter::Ring));
        node.io.close().unwrap();
    }
}

#[test]
fn the_log_thread_runs_where_it_is_told_and_ends_with_its_reactor() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    let settings = Settings { log_writer: LogWriter::Thread(LogThread { cpus: Some(cpus) }), ..settings() };
    let reactor = node(settings);
    let got = reactor.io.log_thread().unwrap();
    assert_eq!(got.cpus, Ok(()));
    let task = std::path::PathBuf::from(format!("/proc/self/task/{}", got.thread_id));
    assert_eq!(std::fs::read_to_string(task.join("comm")).unwrap(), "synod-log\n");
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    assert!(status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")), "{status}");
    reactor.io.close().unwrap();
    // It was joined, but the kernel takes it out of /proc a moment later.
    let begun = Instant::now();
    while task.exists() {
        assert!(begun.elapsed() < PATIENCE, "the thread outlives its reactor");
        std::thread::yield_now();
    }
}

/// A file that the reactor can register, and that panics on any other thread.
#[derive(Debug)]
struct Trap(File, std::thread::ThreadId);

impl BlockFile for Trap {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        assert_eq!(std::thread::current().id(), self.1, "the trap");
        Some(self.0.as_fd())
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len_bytes(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(out, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn zero(&self, from: u64, to: u64, haste: &Haste) -> io::Result<()> {
        self.0.zero(from, to, haste)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn view(&self, offset: u64, bytes: usize) -> io::Result<View> {
        self.0.view(offset, bytes)
    }
    fn never_read_ahead(&self) -> io::Result<()> {
        self.0.never_read_ahead()
    }
    fn forget(&self) -> io::Result<()> {
        self.0.forget()
    }
    fn direct_bytes(&self) -> io::Result<Option<u32>> {
        self.0.direct_bytes()
    }
}

#[test]
fn a_panic_of_the_log_thread_ends_the_reactor_and_is_no_silence() {
    let directory = directory();
    for waits in [true, false] {
        let file = log_file(&directory);
        let mut node = node(Settings { log_writer: LogWriter::Thread(THREAD), ..settings() });
        let trap = Trap(open_direct(&file, true), std::thread::current().id());
        node.io.attach(FileSlot(0), Arc::new(trap)).unwrap();
        write(&mut node, FileSlot(0), 0, 1, 1);
        let error = if waits {
            node.io.poll(u64::MAX, true, &mut Vec::new()).unwrap_err()
        } else {
            node.io.close().unwrap_err()
        };
        assert!(error.to_string().contains("the log-writer thread failed: it panicked"), "{error}");
    }
}
