//! A log whose front is behind a snapshot, or gone: recovery from a later segment, removal of the front beside an appender and
//! readers, interrupted anywhere.

mod common;

use common::*;
use std::fs::{File, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use synod_wal::{Item, Log, LogError, LogReader, Place, Removed, STRIDE_BYTES, Start, remove_front};
use synod_wire::{Ballot, Lsn};

/// A log of four written segments and a prepared one: its records with their places.
fn long_log(dir: &Path) -> (Log, TestDisk, Vec<(Place, Kept)>) {
    let (mut log, mut disk) = fresh(dir, &settings());
    let mut kept = vec![founding()];
    while log.head_pos() < 3 * STRIDE_BYTES + 300_000 {
        for _ in 0..3 {
            push(&mut log, &mut kept, 50_000);
        }
        settle(&mut log, &mut disk);
    }
    log.idle_mark(&mut disk, Ballot::ZERO);
    complete_one(&mut log, &mut disk);
    housekeep(&mut log, &mut disk);
    let mut places = Vec::new();
    let mut reader = LogReader::open(dir).unwrap();
    reader
        .scan(0, Some(log.durable_pos()), &mut |item| {
            if let Item::Record(place, _) = item {
                places.push(place);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((places.len(), segments(dir).len()), (kept.len(), 5));
    (log, disk, places.into_iter().zip(kept).collect())
}

/// Where to start for `segment`.
fn start_at(records: &[(Place, Kept)], segment: u64) -> Start {
    let first = records.iter().find(|(place, _)| place.pos >= segment * STRIDE_BYTES);
    let first_lsn = first.map_or(Lsn(records.len() as u64 + 1), |(_, kept)| kept.header.lsn);
    Start::At { segment, first_lsn }
}

fn behind(records: &[(Place, Kept)], segment: u64) -> Vec<(Place, Kept)> {
    records.iter().filter(|(place, _)| place.pos >= segment * STRIDE_BYTES).cloned().collect()
}

fn images(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    segments(dir).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempdir();
    for path in segments(from) {
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn recovery_from_any_segment_gives_the_rest_of_the_log_whatever_prefix_is_gone() {
    let dir = tempdir();
    let (log, _, records) = long_log(dir.path());
    let head = log.head_pos();
    drop(log);
    for segment in 0..5 {
        for gone in 0..=segment {
            let dir = copy(dir.path());
            for path in &segments(dir.path())[..gone as usize] {
                std::fs::remove_file(path).unwrap();
            }
            let (recovered, found) = recover_from(dir.path(), &settings(), start_at(&records, segment)).unwrap();
            assert!(recovered.damage.is_empty() && recovered.torn.is_none(), "{segment}, {gone}: {recovered:?}");
            // The prepared segment is empty: a log that ends where it starts is as good as one that ends before it.
            let expected_head = if segment == 4 { 4 * STRIDE_BYTES + 4_096 } else { head };
            assert_eq!((recovered.last_lsn.0, recovered.log.head_pos()), (records.len() as u64, expected_head));
            assert!(found == behind(&records, segment), "{segment}, {gone}");
            assert_eq!(segments(dir.path()).len() as u64, 5 - gone, "kept segments stay");
            let (mut log, mut disk) = attached(recovered);
            let mut kept = Vec::new();
            push(&mut log, &mut kept, 60_000);
            settle(&mut log, &mut disk);
            drop(log);
            let (again, found) = recover_from(dir.path(), &settings(), start_at(&records, segment)).unwrap();
            assert_eq!(found.last().map(|(_, kept)| kept), kept.last());
            assert!(again.damage.is_empty() && again.last_lsn.0 == records.len() as u64 + 1);
        }
    }
}

#[test]
fn a_start_that_is_not_there_is_refused_by_the_name_of_its_file() {
    let dir = tempdir();
    let (log, _, records) = long_log(dir.path());
    drop(log);
    let paths = segments(dir.path());
    let refused = |from| {
        let before = images(dir.path());
        let error = recover_from(dir.path(), &settings(), from).expect_err("this must be refused");
        assert!(before == images(dir.path()), "a refused log was changed: {error}");
        error
    };
    std::fs::remove_file(&paths[0]).unwrap();
    let error = refused(Start::Beginning);
    assert!(matches!(&error, LogError::FrontRemoved { first, .. } if first == &paths[1]), "{error}");
    let error = refused(start_at(&records, 0));
    assert!(matches!(&error, LogError::MissingSegment { path, .. } if path == &paths[0]), "{error}");
    let error = refused(Start::At { segment: 5, first_lsn: Lsn(records.len() as u64 + 1) });
    assert!(error.to_string().contains("0000000000000005.seg"), "{error}");
    let Start::At { segment, first_lsn } = start_at(&records, 2) else { unreachable!() };
    for wrong in [Lsn(first_lsn.0 - 1), first_lsn.next(), Lsn(0), Lsn(1), Lsn(1_000_000), Lsn(u64::MAX)] {
        let error = refused(Start::At { segment, first_lsn: wrong });
        assert!(matches!(error, LogError::WrongStart { found, .. } if found == first_lsn), "{error}");
    }
    for wrong in [Lsn(0), Lsn(u64::MAX)] {
        let error = refused(Start::At { segment: 4, first_lsn: wrong });
        assert!(matches!(error, LogError::WrongStart { .. }), "nothing is there yet: {error}");
    }
    let aside = dir.path().join("aside");
    std::fs::rename(&paths[2], &aside).unwrap();
    let error = refused(start_at(&records, 3));
    assert!(matches!(&error, LogError::MissingSegment { path, .. } if path == &paths[2]), "a gap: {error}");
    std::fs::rename(&aside, &paths[2]).unwrap();
    recover_from(dir.path(), &settings(), start_at(&records, 1)).unwrap();
}

#[test]
fn a_segment_that_no_log_reaches_is_refused() {
    let dir = tempdir();
    format_dir(dir.path());
    let stray = dir.path().join("ffffffffffffffff.seg");
    let set_index = |bytes: &mut Vec<u8>| {
        bytes[64..72].fill(0xff);
        let payload_crc = synod_wire::frame::checksum(&bytes[64..104]);
        bytes[4..8].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = synod_wire::frame::checksum(&bytes[4..64]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    };
    std::fs::rename(&segments(dir.path())[0], &stray).unwrap();
    poke(&stray, 0, set_index, 104);
    let error = recover_dir(dir.path(), &settings()).unwrap_err();
    assert!(matches!(&error, LogError::Mismatch { field: "index", path, .. } if path == &stray), "{error}");
    assert!(LogReader::open(dir.path()).is_err());
}

/// Damages the segment's beginning in all the ways that its parts allow; the recovery from it must find what one from the
/// log's beginning finds.
#[test]
fn damage_in_the_first_segment_that_is_scanned_is_what_it_is_in_any_other() {
    let dir = tempdir();
    let (log, _, records) = long_log(dir.path());
    drop(log);
    let second = behind(&records, 2);
    let offset = |index: usize| second[index].0.pos - 2 * STRIDE_BYTES;
    let last = second[2].0.end() - 2 * STRIDE_BYTES;
    let flip = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
    let erase = |bytes: &mut Vec<u8>| bytes.fill(0);
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, u64, usize, Change<'_>, u64); 6] = [
        ("header", 0, 1, &flip, 0),
        ("first record", offset(0) + 80, 1, &flip, 1),
        ("first record's header", offset(0), 1, &flip, 1),
        ("second record", offset(1) + 80, 1, &flip, 1),
        ("trailer", last + 8, 1, &flip, 0),
        ("first flush", 4_096, (last + 512) as usize - 4_096, &erase, 3),
    ];
    for (name, at, bytes, change, lost) in cases {
        let (whole, front_gone) = (copy(dir.path()), copy(dir.path()));
        for dir in [&whole, &front_gone] {
            poke(&segments(dir.path())[2], at, change, bytes);
        }
        std::fs::remove_file(&segments(front_gone.path())[0]).unwrap();
        std::fs::remove_file(&segments(front_gone.path())[0]).unwrap();
        let (expected, _) = recover_dir(whole.path(), &settings()).unwrap();
        let (found, records) = recover_from(front_gone.path(), &settings(), start_at(&records, 2)).unwrap();
        assert_eq!(found.damage.iter().map(|damage| damage.lost()).sum::<u64>(), lost, "{name}");
        assert!(!found.damage.is_empty(), "{name}");
        let told = |damage: &synod_wal::Damage| (damage.pos, damage.first_lsn, damage.last_lsn, damage.named.clone());
        let (found_damage, expected_damage): (Vec<_>, Vec<_>) =
            (found.damage.iter().map(told).collect(), expected.damage.iter().map(told).collect());
        assert_eq!(found_damage, expected_damage, "{name}");
        assert_eq!((found.last_lsn, found.torn), (expected.last_lsn, expected.torn), "{name}");
        assert_eq!(records.len() as u64 + lost, second.len() as u64, "{name}");
    }
}

/// Every sector of the last writes may be missing: the recovery from the segment of the crash, with and without a front, does
/// to the files what one from the beginning does.
#[test]
fn a_torn_tail_is_cut_as_ever_whichever_segment_the_scan_starts_at() {
    let dir = tempdir();
    let (mut log, mut disk, records) = long_log(dir.path());
    let mut kept = Vec::new();
    for bytes in [300, 1_500, 200] {
        push(&mut log, &mut kept, bytes);
    }
    log.flush(&mut disk, Ballot::ZERO);
    let pending = disk.pending.remove(0);
    let path = segments(dir.path())[3].clone();
    drop(log);
    for reached in 0..1 << (pending.bytes.len() / SECTOR_BYTES).min(6) {
        let (whole, front_gone) = (copy(dir.path()), copy(dir.path()));
        for dir in [&whole, &front_gone] {
            for (sector, bytes) in
                pending.bytes.chunks(SECTOR_BYTES).enumerate().filter(|(at, _)| reached >> at & 1 == 1)
            {
                let at = pending.offset + (sector * SECTOR_BYTES) as u64;
                let put = |target: &mut Vec<u8>| target.copy_from_slice(bytes);
                poke(&dir.path().join(path.file_name().unwrap()), at, put, SECTOR_BYTES);
            }
        }
        remove_front(front_gone.path(), 3).unwrap();
        let (expected, _) = recover_dir(whole.path(), &settings()).unwrap();
        let (found, _) = recover_from(front_gone.path(), &settings(), start_at(&records, 3)).unwrap();
        assert!(found.damage.is_empty(), "{reached:b}");
        assert_eq!((found.last_lsn, found.torn), (expected.last_lsn, expected.torn), "{reached:b}");
        assert_eq!(found.log.head_pos(), expected.log.head_pos(), "{reached:b}");
        for (found, expected) in segments(front_gone.path()).iter().zip(&segments(whole.path())[3..]) {
            assert!(std::fs::read(found).unwrap() == std::fs::read(expected).unwrap(), "{reached:b}: {found:?}");
        }
    }
}

#[test]
fn removal_stops_at_what_the_appender_has_and_may_be_interrupted_anywhere() {
    let dir = tempdir();
    let (mut log, mut disk, records) = long_log(dir.path());
    for gone in 0..3 {
        let dir = copy(dir.path());
        for path in &segments(dir.path())[..gone] {
            std::fs::remove_file(path).unwrap();
        }
        // Such a descriptor does not count as one who has the file open.
        let look = |path| OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        let looks: Vec<_> = segments(dir.path())[..3 - gone].iter().map(look).collect();
        // The crash came here: the log is whole from there on, and the next removal goes on.
        let removed = remove_front(dir.path(), 3).unwrap();
        let at_once = |file: &File| file.metadata().unwrap().len() == STRIDE_BYTES;
        assert!(!looks.iter().any(at_once), "who removes a segment has it open: its space goes back in one go");
        let left = 3 - gone as u64;
        assert_eq!(removed, Removed { segments: left, bytes: left * STRIDE_BYTES });
        assert_eq!(remove_front(dir.path(), 3).unwrap(), Removed::default(), "once");
        let (recovered, found) = recover_from(dir.path(), &settings(), start_at(&records, 3)).unwrap();
        assert!(recovered.damage.is_empty() && found == behind(&records, 3));
    }
    // Whatever is asked for: the segment that is written, and the one prepared behind it, stay.
    assert_eq!(remove_front(dir.path(), u64::MAX).unwrap().segments, 3);
    assert_eq!(segments(dir.path()).len(), 2);
    let mut kept = Vec::new();
    while log.head_pos() < 5 * STRIDE_BYTES + 10_000 {
        push(&mut log, &mut kept, 60_000);
        settle(&mut log, &mut disk);
    }
    assert_eq!(remove_front(dir.path(), 4).unwrap().segments, 1);
    drop(log);
    let first_lsn = LogReader::open_offline(dir.path()).unwrap().first_lsn(None).unwrap().unwrap();
    let (recovered, found) = recover_from(dir.path(), &settings(), Start::At { segment: 4, first_lsn }).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none());
    assert_eq!(recovered.last_lsn.0, (records.len() + kept.len()) as u64);
    assert_eq!(found.last().map(|(_, record)| record), kept.last());
}

#[test]
fn readers_are_told_what_was_removed_and_read_the_rest() {
    let dir = tempdir();
    let (log, disk, records) = long_log(dir.path());
    let durable = log.durable_pos();
    let mut reader = LogReader::open(dir.path()).unwrap();
    let (mut seen, mut removed) = (0, None);
    // The front goes while it is read: what is open stays readable.
    let end = reader.scan(0, Some(durable), &mut |item| {
        if let Item::Record(_, frame) = item {
            seen += 1;
            assert_eq!(frame.header.lsn, Lsn(seen));
            if seen == 3 {
                removed = Some(remove_front(dir.path(), 2).unwrap());
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!((end.unwrap().pos, seen), (durable, records.len() as u64));
    assert_eq!(removed, Some(Removed { segments: 2, bytes: 2 * STRIDE_BYTES }));
    assert_eq!(reader.first_segment(), 0);
    reader.refresh().unwrap();
    let first_pos = 2 * STRIDE_BYTES + 4_096;
    assert_eq!((reader.first_segment(), reader.first_pos()), (2, first_pos));
    for from in [0, records[5].0.pos, 2 * STRIDE_BYTES - 64] {
        let visit = &mut |_: Item<'_>| panic!("nothing of what is gone may be made up");
        let error = reader.scan(from, Some(durable), visit).expect_err("removed");
        assert!(matches!(error, LogError::Trimmed { first_pos: told } if told == first_pos), "{error}");
    }
    let error = reader.record_at(records[0].0).unwrap_err();
    assert!(matches!(error, LogError::Trimmed { .. }), "{error}");
    let (place, kept) = &behind(&records, 2)[7];
    assert_eq!(reader.record_at(*place).unwrap(), (kept.header, kept.payload.clone()));
    let rest = |reader: &mut LogReader, from: u64, to: Option<u64>| {
        let mut lsns = Vec::new();
        let end = reader.scan(from, to, &mut |item| {
            match item {
                Item::Record(_, frame) => lsns.push(frame.header.lsn),
                Item::Trailer(_) => {}
                other => panic!("{other:?}"),
            }
            ControlFlow::Continue(())
        });
        assert_eq!(end.unwrap().last_lsn.0, records.len() as u64);
        lsns
    };
    let lsns = |from: &[(Place, Kept)]| from.iter().map(|(_, kept)| kept.header.lsn).collect::<Vec<_>>();
    for from in [2 * STRIDE_BYTES, first_pos] {
        assert_eq!(rest(&mut reader, from, Some(durable)), lsns(&behind(&records, 2)));
    }
    assert_eq!(rest(&mut reader, place.pos, Some(durable)), lsns(&behind(&records, 2)[7..]));
    drop((log, disk));
    let mut offline = LogReader::open_offline(dir.path()).unwrap();
    assert_eq!(offline.first_lsn(None).unwrap(), Some(behind(&records, 2)[0].1.header.lsn));
    assert_eq!(rest(&mut offline, first_pos, None), lsns(&behind(&records, 2)));
    assert!(matches!(offline.scan(0, None, &mut |_| ControlFlow::Continue(())), Err(LogError::Trimmed { .. })));
}

#[test]
fn a_reader_is_opened_while_the_front_is_removed() {
    let dir = tempdir();
    let (_log, _disk, _) = long_log(dir.path());
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            let mut firsts = Vec::new();
            while firsts.last() != Some(&3) {
                firsts.push(LogReader::open(dir.path()).unwrap().first_segment());
            }
            firsts
        });
        for before in 1..=3 {
            assert_eq!(remove_front(dir.path(), before).unwrap().segments, 1);
        }
        let firsts = opener.join().unwrap();
        assert!(firsts.is_sorted(), "{firsts:?}");
    });
}

/// What a scan comes by.
fn items(reader: &mut LogReader, from: u64, to: Option<u64>) -> Vec<String> {
    let mut items = Vec::new();
    let end = reader.scan(from, to, &mut |item| {
        items.push(match item {
            Item::Record(place, frame) => format!("{place:?} {:?} {}", frame.header, frame.payload_crc),
            other => format!("{other:?}"),
        });
        ControlFlow::Continue(())
    });
    items.push(format!("{:?}", end.unwrap()));
    items
}

#[test]
fn a_log_read_in_stretches_is_what_it_is_in_whole_maps() {
    let dir = tempdir();
    let (mut log, mut disk, mut records) = long_log(dir.path());
    // A flush that is longer than any stretch.
    let mut kept = Vec::new();
    for _ in 0..14 {
        push(&mut log, &mut kept, 60_000);
    }
    settle(&mut log, &mut disk);
    log.idle_mark(&mut disk, Ballot::ZERO);
    complete_one(&mut log, &mut disk);
    let to = log.durable_pos();
    drop(log);
    let mut whole = LogReader::open_offline(dir.path()).unwrap();
    records.truncate(records.len() - 1);
    for damaged in [false, true] {
        if damaged {
            for (place, _) in records.iter().skip(5).step_by(9) {
                let (segment, offset) = ((place.pos / STRIDE_BYTES) as usize, place.pos % STRIDE_BYTES + 40_000);
                poke(&segments(dir.path())[segment], offset, |bytes| bytes[0] ^= 8, 1);
            }
        }
        let expected = items(&mut whole, 0, None);
        assert_eq!(expected.iter().any(|item| item.starts_with("Damage")), damaged);
        for mut reader in
            [LogReader::open(dir.path()).unwrap(), LogReader::open_to_read_once(dir.path(), 64 << 10).unwrap()]
        {
            assert_eq!(items(&mut reader, 0, Some(to)), expected);
            for (place, _) in records.iter().step_by(7) {
                let part = items(&mut reader, place.pos, Some(to));
                assert_eq!(part[part.len() - 20..], expected[expected.len() - 20..], "from {}", place.pos);
            }
        }
    }
}
