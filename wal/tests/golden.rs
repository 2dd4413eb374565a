//! Format 1, byte by byte: `golden/v1.seg` was written once (its trailing zeros are left out) and must be readable for ever.

mod common;

use common::*;
use std::path::{Path, PathBuf};
use synod_wal::STRIDE_BYTES;
use synod_wire::frame::Kind;
use synod_wire::{Ballot, Lsn, NodeId};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.seg")
}

/// Three flushes and an idle mark; the second flush has three records of different kinds and sizes.
fn write_log(dir: &Path) -> Vec<Kept> {
    let (mut log, mut disk) = fresh(dir, &settings());
    let mut kept = vec![founding()];
    let shapes =
        [(Kind::Promised, 0), (Kind::Accept, 777), (Kind::Learnt, 64), (Kind::Chosen, 32), (Kind::Repaired, 0)];
    for (index, (kind, bytes)) in shapes.into_iter().enumerate() {
        let lsn = log.last_lsn().0 + 1;
        let record = Kept { header: header(kind, lsn, 10 + lsn), payload: payload(lsn, bytes) };
        log.append(&record.header, &record.payload, None).unwrap();
        kept.push(record);
        if index == 0 || index == 3 {
            settle(&mut log, &mut disk);
        }
    }
    settle(&mut log, &mut disk);
    log.idle_mark(&mut disk, Ballot { round: 99, node: NodeId(5) });
    complete_one(&mut log, &mut disk);
    kept
}

fn trimmed(dir: &Path) -> Vec<u8> {
    let mut image = std::fs::read(&segments(dir)[0]).unwrap();
    assert_eq!(image.len() as u64, STRIDE_BYTES);
    while image.last() == Some(&0) {
        image.pop();
    }
    image
}

#[test]
fn format_1_is_written_as_ever() {
    let dir = tempdir();
    write_log(dir.path());
    let (now, then) = (trimmed(dir.path()), std::fs::read(golden()).unwrap());
    assert_eq!(now.len(), then.len());
    let first = now.iter().zip(&then).position(|(now, then)| now != then);
    assert_eq!(first, None, "the format changed at this offset: that needs a new version, and a reader for this one");
}

#[test]
fn format_1_is_read_as_ever() {
    let scratch = tempdir();
    let expected = write_log(scratch.path());
    let dir = tempdir();
    let path = dir.path().join("0000000000000000.seg");
    std::fs::copy(golden(), &path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(STRIDE_BYTES).unwrap();
    let (recovered, records) = recover_dir(dir.path(), &settings()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none());
    assert_eq!((recovered.last_lsn, recovered.records), (Lsn(6), 6));
    assert_eq!(recovered.promised, Ballot { round: 99, node: NodeId(5) });
    let places: Vec<u64> = records.iter().map(|(place, _)| place.pos).collect();
    assert_eq!(places, [4_096, 8_192, 12_288, 13_184, 13_312, 16_384]);
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), expected);
}

/// Writes the golden file: once for each format. `cargo test -p synod-wal --test golden write_golden -- --ignored`.
#[test]
#[ignore = "writes a file of the repository"]
fn write_golden() {
    assert!(!golden().exists(), "a golden file is never written again");
    let dir = tempdir();
    write_log(dir.path());
    std::fs::create_dir_all(golden().parent().unwrap()).unwrap();
    std::fs::write(golden(), trimmed(dir.path())).unwrap();
}
