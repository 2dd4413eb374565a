//! Bytes that change, vanish or move after they were durable: reported by Lsn, never served, never taken for a torn tail.

mod common;

use common::*;
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::path::Path;
use synod_wal::{Damage, Item, LogError, LogReader, Place, STRIDE_BYTES};
use synod_wire::frame::{self, Kind};
use synod_wire::{Ballot, Lsn};

/// A log of `flushes` flushes with several records each, an idle mark at the end; its records and their places.
fn written(dir: &Path, flushes: usize, sizes: &[usize]) -> (Vec<(Place, Kept)>, Vec<u64>) {
    let (mut log, mut disk) = fresh(dir, &settings());
    let mut kept = vec![founding()];
    let mut starts = vec![4_096];
    for _ in 0..flushes {
        starts.push(log.head_pos());
        for bytes in sizes {
            push(&mut log, &mut kept, *bytes);
        }
        settle(&mut log, &mut disk);
    }
    starts.push(log.head_pos());
    log.idle_mark(&mut disk, Ballot::ZERO);
    complete_one(&mut log, &mut disk);
    starts.push(log.head_pos());
    drop(log);
    let (recovered, records) = recover_dir(dir, &settings()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none());
    (records, starts)
}

fn flip(dir: &Path, pos: u64, bit: u8) {
    let path = &segments(dir)[(pos / STRIDE_BYTES) as usize];
    poke(path, pos % STRIDE_BYTES, |bytes| bytes[0] ^= 1 << bit, 1);
}

/// Recovers; all that is served is as it was written, and the rest is damage.
fn check(dir: &Path, written: &[(Place, Kept)]) -> Vec<Damage> {
    let (recovered, records) = recover_dir(dir, &settings()).unwrap();
    account(&recovered, &records);
    assert_eq!(recovered.last_lsn.0, written.len() as u64, "the tail was lost: {:?}", recovered.damage);
    assert!(recovered.torn.is_none(), "damage was taken for a torn tail");
    for (place, kept) in &records {
        assert_eq!(&(*place, kept.clone()), &written[kept.header.lsn.0 as usize - 1], "served other bytes");
    }
    recovered.damage
}

#[test]
fn a_flipped_payload_is_damage_of_that_record_alone() {
    let dir = tempdir();
    let (records, _) = written(dir.path(), 4, &[500, 500, 500]);
    let (place, victim) = &records[5];
    flip(dir.path(), place.pos + 100, 3);
    for _ in 0..2 {
        let damage = check(dir.path(), &records);
        assert_eq!(damage.len(), 1);
        let damage = &damage[0];
        assert_eq!((damage.first_lsn, damage.last_lsn, damage.complete), (Lsn(6), Lsn(6), true));
        assert_eq!(damage.pos, place.pos);
        assert_eq!(damage.named[0].slot.get(), victim.header.slot.0);
        assert_eq!(damage.named[0].ballot.get(), victim.header.ballot.pack());
        assert_eq!(damage.named[0].kind, Kind::Accept as u8);
        assert_eq!(damage.segment, segments(dir.path())[0]);
    }
}

#[test]
fn the_last_flush_is_covered_by_its_own_trailer() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    let place = push(&mut log, &mut kept, 5_000);
    settle(&mut log, &mut disk);
    drop(log);
    flip(dir.path(), place.pos + 200, 0);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!((recovered.last_lsn, records.len()), (Lsn(2), 1));
    assert!(recovered.torn.is_none());
    assert!(recovered.damage[0].complete);
}

/// A last flush that no mark covers: records of 300 and 3 000 bytes (of these, the last 2 000 zeros if `zeros`) and 300 bytes.
fn unmarked(dir: &Path, zeros: bool) -> Vec<Place> {
    let (mut log, mut disk) = fresh(dir, &settings());
    let mut places = Vec::new();
    for (lsn, bytes) in [(2, 300), (3, 3_000), (4, 300)] {
        let mut payload = payload(lsn, bytes);
        if zeros && lsn == 3 {
            payload[1_000..].fill(0);
        }
        places.push(log.append(&header(Kind::Accept, lsn, lsn), &payload, None).unwrap());
    }
    settle(&mut log, &mut disk);
    places
}

/// Spoils a log whose records lie at these places.
type Rot<'a> = &'a dyn Fn(&Path, &[Place]);

#[derive(Debug, PartialEq)]
enum Verdict {
    Damage(Vec<u64>),
    TornTail(usize),
}

/// Asks the reader, recovery, and recovery again: all must agree.
fn verdict(dir: &Path) -> Verdict {
    let mut told = Vec::new();
    LogReader::open_offline(dir)
        .unwrap()
        .scan(0, None, &mut |item| {
            match item {
                Item::Damage(damage) => {
                    told.push(Verdict::Damage((damage.first_lsn.0..=damage.last_lsn.0).collect()));
                }
                Item::TornTail(torn) => told.push(Verdict::TornTail(torn.kept)),
                Item::Record(..) | Item::Trailer(_) => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    let (recovered, records) = recover_dir(dir, &settings()).unwrap();
    account(&recovered, &records);
    let damaged = recovered.damage.iter().flat_map(|it| it.first_lsn.0..=it.last_lsn.0).collect();
    let found = recovered.torn.map_or(Verdict::Damage(damaged), |torn| Verdict::TornTail(torn.kept));
    assert_eq!(told, [found]);
    let (torn, damage, last_lsn) = (recovered.torn, recovered.damage, recovered.last_lsn);
    drop(recovered.log);
    let (again, found) = recover_dir(dir, &settings()).unwrap();
    assert!(again.torn.is_none() && again.last_lsn == last_lsn && found == records);
    assert_eq!(again.damage, damage, "after {torn:?}");
    told.pop().expect("one verdict")
}

#[test]
fn rot_of_a_last_flush_without_a_mark_is_damage() {
    let garbage = |dir: &Path, at: u64, bytes: usize| poke(&segments(dir)[0], at, |bytes| bytes.fill(0xa5), bytes);
    let rots: [(Rot<'_>, &[u64]); 6] = [
        (&|dir, places| flip(dir, places[1].pos + 64 + 900, 0), &[3]),
        (&|dir, places| flip(dir, places[1].pos + 20, 0), &[3]),
        (&|dir, places| garbage(dir, places[1].pos + 600, 512), &[3]),
        (&|dir, places| garbage(dir, places[0].pos, 3_800), &[2, 3, 4]),
        // Zeros, but no sector of the file that is all zeros: no disk tears within a sector.
        (&|dir, places| poke(&segments(dir)[0], places[1].pos + 1, |bytes| bytes.fill(0), 600), &[3]),
        // One record looks torn, another is rotten: a crash explains the one, not the other.
        (
            &|dir, places| {
                poke(&segments(dir)[0], (places[1].pos + 700).next_multiple_of(512), |bytes| bytes.fill(0), 512);
                flip(dir, places[0].pos + 100, 0);
            },
            &[2, 3],
        ),
    ];
    for (index, (rot, lost)) in rots.into_iter().enumerate() {
        let dir = tempdir();
        let places = unmarked(dir.path(), false);
        rot(dir.path(), &places);
        assert_eq!(verdict(dir.path()), Verdict::Damage(lost.to_vec()), "rot {index}");
    }
}

/// What the contract says cannot be told, as long as no mark covers it: then it is damage, too.
#[test]
fn without_a_mark_a_durable_sector_of_zeros_looks_like_one_that_was_not_reached() {
    let lose_a_sector = |dir: &Path, places: &[Place]| {
        let sector = (places[1].pos + 700).next_multiple_of(512);
        poke(&segments(dir)[0], sector, |bytes| bytes.fill(0), 512);
    };
    let rot_beside_zeros = |dir: &Path, places: &[Place]| flip(dir, places[1].pos + 64 + 500, 0);
    let rot_of_the_header = |dir: &Path, places: &[Place]| flip(dir, places[1].pos + 20, 0);
    let cases: [(Rot<'_>, bool, Verdict); 3] = [
        (&lose_a_sector, false, Verdict::TornTail(1)),
        (&rot_beside_zeros, true, Verdict::TornTail(1)),
        (&rot_of_the_header, true, Verdict::Damage(vec![3])),
    ];
    for (index, (rot, zeros, expected)) in cases.into_iter().enumerate() {
        for marked in [false, true] {
            let dir = tempdir();
            let places = unmarked(dir.path(), zeros);
            if marked {
                let (mut log, mut disk) = attached(recover_dir(dir.path(), &settings()).unwrap().0);
                log.idle_mark(&mut disk, Ballot::ZERO);
                complete_one(&mut log, &mut disk);
            }
            rot(dir.path(), &places);
            let expected = if marked { &Verdict::Damage(vec![3]) } else { &expected };
            assert_eq!(&verdict(dir.path()), expected, "case {index}, marked: {marked}");
        }
    }
}

#[test]
fn what_a_cut_kept_is_durable_by_the_mark_of_its_own_trailer() {
    let dir = tempdir();
    let places = unmarked(dir.path(), false);
    flip(dir.path(), places[2].end() + 70, 0);
    poke(&segments(dir.path())[0], places[2].pos, |bytes| bytes.fill(0), 364);
    let (recovered, _) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(recovered.torn.map(|torn| torn.kept), Some(2));
    drop(recovered);
    poke(&segments(dir.path())[0], (places[1].pos + 700).next_multiple_of(512), |bytes| bytes.fill(0), 512);
    assert_eq!(verdict(dir.path()), Verdict::Damage(vec![3]));
}

#[test]
fn up_to_a_bound_nothing_is_torn() {
    let dir = tempdir();
    let places = unmarked(dir.path(), false);
    poke(&segments(dir.path())[0], (places[1].pos + 700).next_multiple_of(512), |bytes| bytes.fill(0), 512);
    let mut reader = LogReader::open(dir.path()).unwrap();
    // Up to the last record, and up to the end of the flush, where its trailer is seen.
    for to in [places[2].end(), places[0].pos + 4_096] {
        let mut damaged = Vec::new();
        let end = reader.scan(0, Some(to), &mut |item| {
            match item {
                Item::Damage(damage) => damaged.push((damage.first_lsn.0, damage.last_lsn.0, damage.complete)),
                Item::TornTail(torn) => panic!("{torn:?}"),
                Item::Record(..) | Item::Trailer(_) => {}
            }
            ControlFlow::Continue(())
        });
        assert_eq!((end.unwrap().last_lsn, damaged), (Lsn(4), vec![(3, 3, true)]), "up to {to}");
    }
    drop(reader);
    assert_eq!(verdict(dir.path()), Verdict::TornTail(1));
}

#[test]
fn a_flush_that_is_gone_whole_is_damage_that_cannot_be_named() {
    let dir = tempdir();
    let (records, starts) = written(dir.path(), 4, &[500, 500]);
    poke(&segments(dir.path())[0], starts[2], |bytes| bytes.fill(0), (starts[3] - starts[2]) as usize);
    let damage = check(dir.path(), &records);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!((damage[0].first_lsn, damage[0].last_lsn), (Lsn(4), Lsn(5)));
    assert!(!damage[0].complete && damage[0].named.is_empty());
}

#[test]
fn an_idle_mark_tells_damage_of_the_last_flush_from_a_torn_tail() {
    let dir = tempdir();
    let (records, starts) = written(dir.path(), 2, &[500, 500]);
    poke(&segments(dir.path())[0], starts[2], |bytes| bytes.fill(0xa5), (starts[3] - starts[2]) as usize);
    let damage = check(dir.path(), &records);
    assert_eq!((damage[0].first_lsn, damage[0].last_lsn), (Lsn(4), Lsn(5)));
}

#[test]
fn a_lost_trailer_loses_no_record() {
    let dir = tempdir();
    let (records, _) = written(dir.path(), 3, &[500, 500]);
    let trailer = records[2].0.end();
    flip(dir.path(), trailer + 70, 1);
    let damage = check(dir.path(), &records);
    assert_eq!((damage.len(), damage[0].lost(), damage[0].complete), (1, 0, true));
}

/// Behind a cut (and an idle mark) a trailer of zeros may be one that a crash took; one with other bytes was on disk once.
#[test]
fn a_trailer_that_rots_before_a_cut_is_damage_unless_it_is_zeros() {
    let rot = |dir: &Path, pos: u64, zeros: bool| match zeros {
        true => poke(&segments(dir)[0], pos, |bytes| bytes.fill(0), 512),
        false => flip(dir, pos + 70, 1),
    };
    for (cut, zeros, told) in [(false, false, 1), (false, true, 1), (true, false, 1), (true, true, 0)] {
        let dir = tempdir();
        let (mut log, mut disk) = fresh(dir.path(), &settings());
        let mut kept = vec![founding()];
        let trailer = push(&mut log, &mut kept, 448).end();
        assert!(trailer.is_multiple_of(512), "the trailer has sectors of its own");
        settle(&mut log, &mut disk);
        if cut {
            let header = header(Kind::Accept, 3, 3);
            log.append(&header, &payload(3, 900), None).unwrap();
            log.flush(&mut disk, Ballot::ZERO);
            drop(log);
            disk.crash(&[Fate::Torn(vec![false, true])]);
            let recovered = recover_dir(dir.path(), &settings()).unwrap().0;
            assert_eq!(recovered.torn.map(|torn| (torn.pos, torn.kept)), Some((trailer.next_multiple_of(4_096), 0)));
            (log, disk) = attached(recovered);
        }
        push(&mut log, &mut kept, 500);
        settle(&mut log, &mut disk);
        drop(log);
        let (_, records) = recover_dir(dir.path(), &settings()).unwrap();
        rot(dir.path(), trailer, zeros);
        let damage = check(dir.path(), &records);
        assert!(damage.iter().all(|damage| damage.lost() == 0 && damage.pos == trailer), "{damage:?}");
        assert_eq!(damage.len(), told, "cut: {cut}, zeros: {zeros}");
    }
}

#[test]
fn without_a_trailer_records_are_named_by_their_headers() {
    let dir = tempdir();
    let (records, _) = written(dir.path(), 3, &[500, 500, 500]);
    flip(dir.path(), records[1].0.pos + 100, 1);
    flip(dir.path(), records[3].0.end() + 70, 1);
    let damage = check(dir.path(), &records);
    assert_eq!((damage[0].first_lsn, damage[0].last_lsn, damage[0].complete), (Lsn(2), Lsn(2), true));
    assert_eq!(damage[0].named[0].slot.get(), records[1].1.header.slot.0);
}

#[test]
fn a_header_of_a_segment_can_be_lost() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    while log.head_pos() < STRIDE_BYTES + 10_000 {
        push(&mut log, &mut kept, 60_000);
        settle(&mut log, &mut disk);
    }
    drop(log);
    flip(dir.path(), STRIDE_BYTES + 20, 1);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), kept);
    assert_eq!((recovered.damage.len(), recovered.damage[0].lost()), (1, 0));
}

#[test]
fn a_shortened_segment_is_damage() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    while log.head_pos() < STRIDE_BYTES + 200_000 {
        push(&mut log, &mut kept, 60_000);
        settle(&mut log, &mut disk);
    }
    drop(log);
    let file = std::fs::File::options().write(true).open(&segments(dir.path())[0]).unwrap();
    file.set_len(STRIDE_BYTES / 2 + 1_000).unwrap();
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    account(&recovered, &records);
    assert_eq!(recovered.last_lsn.0, kept.len() as u64);
    assert!(recovered.damage[0].lost() > 10 && !recovered.damage[0].complete);
}

#[test]
fn a_payload_that_looks_like_a_log_is_not_taken_for_one() {
    // A client stores a copy of this very log as its data; then the frame around it is damaged.
    let dir = tempdir();
    let (copied, starts) = written(dir.path(), 6, &[300, 300]);
    let mut image = std::fs::read(&segments(dir.path())[0]).unwrap();
    image.truncate(*starts.last().unwrap() as usize);
    let (recovered, _) = recover_dir(dir.path(), &settings()).unwrap();
    let (mut log, mut disk) = attached(recovered);
    let lsn = copied.len() as u64 + 1;
    let place = log.append(&header(Kind::Accept, lsn, lsn), &image[..40_000.min(image.len())], None).unwrap();
    settle(&mut log, &mut disk);
    log.append(&header(Kind::Accept, lsn + 1, lsn + 1), b"behind", None).unwrap();
    settle(&mut log, &mut disk);
    drop(log);
    flip(dir.path(), place.pos + 20, 2);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    account(&recovered, &records);
    assert_eq!(recovered.last_lsn, Lsn(lsn + 1));
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!((recovered.damage[0].first_lsn, recovered.damage[0].last_lsn), (Lsn(lsn), Lsn(lsn)));
}

#[test]
fn a_reader_checks_each_record_again() {
    let dir = tempdir();
    let (records, starts) = written(dir.path(), 3, &[500, 70_00]);
    flip(dir.path(), records[3].0.pos + 300, 1);
    let mut reader = LogReader::open(dir.path()).unwrap();
    assert_eq!(reader.identity(), &IDENTITY);
    let (header, payload) = reader.record_at(records[2].0).unwrap();
    assert_eq!(Kept { header, payload }, records[2].1);
    let mut bad = vec![records[3].0];
    bad.push(Place { bytes: records[2].0.bytes + 1, ..records[2].0 });
    bad.push(Place { pos: records[2].0.pos + 64, ..records[2].0 });
    bad.push(Place { pos: u64::MAX - 100, bytes: u32::MAX });
    for place in bad {
        assert!(matches!(reader.record_at(place), Err(LogError::NoRecord { .. })), "{place:?}");
    }
    assert!(matches!(reader.scan(0, None, &mut |_| ControlFlow::Continue(())), Err(LogError::Unbounded { .. })));
    // From any record on, up to a durable position.
    let mut lsns = Vec::new();
    let mut damaged = Vec::new();
    let end = reader.scan(records[2].0.pos, Some(starts[3]), &mut |item| {
        match item {
            Item::Record(place, frame) => {
                assert_eq!(place, records[frame.header.lsn.0 as usize - 1].0);
                lsns.push(frame.header.lsn.0);
            }
            Item::Damage(damage) => damaged.push((damage.first_lsn.0, damage.last_lsn.0)),
            Item::Trailer(_) => {}
            Item::TornTail(torn) => panic!("{torn:?}"),
        }
        ControlFlow::Continue(())
    });
    assert_eq!((lsns, damaged), (vec![3, 5], vec![(4, 4)]));
    assert_eq!(end.unwrap().pos, starts[3]);
    let mut seen = 0;
    let stopped = reader.scan(0, Some(starts[3]), &mut |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.unwrap().stopped && seen == 3);
}

#[test]
fn up_to_a_durable_position_all_that_is_bad_is_damage() {
    let dir = tempdir();
    let (_, starts) = written(dir.path(), 3, &[500]);
    let last = starts.len() - 1;
    let from = starts[last - 2];
    poke(&segments(dir.path())[0], from, |bytes| bytes.fill(0), (starts[last] - from) as usize);
    let mut damaged = Vec::new();
    let mut reader = LogReader::open(dir.path()).unwrap();
    let end = reader.scan(0, Some(starts[last]), &mut |item| {
        if let Item::Damage(damage) = item {
            damaged.push((damage.first_lsn.0, damage.complete));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap().pos, from);
    assert_eq!(damaged, [(4, false)]);
}

#[test]
fn a_misdirected_copy_of_the_next_records_is_not_taken_for_them() {
    // Two records fill a block, their trailer the next one: the next flush's first block lands on that trailer.
    let dir = tempdir();
    let (records, starts) = written(dir.path(), 3, &[1_899, 1_997]);
    assert_eq!((records[2].0.end(), starts[2] - starts[1]), (starts[1] + 4_096, 8_192));
    let image = std::fs::read(&segments(dir.path())[0]).unwrap();
    let copy = image[starts[2] as usize..starts[2] as usize + 4_096].to_vec();
    poke(&segments(dir.path())[0], starts[1] + 4_096, |bytes| *bytes = copy, 4_096);
    let damage = check(dir.path(), &records);
    assert_eq!((damage.len(), damage[0].lost()), (1, 0), "{damage:?}");
}

#[test]
fn a_scan_may_end_within_a_flush() {
    let dir = tempdir();
    let (records, _) = written(dir.path(), 2, &[500, 600, 700, 800]);
    let mut reader = LogReader::open(dir.path()).unwrap();
    let mut scan = |from: usize, to: u64| {
        let (mut lsns, mut damaged) = (Vec::new(), Vec::new());
        let end = reader.scan(records[from].0.pos, Some(to), &mut |item| {
            match item {
                Item::Record(_, frame) => lsns.push(frame.header.lsn.0),
                Item::Damage(damage) => damaged.push((damage.first_lsn.0, damage.last_lsn.0, damage.complete)),
                Item::Trailer(_) => {}
                Item::TornTail(torn) => panic!("{torn:?}"),
            }
            ControlFlow::Continue(())
        });
        end.unwrap();
        (lsns, damaged)
    };
    let end = |index: usize| records[index].0.end();
    assert_eq!(scan(2, end(3)), (vec![3, 4], vec![]));
    assert_eq!(scan(3, end(7)), (vec![4, 5, 6, 7, 8], vec![]));
    flip(dir.path(), records[6].0.pos + 200, 1);
    assert_eq!(scan(3, end(7)), (vec![4, 5, 6, 8], vec![(7, 7, true)]), "its header leads on");
    assert_eq!(scan(6, end(7)), (vec![8], vec![(7, 7, true)]));
    flip(dir.path(), records[6].0.pos + 50, 1);
    assert_eq!(scan(3, end(7)), (vec![4, 5, 6], vec![(7, 7, false)]), "nothing leads on");
    assert_eq!(scan(3, end(5)), (vec![4, 5, 6], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_is_found_where_it_matters(
        sizes in prop::collection::vec(0..3_000usize, 1..8), flushes in 1..6usize, at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let dir = tempdir();
        let (records, starts) = written(dir.path(), flushes, &sizes);
        // The idle mark at the end is the witness; it stays.
        let pos = 4_096 + at.index((starts[starts.len() - 2] - 4_096) as usize) as u64;
        flip(dir.path(), pos, bit);
        let damage = check(dir.path(), &records);
        let hit = records.iter().find(|(place, _)| (place.pos..place.pos + u64::from(place.bytes)).contains(&pos));
        match hit {
            Some((_, kept)) => {
                prop_assert_eq!(damage.len(), 1);
                prop_assert_eq!((damage[0].first_lsn, damage[0].last_lsn), (kept.header.lsn, kept.header.lsn));
                prop_assert!(damage[0].complete);
            }
            None => prop_assert!(damage.iter().all(|damage| damage.lost() == 0), "{:?}", damage),
        }
    }

    #[test]
    fn misdirected_blocks_are_never_served(
        sizes in prop::collection::vec(0..3_000usize, 1..8), flushes in 2..6usize,
        from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), swap in any::<bool>(),
    ) {
        let dir = tempdir();
        let (records, starts) = written(dir.path(), flushes, &sizes);
        let blocks = ((starts[starts.len() - 2] - 4_096) / 4_096) as usize;
        let (from, to) = (4_096 + from.index(blocks) as u64 * 4_096, 4_096 + to.index(blocks) as u64 * 4_096);
        let path = segments(dir.path())[0].clone();
        let image = std::fs::read(&path).unwrap();
        let block = |pos: u64| image[pos as usize..pos as usize + 4_096].to_vec();
        poke(&path, to, |bytes| *bytes = block(from), 4_096);
        if swap {
            poke(&path, from, |bytes| *bytes = block(to), 4_096);
        }
        let damage = check(dir.path(), &records);
        if from == to {
            prop_assert!(damage.is_empty());
        }
    }

    #[test]
    fn several_bad_regions_are_all_accounted_for(
        flushes in 3..8usize, holes in prop::collection::vec((any::<prop::sample::Index>(), 1..9_000usize, any::<u8>()), 1..4),
    ) {
        let dir = tempdir();
        let (records, starts) = written(dir.path(), flushes, &[100, 2_000, 5_000]);
        let end = starts[starts.len() - 2];
        for (at, bytes, fill) in holes {
            let pos = 4_096 + at.index((end - 4_096) as usize) as u64;
            let bytes = bytes.min((end - pos) as usize);
            poke(&segments(dir.path())[0], pos, |buffer| buffer.fill(fill), bytes);
        }
        check(dir.path(), &records);
    }
}

#[test]
fn a_frame_of_another_cluster_is_no_record_of_ours() {
    let dir = tempdir();
    let (records, _) = written(dir.path(), 3, &[500]);
    let (place, victim) = &records[2];
    let mut foreign = victim.header;
    foreign.cluster = synod_wire::ClusterId(1);
    let offset = place.pos;
    poke(
        &segments(dir.path())[0],
        offset,
        |bytes| {
            frame::write_frame(bytes, &foreign, &victim.payload);
        },
        frame::frame_bytes(victim.payload.len()),
    );
    let damage = check(dir.path(), &records);
    assert_eq!((damage[0].first_lsn, damage[0].last_lsn), (Lsn(3), Lsn(3)));
}
