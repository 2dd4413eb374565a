//! One way of writing for one slice of time. Called by `iotune::run`.

use super::all_cells;
use crate::measure::disk::{self, Disk, Shape};
use crate::measure::files::{self, LOG_BYTES};
use crate::measure::stats::Measured;
use anyhow::{Context, ensure};
use rustix::io::ReadWriteFlags;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use synod_ring::{Arena, BlockFile, LogThread, LogWriter, WaitMode};

/// Writes in front of each slice that do not count: the file's first, a thread's first wake-up.
const WARM_UP_WRITES: u64 = 3;
/// A write that takes longer ends the measurement.
const STALL: Duration = Duration::from_secs(30);
/// How long the reactor waits before the signals are looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// How a write gets to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// `wal.writer = "ring"`: io_uring, O_DIRECT, RWF_DSYNC.
    Ring,
    /// `wal.writer = "thread"`: pwritev2 on a thread of its own, the same flags.
    Thread,
    /// The same in the thread that asks: what a hand-over to a thread costs is the difference.
    Inline,
    /// Without RWF_DSYNC: what the sync costs is the difference. Nothing that it writes is durable.
    Unsynced,
    /// Into blocks that were allocated and never written: why segments are zeroed first.
    Unwritten,
    /// O_DIRECT, then fdatasync.
    DirectThenSync,
    /// Through the page cache, then fdatasync.
    Buffered,
}

/// What is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// How.
    pub way: Way,
    /// How much at once.
    pub block_bytes: usize,
    /// How many at once.
    pub depth: usize,
}

impl Way {
    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Ring => "ring",
            Way::Thread => "thread",
            Way::Inline => "pwritev2",
            Way::Unsynced => "not synced",
            Way::Unwritten => "first write of a block",
            Way::DirectThenSync => "direct, fdatasync",
            Way::Buffered => "buffered, fdatasync",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} KiB, {} in flight", self.way.name(), self.block_bytes >> 10, self.depth)
    }
}

impl Cell {
    /// Its tag in an interval log.
    pub fn tag(&self) -> String {
        format!("{:?}-{}KiB-{}", self.way, self.block_bytes >> 10, self.depth).to_lowercase()
    }
}

/// The files, and what the host allows.
pub(super) struct Bench {
    dir: PathBuf,
    /// Allocated, written once, synced: what segments are.
    zeroed: File,
    /// Why there is no ring.
    ring: Result<(), String>,
    /// Why there are no direct writes.
    direct: Result<(), String>,
    thread: LogThread,
    wait: WaitMode,
}

impl Bench {
    /// Takes the space and writes it once.
    pub(super) fn prepare(dir: &Path, thread_cpu: Option<usize>, wait: WaitMode) -> anyhow::Result<Bench> {
        let zeroed = files::nameless(dir)?;
        zeroed
            .allocate(LOG_BYTES)
            .with_context(|| format!("cannot take {} MiB in {}", LOG_BYTES >> 20, dir.display()))?;
        files::zero(&zeroed).with_context(|| format!("cannot write in {}", dir.display()))?;
        let direct = files::open_again(&zeroed, true).map(drop).map_err(|error| error.to_string());
        let ring = synod_ring::probe().map(drop).map_err(|error| error.to_string());
        let thread = thread_cpu.map_or(LogThread { cpus: None }, LogThread::on);
        Ok(Bench { dir: dir.into(), zeroed, ring, direct, thread, wait })
    }

    pub(super) fn cells(&self) -> Vec<Cell> {
        all_cells(self.ring.is_ok(), self.direct.is_ok())
    }

    /// What is missing, and why.
    pub(super) fn notes(&self) -> Vec<String> {
        let ring = self.ring.as_ref().err().map(|reason| format!("no figures of the ring and the thread: {reason}"));
        let direct =
            self.direct.as_ref().err().map(|reason| format!("no direct writes: O_DIRECT is refused ({reason})"));
        ring.into_iter().chain(direct).collect()
    }

    /// Writes for `length`, or until `stop`.
    pub(super) fn slice(&mut self, cell: Cell, length: Duration, stop: &AtomicBool) -> anyhow::Result<Measured> {
        let writer = match cell.way {
            Way::Ring => LogWriter::Ring,
            Way::Thread => LogWriter::Thread(self.thread),
            way => {
                let mut plain = Plain::open(way, cell.block_bytes, &self.file_for(way)?)?;
                return plain.run(length, stop);
            }
        };
        let shape = Shape { block_bytes: cell.block_bytes, depth: cell.depth };
        let disk = Disk::open(self.direct()?, shape, writer, self.wait)?;
        through_reactor(disk, length, stop)
    }

    fn direct(&self) -> anyhow::Result<File> {
        files::open_again(&self.zeroed, true).context("cannot open the file for direct writes")
    }

    fn file_for(&self, way: Way) -> anyhow::Result<File> {
        match way {
            Way::Buffered => files::open_again(&self.zeroed, false).context("cannot open the file again"),
            Way::Unwritten => {
                let fresh = files::nameless(&self.dir)?;
                fresh.allocate(LOG_BYTES).context("cannot take the space for a file")?;
                fresh.sync_all().context("cannot sync a file")?;
                files::open_again(&fresh, true).context("cannot open a fresh file for direct writes")
            }
            _ => self.direct(),
        }
    }
}

/// As many writes as may be, always, on the product's reactor.
fn through_reactor(mut disk: Disk, length: Duration, stop: &AtomicBool) -> anyhow::Result<Measured> {
    let mut clock = Slice::begin(length);
    // When each write that is in flight began; tokens count up.
    let (mut begun, mut first): (VecDeque<Option<Instant>>, u64) = (VecDeque::new(), 0);
    let (mut ended, mut heard) = (Vec::new(), Instant::now());
    loop {
        let over = clock.is_over() || stop.load(Ordering::Relaxed);
        while !over && disk.begin(first + begun.len() as u64) {
            begun.push_back(Some(Instant::now()));
        }
        if disk.in_flight() == 0 {
            break;
        }
        disk.reap(LOOK, &mut ended)?;
        let now = Instant::now();
        ensure!(now - heard < STALL, "a write has not ended for {STALL:?}");
        for token in ended.drain(..) {
            let place = begun.get_mut((token - first) as usize).and_then(Option::take);
            clock.ended(now - place.context("a write ended twice")?, now);
            heard = now;
        }
        while begun.front().is_some_and(Option::is_none) {
            begun.pop_front();
            first += 1;
        }
    }
    disk.close()?;
    Ok(clock.finish())
}

/// A slice of time and what ended in it.
struct Slice {
    wall: SystemTime,
    from: Instant,
    until: Instant,
    ended: u64,
    measured: Measured,
}

impl Slice {
    fn begin(length: Duration) -> Slice {
        let from = Instant::now();
        Slice { wall: SystemTime::now(), from, until: from + length, ended: 0, measured: Measured::new() }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// A write of this latency ended now. The first ones only warm up, and time counts from their end.
    fn ended(&mut self, latency: Duration, now: Instant) {
        self.ended += 1;
        if self.ended <= WARM_UP_WRITES && now < self.until {
            (self.wall, self.from) = (SystemTime::now(), now);
            return;
        }
        self.measured.ended += 1;
        self.measured.record_at(latency, self.wall, now - self.from);
    }

    fn finish(mut self) -> Measured {
        let took = self.from.elapsed();
        self.measured.elapsed = took;
        self.measured.close(self.wall, took);
        self.measured
    }
}

/// Writes by plain system calls, one after the other.
struct Plain {
    way: Way,
    file: File,
    bytes: Arena,
    block_bytes: usize,
    offset: u64,
}

impl Plain {
    fn open(way: Way, block_bytes: usize, file: &File) -> anyhow::Result<Plain> {
        let mut bytes = Arena::new(block_bytes).context("cannot map memory")?;
        disk::fill(bytes.get_mut(0, block_bytes));
        let file = file.try_clone().context("cannot duplicate a descriptor")?;
        Ok(Plain { way, file, bytes, block_bytes, offset: 0 })
    }

    fn run(&mut self, length: Duration, stop: &AtomicBool) -> anyhow::Result<Measured> {
        let mut clock = Slice::begin(length);
        while !clock.is_over() && !stop.load(Ordering::Relaxed) {
            if self.offset + self.block_bytes as u64 > LOG_BYTES {
                if self.way == Way::Unwritten {
                    // Every block was written once.
                    break;
                }
                self.offset = 0;
            }
            let began = Instant::now();
            self.write()?;
            let now = Instant::now();
            clock.ended(now - began, now);
        }
        Ok(clock.finish())
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let bytes = self.bytes.get(0, self.block_bytes);
        let flags = match self.way {
            Way::Inline | Way::Unwritten => ReadWriteFlags::DSYNC,
            _ => ReadWriteFlags::empty(),
        };
        let written =
            rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], self.offset, flags).context("a write failed")?;
        ensure!(written == bytes.len(), "a write ended after {written} bytes");
        if matches!(self.way, Way::DirectThenSync | Way::Buffered) {
            self.file.sync_data().context("fdatasync failed")?;
        }
        self.offset += self.block_bytes as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_refuses_is_left_out() {
        let ways = |ring, direct| all_cells(ring, direct).iter().map(|cell| cell.way).collect::<Vec<_>>();
        assert!(ways(true, true).contains(&Way::Thread));
        assert!(!ways(false, true).contains(&Way::Ring) && ways(false, true).contains(&Way::Inline));
        assert!(ways(true, false).iter().all(|way| *way == Way::Buffered), "all others write directly");
    }

    #[test]
    fn the_first_writes_of_a_slice_do_not_count() {
        let mut slice = Slice::begin(Duration::from_secs(60));
        for _ in 0..WARM_UP_WRITES {
            slice.ended(Duration::from_secs(1), Instant::now());
        }
        slice.ended(Duration::from_micros(100), Instant::now());
        let measured = slice.finish();
        assert_eq!((measured.ended, measured.latency_ns.len()), (1, 1));
        assert!(measured.latency_ns.max() < 1_000_000);
    }

    #[test]
    fn tags_are_such_as_an_interval_log_takes() {
        for cell in all_cells(true, true) {
            assert!(!cell.tag().contains([' ', ',', '\n']), "{}", cell.tag());
        }
    }
}
