//! Snapshots: files in the log's directory, each of which stands for the log up to a slot. What is in them is the caller's matter; here
//! they are written, named and read so that each is whole or is not there. Called on start and by housekeeping; blocking.
//!
//! # The file (format 1)
//!
//! | at | what |
//! |---|---|
//! | 0 | [`SnapshotHeader`], with the checksums of itself and of the body; zeros up to [`HEADER_BYTES`] |
//! | [`HEADER_BYTES`] | the body; zeros up to a multiple of [`HEADER_BYTES`] |
//!
//! It is written as `{slot:016x}.snap.tmp`, synced, renamed to `{slot:016x}.snap` (which replaces nothing), and the directory synced.
//! So a crash leaves all the snapshots that were there, and the new one whole or not at all; what is left of its preparation is
//! removed by recovery, or overwritten. Rot is told by the checksums: then the caller goes back to the snapshot before, whose log it
//! therefore keeps.

use crate::directory::{block_bytes, list as list_files, open_direct, snapshot_name, sync_dir};
use crate::{Dir, Expect, Identity, LogError, MAX_BLOCK_BYTES, long};
use std::io;
use std::path::{Path, PathBuf};
use synod_ring::{Arena, BlockFile, give_way};
use synod_wire::Slot;
use synod_wire::frame::{VERSION, checksum, checksum_on};
use synod_wire::record::{SNAPSHOT_MAGIC, SnapshotHeader};
use zerocopy::{FromBytes, IntoBytes};

/// Where the body starts: a block of any device that a log may lie on, so that the file can move between them.
pub const HEADER_BYTES: u64 = MAX_BLOCK_BYTES as u64;
/// What is written or read at once; the caller may pause in between.
pub const PIECE_BYTES: usize = 64 << 10;

/// A snapshot as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The incarnation of the log that it stands for: to be compared with that of the log, which may be another one's.
    pub incarnation: u64,
    /// What the caller had written.
    pub body: Vec<u8>,
}

/// Writes the snapshot of the log up to `slot`, durably. `between` is called after each piece, and may take its time. After an error
/// nothing is left under the snapshot's name; it may be tried again. A name that is taken is an error.
pub fn write(
    dir: impl Into<Dir>,
    identity: &Identity,
    slot: Slot,
    body: &[u8],
    between: &mut dyn FnMut(),
) -> Result<(), LogError> {
    let dir = dir.into();
    let name = snapshot_name(slot.0);
    let preparation = format!("{name}.tmp");
    let path = dir.path().join(&name);
    let filled = fill(&dir, &preparation, &header(identity, slot, body), body, between);
    if let Err(error) =
        filled.and_then(|()| dir.rename(&preparation, &name).map_err(LogError::file("name the snapshot", &path)))
    {
        // The first error is the one to report; a file that cannot be removed is overwritten by the next attempt.
        let _removed: bool = dir.remove(&preparation).is_ok();
        return Err(error);
    }
    sync_dir(&dir)
}

fn header(identity: &Identity, slot: Slot, body: &[u8]) -> SnapshotHeader {
    let mut header = SnapshotHeader {
        header_crc: 0.into(),
        body_crc: long::checksum(body).into(),
        magic: SNAPSHOT_MAGIC,
        version: VERSION,
        group: identity.group.0,
        node: identity.node.0,
        reserved: 0,
        cluster: identity.cluster.0.into(),
        incarnation: identity.incarnation.into(),
        slot: slot.0.into(),
        body_bytes: (body.len() as u64).into(),
        reserved_end: [0; 16],
    };
    header.header_crc = header_crc(&header).into();
    header
}

fn header_crc(header: &SnapshotHeader) -> u32 {
    checksum(&header.as_bytes()[4..])
}

/// The whole file's bytes, for a body of so many.
fn file_bytes(body_bytes: u64) -> Option<u64> {
    body_bytes.checked_next_multiple_of(HEADER_BYTES)?.checked_add(HEADER_BYTES)
}

fn fill(
    dir: &Dir,
    name: &str,
    header: &SnapshotHeader,
    body: &[u8],
    between: &mut dyn FnMut(),
) -> Result<(), LogError> {
    let path = dir.path().join(name);
    let bytes = file_bytes(body.len() as u64).expect("a body in memory");
    let free = dir.free_bytes().map_err(LogError::file("statvfs", dir.path()))?;
    let no_space = || LogError::NoSpace { path: path.clone(), bytes };
    if free < bytes {
        return Err(no_space());
    }
    let file = open_direct(dir, name, true)?;
    // Refuses a device with larger blocks than any log may have.
    block_bytes(&*file, &path)?;
    let put = |offset: u64, from: &[u8]| file.write_at(from, offset);
    let written = in_pieces(header, body, &path, between, put)?;
    written.and_then(|()| file.sync()).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => no_space(),
        _ => LogError::file("write the snapshot", &path)(source),
    })
}

/// Gives `put` the header's block and the body, in whole blocks of at most a piece.
fn in_pieces(
    header: &SnapshotHeader,
    body: &[u8],
    path: &Path,
    between: &mut dyn FnMut(),
    put: impl Fn(u64, &[u8]) -> io::Result<()>,
) -> Result<io::Result<()>, LogError> {
    let mut piece = Arena::new(PIECE_BYTES).map_err(LogError::file("map a buffer to write", path))?;
    let first = piece.get_mut(0, HEADER_BYTES as usize);
    first.fill(0);
    first[..size_of::<SnapshotHeader>()].copy_from_slice(header.as_bytes());
    let mut written = put(0, piece.get(0, HEADER_BYTES as usize));
    for (number, part) in body.chunks(PIECE_BYTES).enumerate() {
        if written.is_err() {
            break;
        }
        let bytes = part.len().next_multiple_of(HEADER_BYTES as usize);
        let out = piece.get_mut(0, bytes);
        out[..part.len()].copy_from_slice(part);
        out[part.len()..].fill(0);
        written = put(HEADER_BYTES + (number * PIECE_BYTES) as u64, piece.get(0, bytes));
        give_way();
        between();
    }
    Ok(written)
}

/// The slots of the snapshots in `dir`, in order. Whether they are whole is told by reading them.
pub fn list(dir: impl Into<Dir>) -> Result<Vec<Slot>, LogError> {
    Ok(list_files(&dir.into())?.snapshots.into_iter().map(Slot).collect())
}

/// The snapshot at `slot`, which must be of the expected node; whole, or [`LogError::BadSnapshot`].
pub fn read(dir: impl Into<Dir>, expect: &Expect, slot: Slot) -> Result<Snapshot, LogError> {
    let dir = dir.into();
    let name = snapshot_name(slot.0);
    let path = dir.path().join(&name);
    let file = open_direct(&dir, &name, false)?;
    let bytes = file.len_bytes().map_err(LogError::file("stat", &path))?;
    let bad = |what: String| LogError::BadSnapshot { path: path.clone(), what };
    let mut piece = Arena::new(PIECE_BYTES).map_err(LogError::file("map a buffer to read", &path))?;
    let first = take(&*file, &mut piece, 0, HEADER_BYTES as usize, &path)?;
    let header = parse(first, expect, slot, bytes).map_err(bad)?;
    let body_bytes = header.body_bytes.get() as usize;
    let mut body = Vec::new();
    body.try_reserve_exact(body_bytes)
        .map_err(|error| bad(format!("{body_bytes} bytes do not fit memory: {error}")))?;
    let mut crc = 0;
    while body.len() < body_bytes {
        let left = (body_bytes - body.len()).min(PIECE_BYTES);
        let offset = HEADER_BYTES + body.len() as u64;
        let part = take(&*file, &mut piece, offset, left.next_multiple_of(HEADER_BYTES as usize), &path)?;
        crc = checksum_on(crc, &part[..left]);
        body.extend_from_slice(&part[..left]);
        give_way();
    }
    if crc != header.body_crc.get() {
        return Err(bad("its body does not have the checksum that its header names".into()));
    }
    Ok(Snapshot { incarnation: header.incarnation.get(), body })
}

/// Bytes of the body from `offset` on, `bytes` of them, of the snapshot at `slot`: what lies there, whatever its checksum; for a
/// receiver that holds the whole to it.
pub fn read_part(dir: impl Into<Dir>, slot: Slot, offset: u64, bytes: usize) -> Result<Vec<u8>, LogError> {
    let dir = dir.into();
    let name = snapshot_name(slot.0);
    let path = dir.path().join(&name);
    let file = open_direct(&dir, &name, false)?;
    let first = offset / HEADER_BYTES * HEADER_BYTES;
    let before = (offset - first) as usize;
    let whole = (before + bytes).next_multiple_of(HEADER_BYTES as usize);
    let mut piece = Arena::new(whole).map_err(LogError::file("map a buffer to read", &path))?;
    let read = take(&*file, &mut piece, HEADER_BYTES + first, whole, &path)?;
    Ok(read[before..before + bytes].to_vec())
}

/// Reads `bytes` at `offset`. What cannot be read is a snapshot that is not whole.
fn take<'a>(
    file: &dyn BlockFile,
    piece: &'a mut Arena,
    offset: u64,
    bytes: usize,
    path: &Path,
) -> Result<&'a [u8], LogError> {
    match file.read_at(piece.get_mut(0, bytes), offset) {
        Ok(()) => Ok(piece.get(0, bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO) => {
            Err(LogError::BadSnapshot { path: path.to_path_buf(), what: format!("offset {offset}: {error}") })
        }
        Err(error) => Err(LogError::file("read", path)(error)),
    }
}

/// The header in a snapshot's first block, if it is whole, of this log and slot, and of a file of `bytes` bytes; else what is wrong.
fn parse(block: &[u8], expect: &Expect, slot: Slot, bytes: u64) -> Result<SnapshotHeader, String> {
    let (header, _) = SnapshotHeader::read_from_prefix(block).map_err(|_| "it is shorter than a header".to_string())?;
    if header.magic != SNAPSHOT_MAGIC || header_crc(&header) != header.header_crc.get() {
        return Err("its header is not whole".into());
    }
    if header.version != VERSION {
        return Err(format!("it has format {}, this program reads format {VERSION}", header.version));
    }
    let pairs = [
        ("cluster", u64::from(header.cluster.get()), u64::from(expect.cluster.0)),
        ("group", u64::from(header.group), u64::from(expect.group.0)),
        ("node", u64::from(header.node), u64::from(expect.node.0)),
        ("slot", header.slot.get(), slot.0),
    ];
    if let Some((field, found, expected)) = pairs.into_iter().find(|(_, found, expected)| found != expected) {
        return Err(format!("it has {field} {found}, expected {expected}"));
    }
    match file_bytes(header.body_bytes.get()) {
        Some(whole) if whole == bytes => Ok(header),
        _ => Err(format!("it has {bytes} bytes, which a body of {} does not give", header.body_bytes)),
    }
}

/// The file of the snapshot at `slot`.
pub fn path(dir: impl Into<Dir>, slot: Slot) -> PathBuf {
    dir.into().path().join(snapshot_name(slot.0))
}

/// Removes the snapshot at `slot`, durably: one that is of no use, so that its name is free again.
pub fn remove(dir: impl Into<Dir>, slot: Slot) -> Result<(), LogError> {
    let dir = dir.into();
    let name = snapshot_name(slot.0);
    dir.remove(&name).map_err(LogError::file("remove", &dir.path().join(&name)))?;
    sync_dir(&dir)
}

/// Removes the snapshots but the `keep` newest, the oldest first, durably; how many. The caller has read one of those that stay.
pub fn remove_older(dir: impl Into<Dir>, keep: usize) -> Result<usize, LogError> {
    let dir = dir.into();
    let all = list_files(&dir)?.snapshots;
    let old = &all[..all.len().saturating_sub(keep)];
    for slot in old {
        let name = snapshot_name(*slot);
        dir.remove(&name).map_err(LogError::file("remove", &dir.path().join(&name)))?;
    }
    if !old.is_empty() {
        sync_dir(&dir)?;
    }
    Ok(old.len())
}
