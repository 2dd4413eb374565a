//! The log in memory and its writes, completed in order.

mod common;

use common::*;
use proptest::prelude::*;
use synod_ring::FILE_SLOTS;
use synod_wal::{Log, LogError, Place, STRIDE_BYTES, Settings};
use synod_wire::frame::{self, HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES};
use synod_wire::{Ballot, Lsn, NodeId};

#[test]
fn what_is_appended_comes_back() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    for bytes in [0, 1, 63, 64, 1_400, MAX_PAYLOAD_BYTES] {
        let place = push(&mut log, &mut kept, bytes);
        assert_eq!(place.bytes as usize, HEADER_BYTES + bytes);
        let slice = log.frame(place).unwrap().bytes();
        assert_eq!(frame::parse(slice).unwrap().payload, kept.last().unwrap().payload);
        assert_eq!(log.durable_lsn(), Lsn(1), "nothing is durable before its write ended");
    }
    settle(&mut log, &mut disk);
    log.idle_mark(&mut disk, Ballot::ZERO);
    assert_eq!(complete_one(&mut log, &mut disk), None, "a mark makes no record durable");
    log.idle_mark(&mut disk, Ballot::ZERO);
    assert!(disk.pending.is_empty(), "one mark is enough");
    drop(log);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none());
    assert_eq!(recovered.promised, Ballot { round: 7, node: NodeId(1) });
    assert_eq!(recovered.identity, IDENTITY);
    assert_eq!(recovered.records, 7);
    for (place, record) in &records {
        let frame = recovered.log.payload(*place).expect("recent records are in memory after recovery");
        assert_eq!(frame, record.payload);
    }
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
}

#[test]
fn records_gather_while_a_write_is_in_flight() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![];
    push(&mut log, &mut kept, 100);
    log.flush(&mut disk, Ballot::ZERO);
    for _ in 0..5 {
        push(&mut log, &mut kept, 100);
        log.flush(&mut disk, Ballot::ZERO);
    }
    assert_eq!(disk.pending.len(), 1);
    assert_eq!(complete_one(&mut log, &mut disk), Some(Lsn(2)));
    log.flush(&mut disk, Ballot::ZERO);
    assert_eq!(disk.pending.len(), 1, "the five go in one write");
    assert_eq!(complete_one(&mut log, &mut disk), Some(Lsn(7)));
    assert_eq!(log.durable_lsn(), log.last_lsn());
}

#[test]
fn durable_advances_in_order_only() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &Settings { max_in_flight: 3, ..settings() });
    let mut kept = vec![];
    for _ in 0..3 {
        push(&mut log, &mut kept, 100);
        log.flush(&mut disk, Ballot::ZERO);
    }
    assert_eq!(disk.pending.len(), 3);
    let before = log.durable_pos();
    for _ in 0..2 {
        let (token, result) = disk.complete(1);
        assert_eq!(log.written(&mut disk, token, result).unwrap(), None);
        assert_eq!((log.durable_lsn(), log.durable_pos()), (Lsn(1), before));
    }
    assert_eq!(complete_one(&mut log, &mut disk), Some(Lsn(4)));
    assert!(log.durable_pos() > before);
}

#[test]
fn a_short_write_is_continued_and_any_error_is_final() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    push(&mut log, &mut kept, 20_000);
    log.flush(&mut disk, Ballot::ZERO);
    let (token, result) = disk.complete_part(0, 8_192);
    assert_eq!(log.written(&mut disk, token, result).unwrap(), None);
    assert_eq!(disk.pending.len(), 1);
    assert_eq!(complete_one(&mut log, &mut disk), Some(Lsn(2)));
    push(&mut log, &mut kept, 20_000);
    log.flush(&mut disk, Ballot::ZERO);
    let (token, _) = disk.complete(0);
    let error = log.written(&mut disk, token, Err(5)).unwrap_err();
    assert!(matches!(error, LogError::WriteFailed { .. }), "{error}");
    push(&mut log, &mut kept, 10);
    log.flush(&mut disk, Ballot::ZERO);
    log.idle_mark(&mut disk, Ballot::ZERO);
    assert!(disk.pending.is_empty(), "a failed log writes nothing more");
    assert_eq!(log.durable_lsn(), Lsn(2));
}

#[test]
fn a_short_write_inside_a_block_is_an_error() {
    for bytes in [0, 100, 4_095] {
        let dir = tempdir();
        let (mut log, mut disk) = fresh(dir.path(), &settings());
        push(&mut log, &mut vec![], 20_000);
        log.flush(&mut disk, Ballot::ZERO);
        let (token, result) = disk.complete_part(0, bytes);
        assert!(matches!(log.written(&mut disk, token, result), Err(LogError::WriteFailed { .. })), "{bytes}");
    }
}

#[test]
fn batches_are_filled_in_place() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    log.open_batch(1_400).unwrap().fill(9);
    log.abandon_batch();
    let area = log.open_batch(1_400).unwrap();
    assert_eq!(area.len(), 1_400);
    area[..3].copy_from_slice(b"abc");
    let place = log.close_batch(&header(Kind::Accept, 2, 4), 3);
    assert_eq!(log.payload(place), Some(&b"abc"[..]));
    let again = log.reappend(&header(Kind::Learnt, 3, 4), place).unwrap();
    let (first, second) = (log.frame(place).unwrap().bytes(), log.frame(again).unwrap().bytes());
    assert_eq!(first[4..8], second[4..8], "the same checksum of the payload");
    assert_eq!(frame::parse(second).unwrap().payload, b"abc");
    let both = log.contiguous(place, again).unwrap().bytes();
    assert_eq!(frame::Frames::new(both).map(|frame| frame.unwrap().header.lsn.0).collect::<Vec<_>>(), [2, 3]);
    settle(&mut log, &mut disk);
    let third = log.append(&header(Kind::Accept, 4, 4), b"x", None).unwrap();
    assert!(log.contiguous(again, third).is_none(), "a trailer lies between them");
    assert!(log.contiguous(third, again).is_none());
    assert!(log.contiguous(third, third).is_some());
}

#[test]
#[should_panic(expected = "a batch is open")]
fn appending_under_an_open_batch_is_a_bug() {
    let dir = tempdir();
    let (mut log, _disk) = fresh(dir.path(), &settings());
    log.open_batch(10).unwrap();
    push(&mut log, &mut vec![], 10);
}

#[test]
#[should_panic(expected = "Lsns are dense")]
fn a_skipped_lsn_is_a_bug() {
    let dir = tempdir();
    let (mut log, _disk) = fresh(dir.path(), &settings());
    log.append(&header(Kind::Accept, 3, 1), b"", None);
}

#[test]
fn the_log_crosses_strides_and_segments() {
    let dir = tempdir();
    let settings = Settings { segment_bytes: 2 * STRIDE_BYTES, ..settings() };
    synod_wal::format(dir.path(), &IDENTITY, (&founding().header, FOUNDING), &settings).unwrap();
    let (mut log, mut disk) = attached(recover_dir(dir.path(), &settings).unwrap().0);
    let mut kept = vec![founding()];
    let sizes = [MAX_PAYLOAD_BYTES, 1, 30_000, 4_000, 0, 50_000, 64];
    while log.head_pos() < 5 * STRIDE_BYTES {
        for bytes in sizes.into_iter().cycle().take(1 + kept.len() % 9) {
            push(&mut log, &mut kept, bytes);
        }
        settle(&mut log, &mut disk);
    }
    assert_eq!(segments(dir.path()).len(), 4, "one ahead of the third");
    drop(log);
    let (recovered, records) = recover_dir(dir.path(), &settings).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none(), "{recovered:?}");
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
}

#[test]
fn small_records_fill_a_flush_to_its_most() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    for _ in 0..3_000 {
        push(&mut log, &mut kept, 0);
    }
    settle(&mut log, &mut disk);
    drop(log);
    let (_, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
}

/// Appends until there is no room; how many times `room` promised enough.
fn fill(log: &mut Log, kept: &mut Vec<Kept>, bytes: usize) -> usize {
    let need = frame::frame_bytes(bytes);
    let mut promised = 0;
    loop {
        let sure = log.room() >= need;
        let lsn = log.last_lsn().0 + 1;
        let record = Kept { header: header(Kind::Accept, lsn, lsn), payload: payload(lsn, bytes) };
        match log.append(&record.header, &record.payload, None) {
            Some(_) => kept.push(record),
            None => {
                assert!(!sure, "room() promised what append refused");
                return promised;
            }
        }
        promised += usize::from(sure);
    }
}

#[test]
fn a_turn_has_a_bound_and_bytes_in_flight_are_never_overwritten() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    housekeep(&mut log, &mut disk);
    let mut kept = vec![founding()];
    let start = log.head_pos();
    assert!(fill(&mut log, &mut kept, 10_000) > 100);
    assert!(log.head_pos() - start <= STRIDE_BYTES, "a turn appended more than its bound");
    for _ in 0..20 {
        log.flush(&mut disk, Ballot::ZERO);
        housekeep(&mut log, &mut disk);
        fill(&mut log, &mut kept, 10_000);
    }
    assert_eq!(disk.pending.len(), 1);
    assert!(log.head_pos() - start <= 2 * STRIDE_BYTES, "the ring was overrun");
    while log.durable_lsn() < log.last_lsn() {
        complete_one(&mut log, &mut disk);
        log.flush(&mut disk, Ballot::ZERO);
    }
    assert!(fill(&mut log, &mut kept, 10_000) > 100, "durable bytes make room");
    settle(&mut log, &mut disk);
    drop(log);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(recovered.damage.is_empty());
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
}

#[test]
fn a_hold_keeps_frames_in_memory_until_it_moves() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    let held = push(&mut log, &mut kept, 500);
    log.set_hold(held.pos);
    for _ in 0..40 {
        fill(&mut log, &mut kept, 40_000);
        settle(&mut log, &mut disk);
        assert_eq!(log.payload(held), Some(&kept[1].payload[..]), "a held frame was given up");
    }
    assert_eq!(fill(&mut log, &mut kept, 10_000), 0, "there is room in spite of the hold");
    assert_eq!(log.room(), 0);
    log.set_hold(log.head_pos());
    assert!(log.payload(held).is_some(), "a hold moves at the end of the turn");
    settle(&mut log, &mut disk);
    assert!(log.room() > 1 << 20);
    fill(&mut log, &mut kept, 40_000);
    settle(&mut log, &mut disk);
    assert_eq!(log.frame(held).map(|slice| slice.bytes().len()), None, "its bytes may be overwritten");
    log.set_hold(held.pos);
    settle(&mut log, &mut disk);
    assert!(log.room() > 1 << 20, "a hold on what is gone must not stop the log");
}

#[test]
fn without_a_next_segment_the_log_fills_its_last_one() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    let spec = log.wants_segment().expect("the log has entered its last segment");
    assert!(log.wants_segment().is_none(), "asked once");
    assert!(!spec.is_urgent(), "the log has only begun with its last one");
    for _ in 0..10 {
        fill(&mut log, &mut kept, 30_000);
        log.flush(&mut disk, Ballot::ZERO);
        while !disk.pending.is_empty() {
            complete_one(&mut log, &mut disk);
            log.flush(&mut disk, Ballot::ZERO);
        }
    }
    assert_eq!(log.durable_lsn(), log.last_lsn(), "all that was taken is durable");
    assert!(log.head_pos() > STRIDE_BYTES - (256 << 10), "the segment was not used up");
    assert!(log.wants_segment().is_none() && spec.is_urgent(), "asked once, but with haste now");
    log.segment_failed();
    assert!(log.wants_segment().is_some_and(|spec| spec.is_urgent()), "asked again after a failure");
    log.segment_ready(&mut disk, spec.prepare().unwrap()).unwrap();
    log.flush(&mut disk, Ballot::ZERO);
    push(&mut log, &mut kept, 30_000);
    log.flush(&mut disk, Ballot::ZERO);
    let next = log.wants_segment().expect("the log has entered its last segment");
    assert!(!next.is_urgent(), "and has only begun with it");
    log.segment_failed();
    settle(&mut log, &mut disk);
    drop(log);
    assert!(next.is_urgent(), "whoever ends waits for the preparation");
    let (_, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
}

/// The ring in memory is larger than the segments that the reactor has slots for: a write that hangs must not lose its file to
/// the segment that takes its slot.
#[test]
fn a_prepared_segment_waits_for_the_slot_of_one_that_is_still_written() {
    for max_in_flight in [1, 2, 64] {
        let dir = tempdir();
        let arena_bytes = (u64::from(FILE_SLOTS) + 3) * STRIDE_BYTES;
        let settings = Settings { arena_bytes: arena_bytes as usize, max_in_flight, ..settings() };
        let (mut log, mut disk) = fresh(dir.path(), &settings);
        let mut kept = vec![founding()];
        let mut before = 0;
        while log.head_pos() > before {
            before = log.head_pos();
            fill(&mut log, &mut kept, 30_000);
            housekeep(&mut log, &mut disk);
            log.flush(&mut disk, Ballot::ZERO);
        }
        assert!(before / STRIDE_BYTES > u64::from(FILE_SLOTS), "only {before} bytes were taken while no write ended");
        // They end last first: the oldest is the last to give its slot free.
        while let Some(last) = disk.pending.len().checked_sub(1) {
            let (token, result) = disk.complete(last);
            log.written(&mut disk, token, result).unwrap();
            log.flush(&mut disk, Ballot::ZERO);
        }
        assert_eq!(log.durable_lsn(), log.last_lsn(), "all that was taken is durable");
        drop(log);
        let (_, records) = recover_dir(dir.path(), &settings).unwrap();
        assert!(records.into_iter().map(|(_, kept)| kept).eq(kept), "{max_in_flight} in flight");
    }
}

/// A crash while writes hang leaves as many empty segments as the ring in memory holds, and a restart may give it less.
#[test]
fn segments_that_were_prepared_while_writes_hung_are_no_strangers() {
    let dir = tempdir();
    let arena_bytes = (u64::from(FILE_SLOTS) + 3) * STRIDE_BYTES;
    let large = Settings { arena_bytes: arena_bytes as usize, ..settings() };
    let (mut log, mut disk) = fresh(dir.path(), &large);
    let (mut kept, mut before) = (vec![founding()], 0);
    while log.head_pos() > before {
        before = log.head_pos();
        fill(&mut log, &mut kept, 30_000);
        housekeep(&mut log, &mut disk);
        log.flush(&mut disk, Ballot::ZERO);
    }
    let prepared = segments(dir.path()).len();
    assert!(prepared > usize::from(FILE_SLOTS) + 1, "only {prepared} segments were prepared while no write ended");
    drop(log);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(records.len(), 1, "what founded the group is all that was written");
    // They are used, each in its turn.
    let (mut log, mut disk) = attached(recovered);
    let mut kept: Vec<_> = records.into_iter().map(|(_, kept)| kept).collect();
    while log.head_pos() < before {
        fill(&mut log, &mut kept, 30_000);
        housekeep(&mut log, &mut disk);
        log.flush(&mut disk, Ballot::ZERO);
        settle(&mut log, &mut disk);
    }
    drop(log);
    let (_, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(records.into_iter().map(|(_, kept)| kept).eq(kept));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), ..ProptestConfig::default() })]

    #[test]
    fn room_is_room_for_any_run_of_records(
        runs in prop::collection::vec((prop::collection::vec(0..=MAX_PAYLOAD_BYTES, 1..40), 1..400usize, any::<u8>()), 1..30),
    ) {
        let dir = tempdir();
        let (mut log, mut disk) = fresh(dir.path(), &Settings { max_flush_bytes: 128 << 10, ..settings() });
        housekeep(&mut log, &mut disk);
        let mut appended = 0;
        for (sizes, times, after) in runs {
            // As many as room() allows, small or large: not one may be refused.
            let mut left = log.room();
            let small = after % 3 == 0;
            let sizes = sizes.iter().map(|bytes| if small { bytes % 100 } else { *bytes });
            for bytes in sizes.cycle().take(times) {
                let need = frame::frame_bytes(bytes);
                if need > left {
                    break;
                }
                left -= need;
                appended += 1;
                let lsn = log.last_lsn().0 + 1;
                let place = log.append(&header(Kind::Accept, lsn, 1), &vec![after; bytes], None);
                prop_assert!(place.is_some(), "refused {} with {} of the room left", bytes, left);
            }
            match after % 4 {
                0 => {}
                1 => log.flush(&mut disk, Ballot::ZERO),
                _ => settle(&mut log, &mut disk),
            }
        }
        prop_assert!(appended > 0);
    }
}

#[test]
fn a_place_outside_of_the_log_is_no_frame() {
    let dir = tempdir();
    let (log, _disk) = fresh(dir.path(), &settings());
    assert!(log.frame(Place { pos: log.head_pos(), bytes: 64 }).is_none());
}
