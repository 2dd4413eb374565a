//! Cuts of a torn tail that are interrupted at any operation: what told damage from that tail is told by the next recovery too.

mod common;

use common::dying::dying;
use common::*;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use synod_wal::{Item, Log, LogError, LogReader, Recovered, STRIDE_BYTES, Settings, Start, recover};
use synod_wire::{Ballot, Lsn};

const BLOCK_BYTES: u64 = 4_096;
/// More operations on the disk than a recovery with a cut has.
const OPERATIONS: usize = 40;

/// What a crash left behind the last two durable flushes, which were in flight together: neither's mark covers the other, only
/// those of the flushes that the crash took do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    /// A flush that never reached the disk, and a whole one behind it.
    LaterFlush,
    /// A flush whose trailer is whole, over two records: one that is whole, and one that was not reached.
    OwnTrailer,
}

/// Such a log.
struct Crashed {
    /// Where the last two durable flushes lie.
    durable: [Range<u64>; 2],
    last_lsn: Lsn,
}

/// Writes it, in the middle of a segment or at the end of the last.
fn crashed(dir: &Path, tail: Tail, at_end: bool) -> Crashed {
    let (mut log, mut disk) = fresh(dir, &Settings { max_in_flight: 4, ..settings() });
    let mut kept = vec![founding()];
    let flushes = if tail == Tail::LaterFlush { 4 } else { 3 };
    // Nothing fits the stride behind them then.
    let start = STRIDE_BYTES - synod_wal::MIN_FLUSH_BYTES - (flushes - 1) * BLOCK_BYTES;
    while at_end && log.head_pos() < start {
        let bytes = (start - log.head_pos()).min(15 * BLOCK_BYTES);
        push(&mut log, &mut kept, bytes as usize - 256);
        settle(&mut log, &mut disk);
    }
    let durable = [one_block(&mut log, &mut disk, &mut kept), one_block(&mut log, &mut disk, &mut kept)];
    complete_one(&mut log, &mut disk);
    complete_one(&mut log, &mut disk);
    let last_lsn = log.durable_lsn();
    assert_eq!(last_lsn, log.last_lsn());
    if tail == Tail::OwnTrailer {
        push(&mut log, &mut kept, 300);
    }
    for _ in 2..flushes {
        one_block(&mut log, &mut disk, &mut kept);
    }
    drop(log);
    match tail {
        Tail::LaterFlush => disk.crash(&[Fate::Dropped, Fate::Applied]),
        Tail::OwnTrailer => disk.crash(&[Fate::Torn((0..8).map(|sector| sector != 2).collect())]),
    }
    if at_end {
        std::fs::remove_file(&segments(dir)[1]).unwrap();
    }
    Crashed { durable, last_lsn }
}

/// A record in a flush of its own, in flight; the block that it takes.
fn one_block(log: &mut Log, disk: &mut TestDisk, kept: &mut Vec<Kept>) -> Range<u64> {
    let start = log.head_pos();
    push(log, kept, 1_500);
    log.flush(disk, Ballot::ZERO);
    start..start + BLOCK_BYTES
}

/// Recovers in a process that dies at an operation.
fn dies(dir: &Path, operations: usize) -> Result<Recovered, LogError> {
    let settings = Settings { max_in_flight: 4, ..settings() };
    recover(dying(dir, operations), &EXPECT, &settings, Start::Beginning, &mut |_, _| {})
}

/// Durable flushes that never came to the disk after all.
fn lose(dir: &Path, flushes: &[Range<u64>]) {
    for flush in flushes {
        poke(&segments(dir)[0], flush.start, |bytes| bytes.fill(0), BLOCK_BYTES as usize);
    }
}

/// Recovers: what is lost is told, and all else that was durable is there.
fn told(dir: &Path, crashed: &Crashed, lost: u64, case: &str) {
    let (recovered, records) = recover_dir(dir, &settings()).unwrap();
    account(&recovered, &records);
    assert!(recovered.last_lsn >= crashed.last_lsn, "{case}: durable records are gone: {recovered:?}");
    let first = crashed.last_lsn.0 - 1;
    let damaged =
        |lsn: u64| recovered.damage.iter().any(|damage| (damage.first_lsn.0..=damage.last_lsn.0).contains(&lsn));
    for lsn in 1..=crashed.last_lsn.0 {
        assert_eq!(damaged(lsn), (first..first + lost).contains(&lsn), "{case}: Lsn {lsn} of {recovered:?}");
    }
}

/// The directory as it is now, to be brought back.
struct Image(Vec<(std::path::PathBuf, Vec<u8>)>);

impl Image {
    fn of(dir: &Path) -> Image {
        Image(segments(dir).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect())
    }

    fn restore(&self, dir: &Path) {
        segments(dir).iter().for_each(|path| std::fs::remove_file(path).unwrap());
        self.0.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }
}

const PLACES: [(Tail, bool); 4] =
    [(Tail::LaterFlush, false), (Tail::LaterFlush, true), (Tail::OwnTrailer, false), (Tail::OwnTrailer, true)];

#[test]
fn damage_before_a_torn_tail_is_told_however_often_its_cut_is_interrupted() {
    for (tail, at_end) in PLACES {
        let dir = tempdir();
        let crashed = crashed(dir.path(), tail, at_end);
        lose(dir.path(), &crashed.durable[..1]);
        let image = Image::of(dir.path());
        let mut finished = false;
        for (first, second) in
            (0..OPERATIONS).flat_map(|first| [(first, None), (first, Some(first)), (first, Some(12))])
        {
            image.restore(dir.path());
            finished = dies(dir.path(), first).is_ok();
            second.map(|operations| dies(dir.path(), operations));
            told(dir.path(), &crashed, 1, &format!("{tail:?}, {at_end}, dead after {first}, {second:?}"));
        }
        assert!(finished, "{OPERATIONS} operations are not enough for a cut");
        let segments = segments(dir.path()).len();
        assert_eq!(segments == 2, at_end, "the mark lies behind what was torn, in a new segment if the last one ends");
    }
}

/// What `check` finds after a recovery died within the cut, at each operation. It is told which tail, and of which case.
fn after_each_death(check: impl Fn(&Path, &Crashed, Tail, &str)) {
    for (tail, at_end) in PLACES {
        let dir = tempdir();
        let crashed = crashed(dir.path(), tail, at_end);
        let image = Image::of(dir.path());
        for operations in 0..OPERATIONS {
            image.restore(dir.path());
            drop(dies(dir.path(), operations));
            check(dir.path(), &crashed, tail, &format!("{tail:?}, {at_end}, dead after {operations}"));
        }
    }
}

#[test]
fn damage_that_comes_while_a_cut_is_interrupted_is_told() {
    for lost in [1, 2] {
        after_each_death(|dir, crashed, _, case| {
            lose(dir, &crashed.durable[..lost]);
            told(dir, crashed, lost as u64, &format!("{case}, {lost} lost"));
        });
    }
}

#[test]
fn a_cut_that_is_interrupted_is_done_again_and_leaves_no_gap() {
    after_each_death(|dir, crashed, tail, case| {
        let (recovered, _) = recover_dir(dir, &settings()).unwrap();
        let kept = crashed.last_lsn.0 + u64::from(tail == Tail::OwnTrailer);
        assert_eq!((recovered.last_lsn.0, &recovered.damage), (kept, &vec![]), "{case}");
        let (mut log, mut disk) = attached(recovered);
        for _ in 0..3 {
            push(&mut log, &mut Vec::new(), 700);
            settle(&mut log, &mut disk);
        }
        let to = log.head_pos();
        drop(log);
        whole(dir, to, kept + 3, case);
    });
}

/// Neither a recovery nor a bounded scan, to which any gap is damage, finds anything but records.
fn whole(dir: &Path, to: u64, last_lsn: u64, case: &str) {
    let mut found = Vec::new();
    let mut reader = LogReader::open(dir).unwrap();
    let end = reader.scan(0, Some(to), &mut |item| {
        found.extend(match item {
            Item::Damage(damage) => Some(format!("{damage:?}")),
            Item::TornTail(torn) => Some(format!("{torn:?}")),
            Item::Record(..) | Item::Trailer(_) => None,
        });
        ControlFlow::Continue(())
    });
    assert_eq!((end.unwrap().last_lsn, found), (Lsn(last_lsn), vec![]), "{case}");
    let (recovered, _) = recover_dir(dir, &settings()).unwrap();
    assert_eq!((recovered.last_lsn, recovered.torn, recovered.damage), (Lsn(last_lsn), None, vec![]), "{case}");
}
