//! Snapshot files: whole or not there after any interruption, told apart from damage, and any bytes at all under such a name.

mod common;

use common::dying::dying;
use common::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use synod_wal::snapshot::{HEADER_BYTES, PIECE_BYTES, Snapshot, list, read, remove_older, write};
use synod_wal::{Dir, Expect, LogError};
use synod_wire::frame::checksum;
use synod_wire::record::SnapshotHeader;
use synod_wire::{GroupId, NodeId, Slot};
use zerocopy::{FromBytes, IntoBytes};

fn path(dir: &Path, slot: u64) -> PathBuf {
    dir.join(format!("{slot:016x}.snap"))
}

fn write_one(dir: impl Into<Dir>, slot: u64, body: &[u8]) -> Result<(), LogError> {
    write(dir, &IDENTITY, Slot(slot), body, &mut || {})
}

fn body_of(dir: &Path, slot: u64) -> Vec<u8> {
    let Snapshot { incarnation, body } = read(dir, &EXPECT, Slot(slot)).unwrap();
    assert_eq!(incarnation, IDENTITY.incarnation);
    body
}

#[test]
fn bodies_of_any_size_come_back_and_the_caller_may_pause_between_pieces() {
    let dir = tempdir();
    let sizes = [0, 1, 4_096, HEADER_BYTES as usize + 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 7];
    for (slot, bytes) in (10..).zip(sizes) {
        let (body, mut pauses) = (payload(slot, bytes), 0);
        write(dir.path(), &IDENTITY, Slot(slot), &body, &mut || pauses += 1).unwrap();
        assert_eq!(pauses, bytes.div_ceil(PIECE_BYTES), "{bytes}");
        assert!(body_of(dir.path(), slot) == body, "{bytes}");
    }
    assert_eq!(list(dir.path()).unwrap(), (10..17).map(Slot).collect::<Vec<_>>());
    let error = write_one(dir.path(), 12, b"another").unwrap_err();
    assert!(matches!(error, LogError::File { .. }) && body_of(dir.path(), 12) == payload(12, 4_096), "{error}");
    let names = Dir::from(dir.path()).names().unwrap();
    assert!(names.iter().all(|name| name.ends_with(".snap")), "{names:?}");
    assert_eq!(remove_older(dir.path(), 2).unwrap(), 5);
    assert_eq!(remove_older(dir.path(), 2).unwrap(), 0);
    assert_eq!(list(dir.path()).unwrap(), [Slot(15), Slot(16)]);
}

#[test]
fn a_log_and_its_snapshots_share_a_directory() {
    let dir = tempdir();
    format_dir(dir.path());
    write_one(dir.path(), 7, b"seven").unwrap();
    let leftover = dir.path().join("0000000000000008.snap.tmp");
    std::fs::write(&leftover, b"half a snapshot").unwrap();
    recover_dir(dir.path(), &settings()).unwrap();
    assert!(!leftover.exists(), "as a segment's");
    assert_eq!(list(dir.path()).unwrap(), [Slot(7)]);
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    let again = synod_wal::format(dir.path(), &IDENTITY, (&founding().header, FOUNDING), &settings()).unwrap_err();
    assert!(matches!(&again, LogError::Formatted { found, .. } if found == &path(dir.path(), 7)), "{again}");
}

#[test]
fn damage_and_other_owners_are_told() {
    let dir = tempdir();
    let body = payload(3, PIECE_BYTES + 100);
    write_one(dir.path(), 3, &body).unwrap();
    let bad = |expect: &Expect, slot: u64, why: &str| match read(dir.path(), expect, Slot(slot)) {
        Err(LogError::BadSnapshot { path: named, what }) => {
            assert!(named == path(dir.path(), slot) && what.contains(why), "{what}");
        }
        other => panic!("{why}: {other:?}"),
    };
    bad(&Expect { group: GroupId(9), ..EXPECT }, 3, "group");
    bad(&Expect { node: NodeId(9), ..EXPECT }, 3, "node");
    std::fs::copy(path(dir.path(), 3), path(dir.path(), 4)).unwrap();
    bad(&EXPECT, 4, "slot");
    let last = HEADER_BYTES + body.len() as u64 - 1;
    for (at, why) in
        [(0, "header"), (8, "header"), (40, "header"), (63, "header"), (HEADER_BYTES, "body"), (last, "body")]
    {
        poke(&path(dir.path(), 3), at, |bytes| bytes[0] ^= 0x10, 1);
        bad(&EXPECT, 3, why);
        poke(&path(dir.path(), 3), at, |bytes| bytes[0] ^= 0x10, 1);
    }
    assert!(body_of(dir.path(), 3) == body);
    let file = std::fs::File::options().write(true).open(path(dir.path(), 3)).unwrap();
    for bytes in [HEADER_BYTES + PIECE_BYTES as u64, HEADER_BYTES, 64, 10, 0] {
        file.set_len(bytes).unwrap();
        bad(&EXPECT, 3, "");
    }
}

#[test]
fn every_interruption_leaves_the_old_ones_and_the_new_one_whole_or_not_at_all() {
    let dir = tempdir();
    format_dir(dir.path());
    let old = payload(1, 100_000);
    write_one(dir.path(), 1, &old).unwrap();
    let new = payload(2, PIECE_BYTES + 50_000);
    let mut outcomes = Vec::new();
    for operations in 0.. {
        let written = write_one(dying(dir.path(), operations), 2, &new);
        recover_dir(dir.path(), &settings()).unwrap();
        let names: Vec<String> = Dir::from(dir.path()).names().unwrap();
        assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{operations}: {names:?}");
        assert!(body_of(dir.path(), 1) == old, "{operations}");
        let found = list(dir.path()).unwrap().contains(&Slot(2));
        if found {
            assert!(body_of(dir.path(), 2) == new, "{operations}");
            std::fs::remove_file(path(dir.path(), 2)).unwrap();
        }
        outcomes.push((written.is_ok(), found));
        if written.is_ok() {
            break;
        }
    }
    // Open, three writes, sync, rename: dead at any of these there is nothing; at the directory's sync it may be there.
    assert_eq!(outcomes, [vec![(false, false); 6], vec![(false, true), (true, true)]].concat());
}

#[test]
fn a_removal_that_is_interrupted_leaves_the_newest() {
    for operations in 0..6 {
        let dir = tempdir();
        for slot in 1..=5 {
            write_one(dir.path(), slot, &payload(slot, 500)).unwrap();
        }
        assert_eq!(
            remove_older(dying(dir.path(), operations), 2).is_ok(),
            operations >= 4,
            "three files and the directory"
        );
        let first = 1 + operations.min(3) as u64;
        assert_eq!(list(dir.path()).unwrap(), (first..=5).map(Slot).collect::<Vec<_>>(), "{operations}");
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.snap")
}

#[test]
fn format_1_is_written_and_read_as_ever() {
    let dir = tempdir();
    write_one(dir.path(), 0x1234, &payload(9, 1_000)).unwrap();
    let (now, then) = (std::fs::read(path(dir.path(), 0x1234)).unwrap(), std::fs::read(golden()).unwrap());
    assert_eq!(now.iter().zip(&then).position(|(now, then)| now != then), None, "the format changed at this offset");
    assert!(then.len() <= now.len() && now[then.len()..].iter().all(|byte| *byte == 0), "but for zeros at the end");
    std::fs::remove_file(path(dir.path(), 0x1234)).unwrap();
    let mut whole = then;
    whole.resize(now.len(), 0);
    std::fs::write(path(dir.path(), 0x1234), whole).unwrap();
    assert!(body_of(dir.path(), 0x1234) == payload(9, 1_000));
}

/// Writes the golden file: once for each format. `cargo test -p synod-wal --test snapshot write_golden -- --ignored`.
#[test]
#[ignore = "writes a file of the repository"]
fn write_golden() {
    assert!(!golden().exists(), "a golden file is never written again");
    let dir = tempdir();
    write_one(dir.path(), 0x1234, &payload(9, 1_000)).unwrap();
    let mut image = std::fs::read(path(dir.path(), 0x1234)).unwrap();
    image.truncate(HEADER_BYTES as usize + 1_000);
    std::fs::write(golden(), image).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100)))]

    /// Any bytes, any field with true checksums, and any length: what comes out is what was written, or an error value.
    #[test]
    fn any_bytes_under_a_snapshots_name_are_read_or_refused(
        at in 0..64usize,
        with in any::<[u8; 8]>(),
        true_crc in any::<bool>(),
        bytes in prop_oneof![Just(None), (0..80_000u64).prop_map(Some)],
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempdir();
        let body = payload(5, 20_000);
        write_one(dir.path(), 5, &body).unwrap();
        let mut image = std::fs::read(path(dir.path(), 5)).unwrap();
        let end = (at + 8).min(64);
        image[at..end].copy_from_slice(&with[..end - at]);
        if true_crc {
            let crc = checksum(&image[4..64]);
            image[..4].copy_from_slice(&crc.to_le_bytes());
        }
        let (header, _) = SnapshotHeader::read_from_prefix(&image).unwrap();
        prop_assert_eq!(header.as_bytes(), &image[..64]);
        if let Some(bytes) = bytes {
            image.resize(bytes as usize, 0xa5);
        }
        std::fs::write(path(dir.path(), 5), &image).unwrap();
        match read(dir.path(), &EXPECT, Slot(5)) {
            Ok(found) => prop_assert!(found.body == body),
            Err(LogError::BadSnapshot { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        std::fs::write(path(dir.path(), 6), &noise).unwrap();
        let refused = matches!(read(dir.path(), &EXPECT, Slot(6)), Err(LogError::BadSnapshot { .. }));
        prop_assert!(refused);
    }
}
