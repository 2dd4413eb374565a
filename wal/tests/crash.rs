//! Crashes at any point, of the log and of its recovery: what was durable stays, what is kept is what was appended, and a
//! crash alone is never taken for damage of any record.

mod common;

use common::*;
use proptest::prelude::*;
use std::path::Path;
use synod_wal::{Log, LogReader, STRIDE_BYTES, Settings, TornTail};
use synod_wire::frame::Kind;
use synod_wire::{Ballot, Lsn};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Batch(usize),
    Flush,
    Complete(usize),
    IdleMark,
    Crash(Vec<Fate>),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Dropped),
        Just(Fate::Applied),
        prop::collection::vec(any::<bool>(), 1..40).prop_map(Fate::Torn),
        // All but one sector, and one sector alone: the narrow cases.
        (0..40usize).prop_map(|lost| Fate::Torn((0..40).map(|sector| sector != lost).collect())),
        (0..40usize).prop_map(|kept| Fate::Torn((0..40).map(|sector| sector == kept).collect())),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0..2_000usize, 1 => 2_000..60_000usize, 1 => Just(65_472)];
    prop_oneof![
        8 => size.prop_map(Step::Append),
        2 => (0..1_400usize).prop_map(Step::Batch),
        6 => Just(Step::Flush),
        6 => any::<usize>().prop_map(Step::Complete),
        1 => Just(Step::IdleMark),
        2 => prop::collection::vec(fate(), 1..4).prop_map(Step::Crash),
    ]
}

/// What a log should hold.
struct Model {
    records: Vec<Kept>,
    /// What the last recovery cut.
    torn: Option<TornTail>,
    /// Makes each record's bytes differ from those of any earlier life with the same Lsn.
    serial: u64,
}

impl Model {
    fn new() -> Model {
        Model { records: vec![founding()], torn: None, serial: 1 }
    }

    fn append(&mut self, log: &mut Log, bytes: usize, in_place: bool) {
        self.serial += 1;
        let lsn = self.records.len() as u64 + 1;
        let mut record = Kept { header: header(Kind::Accept, lsn, self.serial), payload: payload(self.serial, bytes) };
        if self.serial.is_multiple_of(3) {
            // A client may well store zeros: then sectors that were reached look as if they were not.
            record.payload[bytes / 4..].fill(0);
        }
        if in_place {
            let Some(area) = log.open_batch(bytes + 100) else { return };
            area[..bytes].copy_from_slice(&record.payload);
            log.close_batch(&record.header, bytes);
        } else if log.append(&record.header, &record.payload, None).is_none() {
            return;
        }
        self.records.push(record);
    }

    /// Recovers and compares; then whatever was kept counts as durable.
    fn recover(&mut self, dir: &Path, settings: &Settings, durable: Lsn) -> (Log, TestDisk) {
        let (recovered, records) = recover_dir(dir, settings).unwrap();
        account(&recovered, &records);
        assert!(recovered.last_lsn >= durable, "durable records are gone: {:?} < {durable:?}", recovered.last_lsn);
        assert!(recovered.last_lsn.0 <= self.records.len() as u64, "records that were never appended");
        self.records.truncate(recovered.last_lsn.0 as usize);
        assert!(recovered.damage.is_empty(), "a crash looks like damage: {:?}", recovered.damage);
        assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), self.records);
        let promised = self.records.iter().map(|kept| kept.header.promised).max().unwrap();
        assert!(recovered.promised >= promised, "a promise was lost");
        self.torn = recovered.torn;
        attached(recovered)
    }
}

fn run(steps: Vec<Step>, settings: &Settings) {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), settings);
    let mut model = Model::new();
    for step in steps {
        housekeep(&mut log, &mut disk);
        match step {
            Step::Append(bytes) => model.append(&mut log, bytes, false),
            Step::Batch(bytes) => model.append(&mut log, bytes, true),
            Step::Flush => log.flush(&mut disk, Ballot::ZERO),
            Step::IdleMark => log.idle_mark(&mut disk, Ballot::ZERO),
            Step::Complete(index) if !disk.pending.is_empty() => {
                let (token, result) = disk.complete(index % disk.pending.len());
                log.written(&mut disk, token, result).unwrap();
            }
            Step::Complete(_) => {}
            Step::Crash(fates) => {
                let durable = log.durable_lsn();
                drop(log);
                disk.crash(&fates);
                (log, disk) = model.recover(dir.path(), settings, durable);
            }
        }
    }
    settle(&mut log, &mut disk);
    drop(log);
    let durable = Lsn(model.records.len() as u64);
    model.recover(dir.path(), settings, durable);
    let durable = Lsn(model.records.len() as u64);
    model.recover(dir.path(), settings, durable);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        run(steps, &settings());
    }

    #[test]
    fn nothing_durable_is_lost_with_several_writes_in_flight(steps in prop::collection::vec(step(), 1..120)) {
        run(steps, &Settings { max_in_flight: 3, max_flush_bytes: 128 << 10, ..settings() });
    }

    #[test]
    fn a_recovery_that_is_interrupted_is_repeated_without_loss(
        sizes in prop::collection::vec(0..3_000usize, 1..40),
        per_flush in 1..12usize,
        fates in prop::collection::vec(fate(), 3),
        interruptions in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<bool>(), 1..30)), 1..4),
    ) {
        interrupted(&sizes, per_flush, &fates, &interruptions);
    }
}

fn images(dir: &Path) -> Vec<Vec<u8>> {
    segments(dir).iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The disk as a recovery from `before` to `after` leaves it between zeroing and writing the cut's trailer.
fn zeroed(before: &[Vec<u8>], after: &[Vec<u8>], torn: Option<TornTail>) -> Vec<Vec<u8>> {
    let Some(torn) = torn else { return before.to_vec() };
    let mut zeroed = before.to_vec();
    let block = torn.pos.next_multiple_of(4_096);
    for (index, (disk, after)) in zeroed.iter_mut().zip(after).enumerate() {
        let at = |pos: u64| (pos.saturating_sub(index as u64 * STRIDE_BYTES) as usize).min(disk.len());
        let (pos, block) = (at(torn.pos), at(block));
        // The last block with kept records is zeroed behind them, or stays as it is.
        disk[pos..block].copy_from_slice(&after[pos..block]);
        let first = if block < 4_096 { 4_096 } else { block };
        disk[first..].fill(0);
    }
    zeroed
}

/// A crash while the disk goes from `before` to `after`: each sector that differs was reached, or not yet.
fn partly(before: &[Vec<u8>], after: &[Vec<u8>], mask: &[bool]) -> Vec<Vec<u8>> {
    let mut disk = before.to_vec();
    let mut sector = 0;
    for (disk, after) in disk.iter_mut().zip(after) {
        for (old, new) in disk.chunks_mut(SECTOR_BYTES).zip(after.chunks(SECTOR_BYTES)) {
            if old == new {
                continue;
            }
            if mask[sector % mask.len()] {
                old.copy_from_slice(new);
            }
            sector += 1;
        }
    }
    disk
}

fn restore(dir: &Path, image: &[Vec<u8>]) {
    for (path, bytes) in segments(dir).iter().zip(image) {
        std::fs::write(path, bytes).unwrap();
    }
}

fn interrupted(sizes: &[usize], per_flush: usize, fates: &[Fate], interruptions: &[(bool, Vec<bool>)]) {
    let settings = Settings { max_in_flight: 2, ..settings() };
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings);
    let mut model = Model::new();
    for chunk in sizes.chunks(per_flush) {
        for bytes in chunk {
            model.append(&mut log, *bytes, false);
        }
        log.flush(&mut disk, Ballot::ZERO);
        if disk.pending.len() == 2 && log.last_lsn().0 % 2 == 0 {
            complete_one(&mut log, &mut disk);
        }
    }
    let durable = log.durable_lsn();
    drop(log);
    disk.crash(fates);
    let before = images(dir.path());
    drop(model.recover(dir.path(), &settings, durable));
    let kept = model.records.clone();
    let durable = Lsn(kept.len() as u64);
    let after = images(dir.path());
    let zeroed = zeroed(&before, &after, model.torn);
    for (sealing, mask) in interruptions {
        // Some sectors of the zeroing alone, or all of it and some sectors of the cut's trailer.
        let image = if *sealing { partly(&zeroed, &after, mask) } else { partly(&before, &zeroed, mask) };
        restore(dir.path(), &image);
        let (mut log, mut disk) = model.recover(dir.path(), &settings, durable);
        assert_eq!(model.records, kept, "an interrupted recovery kept other records");
        // And what is appended afterwards stays, above what any stale byte could say.
        for bytes in [10, 5_000, 10] {
            model.append(&mut log, bytes, false);
            settle(&mut log, &mut disk);
        }
        drop(log);
        let again = Lsn(model.records.len() as u64);
        drop(model.recover(dir.path(), &settings, again));
        assert_eq!(model.records.len(), kept.len() + 3);
        model.records = kept.clone();
    }
}

/// Mutant 10 of the list of faults: append after a torn tail, and the next recovery drops acknowledged data.
#[test]
fn what_is_appended_behind_a_torn_tail_survives_the_next_recovery() {
    for torn_sectors in 0..24 {
        let dir = tempdir();
        let (mut log, mut disk) = fresh(dir.path(), &settings());
        let mut model = Model::new();
        for bytes in [900, 900, 4_000, 900, 2_000] {
            model.append(&mut log, bytes, false);
        }
        log.flush(&mut disk, Ballot::ZERO);
        drop(log);
        let mask = (0..40).map(|sector| sector < torn_sectors).collect();
        disk.crash(&[Fate::Torn(mask)]);
        for _ in 0..3 {
            let before = Lsn(1);
            let (mut log, mut disk) = model.recover(dir.path(), &settings(), before);
            model.append(&mut log, 700, false);
            settle(&mut log, &mut disk);
            drop(log);
            let durable = Lsn(model.records.len() as u64);
            let (mut log, mut disk) = model.recover(dir.path(), &settings(), durable);
            model.append(&mut log, 300, false);
            log.flush(&mut disk, Ballot::ZERO);
            drop(log);
            disk.crash(&[Fate::Torn(vec![true, false])]);
            drop(model.recover(dir.path(), &settings(), durable));
        }
    }
}

#[test]
fn a_torn_tail_is_told_and_cut_once() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    for _ in 0..3 {
        push(&mut log, &mut kept, 3_000);
    }
    log.flush(&mut disk, Ballot::ZERO);
    let flush_pos = disk.pending[0].offset;
    drop(log);
    // The first of three records is whole; the second is torn.
    disk.crash(&[Fate::Torn([[true; 8], [false; 8], [false; 8], [false; 8]].concat())]);
    let mut torn = None;
    let mut reader = LogReader::open_offline(dir.path()).unwrap();
    let visit = &mut |item: synod_wal::Item<'_>| {
        if let synod_wal::Item::TornTail(tail) = item {
            torn = Some(tail);
        }
        std::ops::ControlFlow::Continue(())
    };
    reader.scan(0, None, visit).unwrap();
    drop(reader);
    let torn = torn.expect("inspection tells of the torn tail");
    assert_eq!((torn.kept, torn.cut_bytes), (1, 0));
    assert_eq!(torn.pos, flush_pos + 3_072, "behind the first record");
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    let cut = recovered.torn.expect("recovery cuts it");
    assert_eq!((cut.pos, cut.kept), (torn.pos, 1));
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept[..2]);
    assert_eq!(recovered.log.durable_lsn(), Lsn(2));
    drop(recovered);
    let image = images(dir.path());
    let (recovered, _) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(recovered.torn.is_none() && recovered.damage.is_empty(), "a cut is not cut again: {recovered:?}");
    drop(recovered);
    assert!(image == images(dir.path()), "a clean recovery writes nothing");
}

#[test]
fn stale_flushes_behind_a_torn_one_are_zeroed_in_all_segments() {
    let dir = tempdir();
    let settings = Settings { max_in_flight: 3, ..settings() };
    let (mut log, mut disk) = fresh(dir.path(), &settings);
    let mut kept = vec![founding()];
    housekeep(&mut log, &mut disk);
    while log.head_pos() + (400 << 10) < STRIDE_BYTES {
        push(&mut log, &mut kept, 60_000);
        settle(&mut log, &mut disk);
    }
    let durable = log.durable_lsn();
    // Flushes up to and into the next segment, all in flight.
    while log.head_pos() < STRIDE_BYTES + 10_000 {
        push(&mut log, &mut kept, 60_000);
    }
    log.flush(&mut disk, Ballot::ZERO);
    assert!(disk.pending.len() >= 2 && disk.pending.iter().any(|write| write.slot == 1));
    drop(log);
    disk.crash(&[Fate::Dropped, Fate::Applied, Fate::Applied]);
    let (recovered, records) = recover_dir(dir.path(), &settings).unwrap();
    assert_eq!((recovered.last_lsn, records.len() as u64), (durable, durable.0));
    assert!(recovered.damage.is_empty());
    assert!(recovered.torn.unwrap().cut_bytes > 0);
    let second = std::fs::read(&segments(dir.path())[1]).unwrap();
    assert!(second[4_096..].iter().all(|byte| *byte == 0), "a stale flush stayed in the next segment");
}

#[test]
fn a_flush_at_the_end_of_its_stride_leaves_room_for_a_cut() {
    let mut kept = 0;
    for left_over in [512, 2_048, 3_584, 4_096, 4_608, 7_680, 8_192] {
        for lost_sectors in [left_over / SECTOR_BYTES, 8] {
            kept += usize::from(cut_at_the_end_of_a_stride(left_over, lost_sectors));
        }
    }
    assert!(kept >= 7, "only {kept} cases tore a trailer off");
}

/// Records up to `left_over` bytes before the stride's end, if the log takes them there; the flush loses its last sectors.
/// Tells whether that left records to keep.
fn cut_at_the_end_of_a_stride(left_over: usize, lost_sectors: usize) -> bool {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    housekeep(&mut log, &mut disk);
    while log.head_pos() + (192 << 10) < STRIDE_BYTES {
        push(&mut log, &mut kept, 40_000);
        settle(&mut log, &mut disk);
    }
    let durable = log.durable_lsn();
    let mut left = (STRIDE_BYTES - log.head_pos()) as usize - left_over;
    while left > 0 {
        let frame_bytes = if left > 100_000 { 50_048 } else { left.min(65_536) };
        push(&mut log, &mut kept, frame_bytes - 64);
        left -= frame_bytes;
    }
    log.flush(&mut disk, Ballot::ZERO);
    let sectors = disk.pending[0].bytes.len() / SECTOR_BYTES;
    drop(log);
    disk.crash(&[Fate::Torn((0..sectors).map(|sector| sector + lost_sectors < sectors).collect()), Fate::Dropped]);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.last_lsn > durable, "{left_over}: {recovered:?}");
    assert_eq!(records.len() as u64, recovered.last_lsn.0);
    recovered.torn.is_some_and(|torn| torn.kept > 0)
}

#[test]
fn a_foreign_frame_at_the_end_is_cut_though_its_lsn_fits() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    push(&mut log, &mut kept, 100);
    settle(&mut log, &mut disk);
    let head = log.head_pos();
    drop(log);
    let mut foreign = header(Kind::Accept, 3, 3);
    foreign.cluster = synod_wire::ClusterId(1);
    let write = |bytes: &mut Vec<u8>| {
        synod_wire::frame::write_frame(bytes, &foreign, b"of another cluster");
    };
    poke(&segments(dir.path())[0], head, write, 128);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!((recovered.last_lsn, records.len()), (Lsn(2), 2), "a foreign record was taken in");
    assert_eq!(recovered.torn.unwrap().kept, 0);
}

/// Four records (384, 1600, 320 and 320 bytes, without a sector of zeros) that fit a block with their trailer; where they start.
fn four_in_a_block(log: &mut Log, model: &mut Model) -> u64 {
    let flush_pos = log.head_pos();
    model.serial += 2;
    for bytes in [300, 1_500, 200, 200] {
        model.append(log, bytes, false);
    }
    flush_pos
}

#[test]
fn a_whole_trailer_over_what_a_write_did_not_reach_is_a_torn_tail() {
    for lost in 0..7 {
        let dir = tempdir();
        let (mut log, mut disk) = fresh(dir.path(), &settings());
        let mut model = Model::new();
        four_in_a_block(&mut log, &mut model);
        log.flush(&mut disk, Ballot::ZERO);
        assert_eq!(disk.pending[0].bytes.len(), 4_096, "kept records and the trailer share a block");
        drop(log);
        disk.crash(&[Fate::Torn((0..8).map(|sector| sector != lost).collect())]);
        let (mut log, mut disk) = model.recover(dir.path(), &settings(), Lsn(1));
        // Sector 5 holds the last record's end and the trailer; behind it all is zeros.
        let kept = [0, 1, 1, 1, 2, 3, 4][lost];
        assert_eq!(model.records.len(), 1 + kept, "sector {lost}");
        assert_eq!(model.torn.is_some(), lost < 6, "sector {lost}");
        // The next flushes carry marks beyond the lost Lsns: still nothing may take the old trailer for a witness of damage.
        for bytes in [100, 3_000, 700] {
            model.append(&mut log, bytes, false);
            settle(&mut log, &mut disk);
        }
        log.idle_mark(&mut disk, Ballot::ZERO);
        complete_one(&mut log, &mut disk);
        drop(log);
        let durable = Lsn(model.records.len() as u64);
        drop(model.recover(dir.path(), &settings(), durable));
        assert!(model.torn.is_none() && model.records.len() == kept + 4, "sector {lost}");
    }
}

/// All the ways to interrupt a cut that keeps a record in the block of the torn flush's whole trailer, twice over.
#[test]
fn a_cut_that_voids_a_whole_trailer_may_be_interrupted_anywhere() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut model = Model::new();
    let flush_pos = four_in_a_block(&mut log, &mut model);
    log.flush(&mut disk, Ballot::ZERO);
    drop(log);
    disk.crash(&[Fate::Torn((0..8).map(|sector| sector != 2).collect())]);
    let before = images(dir.path());
    drop(model.recover(dir.path(), &settings(), Lsn(1)));
    let torn = model.torn.unwrap();
    assert_eq!((torn.pos, torn.kept), (flush_pos + 384, 1));
    let after = images(dir.path());
    let zeroed = zeroed(&before, &after, model.torn);
    let kept = model.records.clone();
    let bits = |mask: u32, bits: u32| (0..bits).map(|bit| mask & (1 << bit) != 0).collect::<Vec<_>>();
    // Sectors 0, 1, 3, 4 and 5 are not zeros behind the kept record; the cut's trailer is one sector.
    let mut disks: Vec<_> = (0..32).map(|mask| partly(&before, &zeroed, &bits(mask, 5))).collect();
    assert!(disks[0] == before && disks[31] == zeroed && disks[30] != zeroed);
    for first in [1, 7, 20, 30] {
        // A second recovery starts to zero what the first one left.
        let again: Vec<_> = (0..32).map(|mask| partly(&disks[first], &zeroed, &bits(mask, 5))).collect();
        disks.extend(again);
    }
    disks.push(after);
    for (case, image) in disks.iter().enumerate() {
        restore(dir.path(), image);
        let (mut log, mut disk) = model.recover(dir.path(), &settings(), Lsn(2));
        assert_eq!(model.torn.is_none(), case + 1 == disks.len(), "case {case}");
        assert_eq!(model.records, kept, "case {case}");
        model.append(&mut log, 900, false);
        settle(&mut log, &mut disk);
        model.append(&mut log, 90, false);
        settle(&mut log, &mut disk);
        drop(log);
        drop(model.recover(dir.path(), &settings(), Lsn(4)));
        assert!(model.torn.is_none() && model.records.len() == 4, "case {case}");
        model.records.truncate(2);
    }
}

#[test]
fn flushes_behind_a_torn_one_with_a_whole_trailer_are_cut_with_it() {
    for fates in [[Fate::Applied, Fate::Applied], [Fate::Applied, Fate::Torn(vec![true, false])]] {
        let dir = tempdir();
        let settings = Settings { max_in_flight: 3, ..settings() };
        let (mut log, mut disk) = fresh(dir.path(), &settings);
        let mut model = Model::new();
        let flush_pos = four_in_a_block(&mut log, &mut model);
        log.flush(&mut disk, Ballot::ZERO);
        for bytes in [2_000, 6_000] {
            model.append(&mut log, bytes, false);
            log.flush(&mut disk, Ballot::ZERO);
        }
        assert_eq!(disk.pending.len(), 3);
        drop(log);
        let torn = Fate::Torn((0..8).map(|sector| sector != 2).collect());
        disk.crash(&[&[torn], &fates[..]].concat());
        let (mut log, mut disk) = model.recover(dir.path(), &settings, Lsn(1));
        assert_eq!(model.torn.map(|torn| (torn.pos, torn.kept)), Some((flush_pos + 384, 1)));
        assert_eq!(model.records.len(), 2);
        model.append(&mut log, 10, false);
        settle(&mut log, &mut disk);
        drop(log);
        drop(model.recover(dir.path(), &settings, Lsn(3)));
        assert!(model.torn.is_none());
    }
}

/// Two flushes in flight: the first is left without its trailer, the second torn. The cut lies right behind the missing trailer,
/// and its mark covers the first flush's record: still no later recovery may take what the crash left for damage.
#[test]
fn a_cut_is_no_witness_against_a_trailer_that_a_crash_took() {
    let settings = Settings { max_in_flight: 2, ..settings() };
    let bits = |mask: u32| (0..8).map(|bit| mask & (1 << bit) != 0).collect::<Vec<_>>();
    let mut passed_over = 0;
    // The first flush: a record, or none, or so many small ones that the trailer has several sectors.
    for (records, bytes, firsts) in [(1, 420, 0..4), (0, 0, 0..2), (9, 0, 0..8)] {
        for first in firsts {
            for second in 0..16 {
                let dir = tempdir();
                let (mut log, mut disk) = fresh(dir.path(), &settings);
                let mut model = Model::new();
                // Without it an idle mark would have nothing to say.
                model.append(&mut log, 10, false);
                settle(&mut log, &mut disk);
                (0..records).for_each(|_| model.append(&mut log, bytes, false));
                match records {
                    0 => log.idle_mark(&mut disk, Ballot::ZERO),
                    _ => log.flush(&mut disk, Ballot::ZERO),
                }
                model.append(&mut log, 300, false);
                model.append(&mut log, 900, false);
                log.flush(&mut disk, Ballot::ZERO);
                assert_eq!(disk.pending.len(), 2);
                let after_first = disk.pending[1].offset;
                drop(log);
                disk.crash(&[Fate::Torn(bits(first)), Fate::Torn(bits(second))]);
                let (mut log, mut disk) = model.recover(dir.path(), &settings, Lsn(2));
                passed_over += usize::from(model.torn.is_some_and(|torn| torn.pos >= after_first));
                for bytes in [100, 3_000] {
                    model.append(&mut log, bytes, false);
                    settle(&mut log, &mut disk);
                }
                drop(log);
                let durable = Lsn(model.records.len() as u64);
                drop(model.recover(dir.path(), &settings, durable));
                assert!(model.torn.is_none() && model.records.len() as u64 == durable.0, "{records} {first} {second}");
            }
        }
    }
    assert!(passed_over > 20, "only {passed_over} cuts lie behind the first flush");
}
