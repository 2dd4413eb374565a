//! Any bytes at all under the name of a segment: read, reported, recovered or refused, never a panic. The cases in `corpus/` are
//! beginnings of a segment's file; the rest of it is zeros.

mod common;

use common::*;
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use synod_wal::{LogReader, STRIDE_BYTES, Settings};
use synod_wire::frame::{self, Header, Kind};
use synod_wire::record::{SegmentHeader, Trailer, TrailerEntry};
use synod_wire::{Ballot, ClusterId, Epoch, Lsn, NodeId, Slot};
use zerocopy::IntoBytes;

/// Reads and recovers; whatever comes out must be in order, and a second recovery must find what the first left.
fn survive(dir: &Path) {
    if let Ok(mut reader) = LogReader::open_offline(dir) {
        reader.scan(0, None, &mut |_| ControlFlow::Continue(())).unwrap();
        for from in [0, 4_096, 4_160, 8_192, STRIDE_BYTES - 64, STRIDE_BYTES] {
            reader.scan(from, Some(STRIDE_BYTES), &mut |_| ControlFlow::Continue(())).unwrap();
        }
    }
    let Ok((recovered, records)) = recover_dir(dir, &settings()) else { return };
    let lsns: Vec<u64> = records.iter().map(|(_, kept)| kept.header.lsn.0).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] < pair[1]));
    let last_lsn = recovered.last_lsn;
    let (mut log, mut disk) = attached(recovered);
    let mut appended = Vec::new();
    push(&mut log, &mut appended, 100);
    settle(&mut log, &mut disk);
    drop(log);
    let (again, mut found) = recover_dir(dir, &settings()).unwrap();
    assert!(again.torn.is_none(), "cut twice");
    assert_eq!(again.last_lsn, last_lsn.next());
    assert_eq!(found.pop().map(|(_, kept)| kept), appended.pop());
    assert_eq!(found, records);
}

fn valid(dir: &Path) {
    let (mut log, mut disk) = fresh(dir, &settings());
    let mut kept = vec![];
    for bytes in [100, 5_000, 0, 900, 12_000] {
        push(&mut log, &mut kept, bytes);
        push(&mut log, &mut kept, 64);
        settle(&mut log, &mut disk);
    }
}

/// A frame with true checksums and any fields: what random bytes never reach.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..20u64, Just(u64::MAX), Just(1 << 62), Just((1 << 62) - 1), any::<u64>()];
    let near = prop_oneof![(0..64u64).prop_map(|n| n * 4_096), number.clone()];
    let entries = prop::collection::vec((number.clone(), any::<u16>()), 0..5);
    let fields = (number.clone(), number, any::<u64>(), any::<bool>());
    (0..4u8, fields, near.clone(), near, entries, 0..6u16).prop_map(|(kind, fields, start, next, entries, count)| {
        let (lsn, slot, promised, ours) = fields;
        let kind = [Kind::Trailer, Kind::Accept, Kind::Segment, Kind::Prepare][usize::from(kind)];
        let header = Header {
            kind,
            flags: 0,
            from: NodeId(2),
            group: IDENTITY.group,
            cluster: if ours { IDENTITY.cluster } else { ClusterId(1) },
            epoch: Epoch(1),
            slot: Slot(slot),
            ballot: Ballot::ZERO,
            promised: Ballot::unpack(promised),
            lsn: Lsn(lsn),
        };
        let mut payload = match kind {
            Kind::Segment => {
                let sizes = SegmentHeader {
                    index: slot.into(),
                    segment_bytes: start.into(),
                    stride_bytes: STRIDE_BYTES.into(),
                    block_bytes: (next as u32).into(),
                    node: 2,
                    reserved: [0; 3],
                    incarnation: promised.into(),
                };
                sizes.as_bytes().to_vec()
            }
            _ => {
                let body = Trailer { start: start.into(), next: next.into(), entries: count.into(), reserved: [0; 6] };
                body.as_bytes().to_vec()
            }
        };
        for (lsn, length) in entries {
            let entry = TrailerEntry {
                lsn: lsn.into(),
                slot: slot.into(),
                ballot: promised.into(),
                header_crc: 1.into(),
                length: length.into(),
                kind: 1,
                reserved: 0,
            };
            payload.extend_from_slice(entry.as_bytes());
        }
        let mut frame = vec![0; frame::frame_bytes(payload.len())];
        frame::write_frame(&mut frame, &header, &payload);
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(150), max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_over_a_log(
        chunks in prop::collection::vec((0..30_000u64, prop::collection::vec(any::<u8>(), 1..3_000)), 1..6),
    ) {
        let dir = tempdir();
        valid(dir.path());
        let file = std::fs::File::options().write(true).open(&segments(dir.path())[0]).unwrap();
        for (offset, bytes) in chunks {
            file.write_all_at(&bytes, offset).unwrap();
        }
        survive(dir.path());
    }

    #[test]
    fn true_frames_with_any_fields(
        frames in prop::collection::vec((0..600u64, hostile_frame()), 1..12), header in any::<bool>(),
    ) {
        let dir = tempdir();
        valid(dir.path());
        let file = std::fs::File::options().write(true).open(&segments(dir.path())[0]).unwrap();
        for (line, frame) in frames {
            // The header's block only in some cases: most of those are refused at once.
            let line = if header { line } else { line + 64 };
            file.write_all_at(&frame, line * 64).unwrap();
        }
        survive(dir.path());
    }

    #[test]
    fn a_segment_of_nothing_but_random_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..9_000), length in prop_oneof![Just(STRIDE_BYTES), 0..20_000u64],
    ) {
        let dir = tempdir();
        let path = dir.path().join("0000000000000000.seg");
        std::fs::write(&path, &bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        survive(dir.path());
    }
}

#[test]
fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut cases = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let dir = tempdir();
        let target = dir.path().join("0000000000000000.seg");
        std::fs::copy(&path, &target).unwrap();
        std::fs::File::options().write(true).open(&target).unwrap().set_len(STRIDE_BYTES).unwrap();
        survive(dir.path());
        cases += 1;
    }
    assert!(cases >= 5, "the corpus is not where it should be");
}

/// Writes the corpus anew: `cargo test -p synod-wal --test fuzz write_the_corpus -- --ignored`.
#[test]
#[ignore = "writes files of the repository"]
fn write_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    let dir = tempdir();
    valid(dir.path());
    let image = std::fs::read(&segments(dir.path())[0]).unwrap();
    let used = image.len() - image.iter().rev().take_while(|byte| **byte == 0).count();
    let image = &image[..used.next_multiple_of(64)];
    let save = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = image.to_vec();
        change(&mut bytes);
        std::fs::write(corpus.join(name), bytes).unwrap();
    };
    let trailer = |lsn: u64, start: u64, next: u64, entries: u16| {
        let header = Header { lsn: Lsn(lsn), slot: Slot(lsn), ..header(Kind::Trailer, 1, 1) };
        let body = Trailer { start: start.into(), next: next.into(), entries: entries.into(), reserved: [0; 6] };
        let mut frame = vec![0; frame::frame_bytes(24)];
        frame::write_frame(&mut frame, &header, body.as_bytes());
        frame
    };
    let put = |bytes: &mut Vec<u8>, at: usize, frame: &[u8]| bytes[at..at + frame.len()].copy_from_slice(frame);
    save("trailer-of-the-last-lsn.seg", &|bytes| put(bytes, 8_192, &trailer(u64::MAX, 8_192, 12_288, 0)));
    save("trailer-that-skips-lsns.seg", &|bytes| put(bytes, 8_192, &trailer((1 << 62) - 1, 8_192, 12_288, 0)));
    save("trailer-of-more-entries-than-bytes.seg", &|bytes| put(bytes, 8_192, &trailer(3, 8_192, 12_288, 9)));
    save("trailer-that-leads-back.seg", &|bytes| put(bytes, 8_192, &trailer(1, 8_192, 4_096, 0)));
    save("trailer-within-a-record.seg", &|bytes| put(bytes, 12_288, &trailer(3, 8_192, 16_384, 0)));
    save("header-only.seg", &|bytes| bytes.truncate(4_096));
    save("half-a-header.seg", &|bytes| bytes.truncate(100));
    save("every-line-looks-like-a-trailer.seg", &|bytes| {
        for line in bytes[8_192..].chunks_mut(64) {
            line[16] = frame::VERSION;
            line[17] = Kind::Trailer as u8;
        }
    });
}

#[test]
fn larger_settings_do_not_change_what_is_read() {
    let dir = tempdir();
    valid(dir.path());
    let (_, records) = recover_dir(dir.path(), &settings()).unwrap();
    let larger = Settings { arena_bytes: 16 * STRIDE_BYTES as usize, max_in_flight: 8, ..settings() };
    assert_eq!(recover_dir(dir.path(), &larger).unwrap().1, records);
}
