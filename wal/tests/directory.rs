//! Directories that are not what they should be, formatting, and settings: refused with a text that says what to do.

mod common;

use common::*;
use std::path::Path;
use synod_wal::{Expect, LogError, LogReader, STRIDE_BYTES, Settings, Start, format, recover};
use synod_wire::frame::{self, Kind};
use synod_wire::{ClusterId, GroupId, Lsn, NodeId};

/// The first segment's bytes, if there is one.
fn image(dir: &Path) -> Option<Vec<u8>> {
    dir.is_dir().then(|| segments(dir))?.first().map(|path| std::fs::read(path).unwrap())
}

fn refused(dir: &Path, expect: &Expect, settings: &Settings) -> LogError {
    let before = image(dir);
    let error = recover(dir, expect, settings, Start::Beginning, &mut |_, _| {}).expect_err("this must be refused");
    assert!(before == image(dir), "a refused log was changed");
    error
}

#[test]
fn formatting_twice_is_refused() {
    let dir = tempdir();
    let inner = dir.path().join("not/yet/there");
    format_dir(&inner);
    let again = format(&inner, &IDENTITY, (&founding().header, FOUNDING), &settings()).unwrap_err();
    assert!(matches!(&again, LogError::Formatted { found, .. } if found == &segments(&inner)[0]), "{again}");
    let (recovered, _) = recover_dir(&inner, &settings()).unwrap();
    let busy = format(&inner, &IDENTITY, (&founding().header, FOUNDING), &settings()).unwrap_err();
    assert!(matches!(busy, LogError::Locked { .. }), "{busy}");
    assert!(matches!(recover_dir(&inner, &settings()), Err(LogError::Locked { .. })));
    assert!(matches!(LogReader::open_offline(&inner), Err(LogError::Locked { .. })));
    drop(recovered);
    LogReader::open_offline(&inner).unwrap();
}

#[test]
fn interrupted_formatting_and_preparation_leave_nothing() {
    let dir = tempdir();
    for name in ["0000000000000000.seg.tmp", "unrelated"] {
        std::fs::write(dir.path().join(name), b"half a segment").unwrap();
    }
    format_dir(dir.path());
    let leftover = dir.path().join("0000000000000001.seg.tmp");
    std::fs::write(&leftover, b"half a segment").unwrap();
    recover_dir(dir.path(), &settings()).unwrap();
    assert!(!leftover.exists());
    assert!(dir.path().join("unrelated").exists(), "what is not ours stays");
}

#[test]
fn an_empty_directory_is_not_a_log() {
    let dir = tempdir();
    for path in [dir.path().to_path_buf(), dir.path().join("missing")] {
        assert!(matches!(refused(&path, &EXPECT, &settings()), LogError::NotFormatted { .. }));
    }
}

#[test]
fn another_owner_is_refused() {
    let dir = tempdir();
    format_dir(dir.path());
    let others = [
        ("cluster", Expect { cluster: ClusterId(1), ..EXPECT }),
        ("group", Expect { group: GroupId(9), ..EXPECT }),
        ("node", Expect { node: NodeId(9), ..EXPECT }),
    ];
    for (name, expect) in others {
        let error = refused(dir.path(), &expect, &settings());
        assert!(matches!(&error, LogError::Mismatch { field, .. } if *field == name), "{error}");
        assert!(error.to_string().contains("0000000000000000.seg"), "{error}");
    }
    let other_size = Settings { segment_bytes: 2 * STRIDE_BYTES, ..settings() };
    let error = refused(dir.path(), &EXPECT, &other_size);
    assert!(matches!(error, LogError::Mismatch { field: "segment_bytes", .. }), "{error}");
}

#[test]
fn another_format_is_refused_but_a_flipped_version_is_not_one() {
    let dir = tempdir();
    format_dir(dir.path());
    let path = segments(dir.path())[0].clone();
    let set_version = |bytes: &mut Vec<u8>| {
        bytes[16] = 2;
        let crc = frame::checksum(&bytes[4..64]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    };
    poke(&path, 0, set_version, 64);
    let error = refused(dir.path(), &EXPECT, &settings());
    assert!(matches!(error, LogError::Version { found: 2, .. }), "{error}");
    poke(&path, 0, |bytes| bytes[0] ^= 1, 1);
    let error = refused(dir.path(), &EXPECT, &settings());
    assert!(matches!(error, LogError::NoHeader { .. }), "the only header is damaged: {error}");
}

#[test]
fn missing_and_renamed_segments_are_refused() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let mut kept = vec![founding()];
    while log.head_pos() < 2 * STRIDE_BYTES + 10_000 {
        push(&mut log, &mut kept, 60_000);
        settle(&mut log, &mut disk);
    }
    drop(log);
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 4);
    let aside = dir.path().join("aside");
    std::fs::rename(&paths[1], &aside).unwrap();
    let error = refused(dir.path(), &EXPECT, &settings());
    assert!(matches!(&error, LogError::MissingSegment { path, .. } if path == &paths[1]), "{error}");
    std::fs::rename(&aside, &paths[1]).unwrap();
    std::fs::rename(&paths[0], &aside).unwrap();
    let error = refused(dir.path(), &EXPECT, &settings());
    assert!(matches!(&error, LogError::FrontRemoved { first, .. } if first == &paths[1]), "{error}");
    std::fs::copy(&paths[1], &paths[0]).unwrap();
    let error = refused(dir.path(), &EXPECT, &settings());
    assert!(matches!(error, LogError::Mismatch { field: "index", .. }), "{error}");
    std::fs::rename(&aside, &paths[0]).unwrap();
    let (recovered, _) = recover_dir(dir.path(), &settings()).unwrap();
    assert_eq!(recovered.last_lsn.0, kept.len() as u64);
}

#[test]
fn a_log_without_its_first_record_and_nothing_else_is_refused() {
    let dir = tempdir();
    format_dir(dir.path());
    poke(&segments(dir.path())[0], 4_096, |bytes| bytes.fill(0), 4_096);
    assert!(matches!(refused(dir.path(), &EXPECT, &settings()), LogError::NoFoundingRecord { .. }));
}

#[test]
fn a_flipped_first_record_is_damage() {
    let dir = tempdir();
    format_dir(dir.path());
    poke(&segments(dir.path())[0], 4_096 + 70, |bytes| bytes[0] ^= 1, 1);
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(records.is_empty() && recovered.damage[0].complete);
    assert_eq!(recovered.damage[0].named[0].kind, Kind::Configuration as u8);
    assert_eq!(recovered.last_lsn, Lsn(1));
}

#[test]
fn settings_that_do_not_fit_are_refused_by_name() {
    let good = settings();
    let bad = [
        ("segment_bytes", Settings { segment_bytes: 0, ..good }),
        ("segment_bytes", Settings { segment_bytes: STRIDE_BYTES + 4_096, ..good }),
        ("arena_bytes", Settings { arena_bytes: STRIDE_BYTES as usize, ..good }),
        ("max_in_flight", Settings { max_in_flight: 0, ..good }),
        ("max_flush_bytes", Settings { max_flush_bytes: 4_096, ..good }),
    ];
    good.check().unwrap();
    Settings::default().check().unwrap();
    for (name, settings) in bad {
        assert!(matches!(settings.check(), Err(LogError::Setting { field, .. }) if field == name), "{settings:?}");
    }
}

#[test]
fn preparation_never_replaces_a_segment() {
    let dir = tempdir();
    let (mut log, mut disk) = fresh(dir.path(), &settings());
    let spec = log.wants_segment().unwrap();
    log.segment_ready(&mut disk, spec.prepare().unwrap()).unwrap();
    let before = std::fs::read(&segments(dir.path())[1]).unwrap();
    assert!(matches!(spec.prepare(), Err(LogError::File { .. })), "the name is taken");
    assert!(before == std::fs::read(&segments(dir.path())[1]).unwrap());
}

#[test]
fn a_segment_that_does_not_fit_is_refused_before_the_disk_is_filled() {
    let dir = tempdir();
    let bytes = synod_wal::MAX_SEGMENT_BYTES;
    let space = rustix::fs::statvfs(dir.path()).unwrap();
    if space.f_bavail * space.f_frsize >= bytes {
        eprintln!("skipped: there is room for a segment of {bytes} bytes here");
        return;
    }
    let huge = Settings { segment_bytes: bytes, ..settings() };
    let error = format(dir.path(), &IDENTITY, (&founding().header, FOUNDING), &huge).unwrap_err();
    assert!(matches!(error, LogError::NoSpace { bytes: needed, .. } if needed == bytes), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the lock stays");
    format_dir(dir.path());
}
