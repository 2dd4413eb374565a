//! A disk between the log and real files: it keeps writes until a test completes them, and can crash.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]

pub mod dying;

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_ring::{BlockFile, Event, FILE_SLOTS, FileSlot, Io, IoError, RxBuf, Slice};
use synod_wal::{Expect, Identity, Log, LogError, Place, Recovered, STRIDE_BYTES, Settings, Start, format, recover};
use synod_wire::frame::{Frame, Header, Kind};
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};

/// A sector is what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A write that the log started and that did not complete yet.
pub struct Pending {
    pub token: u64,
    pub slot: usize,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// What a crash makes of a pending write.
#[derive(Clone, Debug)]
pub enum Fate {
    Dropped,
    Applied,
    /// Each sector whose bit is set (repeating) reached the disk.
    Torn(Vec<bool>),
}

/// See the module.
#[derive(Default)]
pub struct TestDisk {
    files: Vec<Option<File>>,
    pub pending: Vec<Pending>,
}

impl TestDisk {
    pub fn new() -> TestDisk {
        TestDisk { files: (0..FILE_SLOTS).map(|_| None).collect(), pending: Vec::new() }
    }

    fn put(&self, write: &Pending, from: usize, to: usize) {
        let file = self.files[write.slot].as_ref().expect("a write to a slot without a file");
        file.write_all_at(&write.bytes[from..to], write.offset + from as u64).unwrap();
    }

    /// Completes the pending write at `index` (in the order they were started).
    pub fn complete(&mut self, index: usize) -> (u64, Result<usize, i32>) {
        let write = self.pending.remove(index);
        self.put(&write, 0, write.bytes.len());
        (write.token, Ok(write.bytes.len()))
    }

    /// Completes only the first `bytes` of a pending write.
    pub fn complete_part(&mut self, index: usize, bytes: usize) -> (u64, Result<usize, i32>) {
        let write = self.pending.remove(index);
        self.put(&write, 0, bytes);
        (write.token, Ok(bytes))
    }

    /// The power goes: each pending write meets its fate.
    pub fn crash(self, fates: &[Fate]) {
        for (index, write) in self.pending.iter().enumerate() {
            match &fates[index % fates.len()] {
                Fate::Dropped => {}
                Fate::Applied => self.put(write, 0, write.bytes.len()),
                Fate::Torn(mask) => {
                    for (sector, from) in (0..write.bytes.len()).step_by(SECTOR_BYTES).enumerate() {
                        if mask[sector % mask.len()] {
                            self.put(write, from, from + SECTOR_BYTES);
                        }
                    }
                }
            }
        }
    }
}

impl Io for TestDisk {
    type Job = ();
    type Done = ();

    fn poll(&mut self, _: u64, _: bool, _: &mut Vec<Event<()>>) -> Result<(), IoError> {
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn datagram(&self, _: &RxBuf) -> &[u8] {
        unreachable!("a log receives nothing")
    }

    fn release(&mut self, _: RxBuf) {
        unreachable!("a log receives nothing")
    }

    fn send_peer(&mut self, _: usize, _: Slice<'_>) {
        unreachable!("a log sends nothing")
    }

    fn send_client(&mut self, _: SocketAddrV4, _: Slice<'_>) {
        unreachable!("a log sends nothing")
    }

    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        assert!(self.pending.iter().all(|write| write.slot != usize::from(slot.0)), "replaced under a write");
        // Opened again without O_DIRECT, so that single sectors can be written.
        let path = format!("/proc/self/fd/{}", file.descriptor().unwrap().as_raw_fd());
        let file = File::options().write(true).open(path).unwrap();
        self.files[usize::from(slot.0)] = Some(file);
        Ok(())
    }

    fn write(&mut self, slot: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
        let bytes = bytes.bytes().to_vec();
        assert!(
            offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096),
            "a direct write must be of whole blocks"
        );
        assert!(offset / STRIDE_BYTES == (offset + bytes.len() as u64 - 1) / STRIDE_BYTES, "a write crosses a stride");
        self.pending.push(Pending { token, slot: usize::from(slot.0), offset, bytes });
    }

    fn request(&mut self, _: ()) -> Result<(), ()> {
        unreachable!("a log asks through its owner")
    }
}

pub const IDENTITY: Identity =
    Identity { cluster: ClusterId(0xc0ffee), group: GroupId(3), node: NodeId(2), incarnation: 77 };
pub const EXPECT: Expect = Expect { cluster: IDENTITY.cluster, group: IDENTITY.group, node: IDENTITY.node };

pub fn settings() -> Settings {
    Settings {
        segment_bytes: STRIDE_BYTES,
        stride_bytes: STRIDE_BYTES,
        arena_bytes: 2 * STRIDE_BYTES as usize,
        max_in_flight: 1,
        adapts: false,
        max_flush_bytes: 256 << 10,
    }
}

pub fn header(kind: Kind, lsn: u64, round: u64) -> Header {
    let ballot = Ballot { round, node: NodeId(1) };
    Header {
        kind,
        flags: 0,
        from: IDENTITY.node,
        group: IDENTITY.group,
        cluster: IDENTITY.cluster,
        epoch: Epoch(1),
        slot: Slot(lsn * 3),
        ballot,
        promised: ballot,
        lsn: Lsn(lsn),
    }
}

/// Cases of a property test: as many as PROPTEST_CASES says (for nights), or `by_default`.
pub fn cases(by_default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().map_or(by_default, |text| text.parse().expect("PROPTEST_CASES is a number"))
}

/// Where SYNOD_TEST_DIR says (a real disk), or in memory if the host has such a place: a test recovers many times.
pub fn tempdir() -> tempfile::TempDir {
    let chosen = std::env::var_os("SYNOD_TEST_DIR").map(PathBuf::from);
    let place = chosen.unwrap_or_else(|| PathBuf::from("/dev/shm"));
    if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() }.unwrap()
}

/// A record as a test remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub header: Header,
    pub payload: Vec<u8>,
}

pub const FOUNDING: &[u8] = b"the founding configuration";

pub fn founding() -> Kept {
    Kept { header: header(Kind::Configuration, 1, 0), payload: FOUNDING.to_vec() }
}

pub fn format_dir(dir: &Path) {
    format(dir, &IDENTITY, (&founding().header, FOUNDING), &settings()).unwrap();
}

/// Recovers; also the records, with their places.
pub fn recover_dir(dir: &Path, settings: &Settings) -> Result<(Recovered, Vec<(Place, Kept)>), LogError> {
    recover_from(dir, settings, Start::Beginning)
}

/// The same from a later segment on.
pub fn recover_from(dir: &Path, settings: &Settings, from: Start) -> Result<(Recovered, Vec<(Place, Kept)>), LogError> {
    let mut records = Vec::new();
    let recovered = recover(dir, &EXPECT, settings, from, &mut |place: Place, frame: &Frame<'_>| {
        records.push((place, Kept { header: frame.header, payload: frame.payload.to_vec() }));
    })?;
    Ok((recovered, records))
}

/// A formatted, recovered and attached log.
pub fn fresh(dir: &Path, settings: &Settings) -> (Log, TestDisk) {
    format_dir(dir);
    let (recovered, records) = recover_dir(dir, settings).unwrap();
    assert_eq!(records.into_iter().map(|(_, kept)| kept).collect::<Vec<_>>(), [founding()]);
    attached(recovered)
}

pub fn attached(recovered: Recovered) -> (Log, TestDisk) {
    let (mut log, mut disk) = (recovered.log, TestDisk::new());
    log.attach_segments(&mut disk).unwrap();
    (log, disk)
}

/// Prepares segments that the log asks for.
pub fn housekeep(log: &mut Log, disk: &mut TestDisk) {
    if let Some(spec) = log.wants_segment() {
        log.segment_ready(disk, spec.prepare().unwrap()).unwrap();
    }
}

/// Completes the oldest write and gives it to the log.
pub fn complete_one(log: &mut Log, disk: &mut TestDisk) -> Option<Lsn> {
    let (token, result) = disk.complete(0);
    log.written(disk, token, result).unwrap()
}

/// Ends a turn and completes all writes.
pub fn settle(log: &mut Log, disk: &mut TestDisk) {
    housekeep(log, disk);
    log.flush(disk, Ballot::ZERO);
    while !disk.pending.is_empty() {
        complete_one(log, disk);
        log.flush(disk, Ballot::ZERO);
    }
    assert_eq!(log.durable_lsn(), log.last_lsn());
}

/// Payload bytes that tell one record from another.
pub fn payload(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Appends a record with a payload of `bytes` bytes; it must find room.
pub fn push(log: &mut Log, kept: &mut Vec<Kept>, bytes: usize) -> Place {
    let lsn = log.last_lsn().0 + 1;
    let record = Kept { header: header(Kind::Accept, lsn, lsn), payload: payload(lsn, bytes) };
    let place = log.append(&record.header, &record.payload, None).expect("room");
    kept.push(record);
    place
}

/// The segment files, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    paths
}

/// Changes bytes of a segment file.
pub fn poke(path: &Path, offset: u64, change: impl FnOnce(&mut Vec<u8>), bytes: usize) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, offset).unwrap();
    change(&mut buffer);
    file.write_all_at(&buffer, offset).unwrap();
}

/// Each Lsn up to the last is a record or damage, never both.
pub fn account(recovered: &Recovered, records: &[(Place, Kept)]) {
    let mut all: Vec<u64> = records.iter().map(|(_, kept)| kept.header.lsn.0).collect();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "records out of order: {all:?}");
    for damage in &recovered.damage {
        all.extend(damage.first_lsn.0..damage.last_lsn.0 + 1);
        let named =
            damage.named.iter().all(|entry| (damage.first_lsn.0..=damage.last_lsn.0).contains(&entry.lsn.get()));
        assert!(named, "{damage:?}");
        assert_eq!(damage.complete, damage.named.len() as u64 == damage.lost(), "{damage:?}");
    }
    all.sort();
    assert!(all.iter().copied().eq(1..=recovered.last_lsn.0), "not each Lsn once: {all:?}, {:?}", recovered.damage);
}
