//! What has come so far of a snapshot that another node sends: one file in the log's directory, in blocks that each tell whether
//! they are whole, so that nothing is synced on the way and a restart goes on where they end. Called by housekeeping; blocking.
//!
//! # The file (format 1)
//!
//! `{slot:016x}-{crc:08x}.part`: block k lies at k times [`BLOCK_BYTES`], and starts with a [`PartHeader`], whose checksum is over the
//! rest of the block; zeros follow up to [`HEAD_BYTES`], then [`DATA_BYTES`] of the state, the last block's filled up with zeros.
//! The blocks that count are those from the first on that are whole and of this state. That each is whole says nothing of who sent
//! it: the whole is held to the checksum that names it before it is used.

use crate::directory::{list_partials, open_direct, partial_name, sync_dir};
use crate::{Dir, LogError};
use std::io;
use synod_ring::{Arena, BlockFile, give_way};
use synod_wire::Slot;
use synod_wire::frame::{VERSION, checksum};
use synod_wire::record::{PART_MAGIC, PartHeader};
use zerocopy::{FromBytes, IntoBytes};

/// A block: one of any device that a log may lie on.
pub const BLOCK_BYTES: usize = crate::MAX_BLOCK_BYTES as usize;
/// What its header takes.
pub const HEAD_BYTES: usize = 1 << 10;
/// Bytes of the state in one.
pub const DATA_BYTES: usize = BLOCK_BYTES - HEAD_BYTES;
/// Blocks that are written at once, at most.
pub const MAX_BLOCKS: usize = 16;
/// Blocks that are read at once: a log write on the same disk waits no longer than for these.
const READ_BLOCKS: u64 = 4;

/// The state of a slot: two with the same are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The last slot that it has.
    pub slot: Slot,
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub crc: u32,
}

impl Whole {
    fn name(&self) -> String {
        partial_name(self.slot.0, self.crc)
    }
}

/// The state that is on its way here, as far as its first block tells; of several that of the highest slot.
pub fn begun(dir: impl Into<Dir>) -> Result<Option<Whole>, LogError> {
    let dir = dir.into();
    for name in list_partials(&dir)?.iter().rev() {
        if let Some(whole) = whole_of(&dir, name)? {
            return Ok(Some(whole));
        }
    }
    Ok(None)
}

/// What the first block of a file says that it is a part of. None: that is not whole, or of another name.
fn whole_of(dir: &Dir, name: &str) -> Result<Option<Whole>, LogError> {
    let path = dir.path().join(name);
    let file = open_direct(dir, name, false)?;
    let mut arena = Arena::new(BLOCK_BYTES).map_err(LogError::file("map a buffer to read", &path))?;
    if !read_at(&*file, arena.get_mut(0, BLOCK_BYTES), 0).map_err(LogError::file("read", &path))? {
        return Ok(None);
    }
    let block = arena.get(0, BLOCK_BYTES);
    let Ok((header, _)) = PartHeader::read_from_prefix(block) else { return Ok(None) };
    let (slot, bytes, crc) = (Slot(header.slot.get()), header.state_bytes.get(), header.state_crc.get());
    let whole = Whole { slot, bytes, crc };
    Ok(Some(whole).filter(|whole| whole.name() == name && is_part(block, whole, 0)))
}

/// How many bytes of it are there. The parts of all others are removed: there is one at a time.
pub fn resume(dir: impl Into<Dir>, whole: &Whole) -> Result<u64, LogError> {
    let dir = dir.into();
    let mut found = false;
    for name in list_partials(&dir)? {
        if name == whole.name() {
            found = true;
        } else {
            dir.remove(&name).map_err(LogError::file("remove", &dir.path().join(&name)))?;
        }
    }
    if !found {
        open_direct(&dir, &whole.name(), true)?;
        sync_dir(&dir)?;
        return Ok(0);
    }
    Ok(read_some(&dir, whole)?.len() as u64)
}

/// Writes what comes next: `data` of the state from `offset` on, a multiple of [`DATA_BYTES`]; whole blocks but for the state's end,
/// [`MAX_BLOCKS`] at most.
pub fn store(dir: impl Into<Dir>, whole: &Whole, offset: u64, data: &[u8]) -> Result<(), LogError> {
    let dir = dir.into();
    let path = dir.path().join(whole.name());
    assert!(offset.is_multiple_of(DATA_BYTES as u64) && data.len() <= MAX_BLOCKS * DATA_BYTES, "whole blocks");
    let blocks = data.len().div_ceil(DATA_BYTES);
    let first = offset / DATA_BYTES as u64;
    let mut arena = Arena::new(MAX_BLOCKS * BLOCK_BYTES).map_err(LogError::file("map a buffer to write", &path))?;
    for (number, part) in data.chunks(DATA_BYTES).enumerate() {
        let block = arena.get_mut(number * BLOCK_BYTES, BLOCK_BYTES);
        block.fill(0);
        block[HEAD_BYTES..HEAD_BYTES + part.len()].copy_from_slice(part);
        let header = PartHeader {
            crc: 0.into(),
            state_crc: whole.crc.into(),
            magic: PART_MAGIC,
            version: VERSION,
            reserved: [0; 3],
            slot: whole.slot.0.into(),
            state_bytes: whole.bytes.into(),
            number: (first + number as u64).into(),
        };
        block[..size_of::<PartHeader>()].copy_from_slice(header.as_bytes());
        let crc = checksum(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
    }
    let file = open_direct(&dir, &whole.name(), false)?;
    let bytes = arena.get(0, blocks * BLOCK_BYTES);
    file.write_at(bytes, first * BLOCK_BYTES as u64).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => LogError::NoSpace { path: path.clone(), bytes: bytes.len() as u64 },
        _ => LogError::file("write", &path)(source),
    })
}

/// The state, as far as it is there in whole blocks from its start on. Whether it has its checksum is for the caller to see.
pub fn read(dir: impl Into<Dir>, whole: &Whole) -> Result<Vec<u8>, LogError> {
    read_some(&dir.into(), whole)
}

fn read_some(dir: &Dir, whole: &Whole) -> Result<Vec<u8>, LogError> {
    let path = dir.path().join(whole.name());
    let file = open_direct(dir, &whole.name(), false)?;
    let mut arena =
        Arena::new(READ_BLOCKS as usize * BLOCK_BYTES).map_err(LogError::file("map a buffer to read", &path))?;
    let held = file.len_bytes().map_err(LogError::file("stat", &path))? / BLOCK_BYTES as u64;
    let mut state = Vec::with_capacity(whole.bytes.min(held * DATA_BYTES as u64) as usize);
    while (state.len() as u64) < whole.bytes {
        let number = (state.len() / DATA_BYTES) as u64;
        let blocks = read_blocks(&*file, &mut arena, number, held).map_err(LogError::file("read", &path))?;
        let read = (number..).zip(arena.get(0, blocks as usize * BLOCK_BYTES).chunks(BLOCK_BYTES));
        let mut taken = 0;
        for (_, block) in read.take_while(|(number, block)| is_part(block, whole, *number)) {
            let left = (whole.bytes - state.len() as u64).min(DATA_BYTES as u64) as usize;
            state.extend_from_slice(&block[HEAD_BYTES..HEAD_BYTES + left]);
            taken += 1;
        }
        if taken < READ_BLOCKS {
            break;
        }
        give_way();
    }
    Ok(state)
}

/// Reads [`READ_BLOCKS`] blocks from `number` on, or as many as there are to be read; how many. The file has room for `held`.
fn read_blocks(file: &dyn BlockFile, arena: &mut Arena, number: u64, held: u64) -> io::Result<u64> {
    let blocks = READ_BLOCKS.min(held.saturating_sub(number));
    if blocks == 0 || read_at(file, arena.get_mut(0, blocks as usize * BLOCK_BYTES), number)? {
        return Ok(blocks);
    }
    for at in 0..blocks {
        if !read_at(file, arena.get_mut(at as usize * BLOCK_BYTES, BLOCK_BYTES), number + at)? {
            return Ok(at);
        }
    }
    Ok(blocks)
}

/// Whether the blocks from `number` on are there to be read.
fn read_at(file: &dyn BlockFile, out: &mut [u8], number: u64) -> io::Result<bool> {
    match file.read_at(out, number * BLOCK_BYTES as u64) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn is_part(block: &[u8], whole: &Whole, number: u64) -> bool {
    let Ok((header, _)) = PartHeader::read_from_prefix(block) else { return false };
    header.crc.get() == checksum(&block[4..])
        && (header.magic, header.version) == (PART_MAGIC, VERSION)
        && (header.slot.get(), header.state_bytes.get(), header.state_crc.get())
            == (whole.slot.0, whole.bytes, whole.crc)
        && header.number.get() == number
}

/// Removes what came of states up to this slot: they are of no use any more.
pub fn remove_upto(dir: impl Into<Dir>, slot: Slot) -> Result<(), LogError> {
    let dir = dir.into();
    for name in list_partials(&dir)? {
        if name <= partial_name(slot.0, u32::MAX) {
            dir.remove(&name).map_err(LogError::file("remove", &dir.path().join(&name)))?;
        }
    }
    Ok(())
}
