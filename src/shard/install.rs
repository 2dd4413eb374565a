//! What housekeeping does for a snapshot that goes to another member or comes from one (`offers.rs`, `pull.rs`). Only the state
//! travels, which members have alike; the snapshot that is installed has that state and *this* node's facts.
//!
//! | of an installed snapshot | is |
//! |---|---|
//! | its state: slot, configuration, sessions, timestamps, trims, the machine | the other member's, byte for byte |
//! | its facts: promise, founding, marks, leases, durability | those of this node's newest snapshot, or of a log's beginning |
//! | where a recovery goes on in the log | where one from that snapshot would |
//! | its index | empty: it goes on behind the slot |
//!
//! So a recovery reads all of the log again that it would have read without, and no promise, no vote above the slot and no mark
//! of this node's can be lost by it.

use super::checkpoint::{Maker, remove_older};
use super::replay::Replay;
use crate::index::Index;
use synod_wal::partial::{self, Whole};
use synod_wal::{Dir, Expect, Identity, LogError, LogReader, Start, snapshot};
use synod_wire::frame::checksum;
use synod_wire::mutant::mutant;
use synod_wire::peer::CHUNK_BYTES;
use synod_wire::snapshot::{Head, State};
use synod_wire::{Lsn, NodeId, Slot};
use zerocopy::{FromBytes, IntoBytes};

/// A request.
#[derive(Debug)]
pub enum TransferJob {
    /// Which snapshots there are: reads them, and checks them.
    Describe(Dir),
    /// Read chunks for a member.
    Read(Dir, Chunks),
    /// Find out how much of a state is there, and let go of all others.
    Open(Dir, Whole),
    /// Keep what comes next, from this offset on.
    Store(Dir, Whole, u64, Vec<u8>),
    /// All is there: make a snapshot of it.
    Install(Dir, Whole),
}

/// Chunks that a member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Who.
    pub to: NodeId,
    /// Of which state.
    pub whole: Whole,
    /// The number of the first.
    pub first: u64,
    /// Bit i: the chunk `first + i`.
    pub wanted: u64,
}

/// An answer.
#[derive(Debug)]
pub enum TransferDone {
    /// Those that are whole, in the order of their slots.
    Described(Result<Vec<Whole>, LogError>),
    /// The bytes from the first chunk to the last.
    Read(Chunks, Result<Vec<u8>, LogError>),
    /// Bytes of it that are there.
    Opened(Whole, Result<u64, LogError>),
    /// It is kept; here is its buffer.
    Stored(Whole, Result<Vec<u8>, LogError>),
    /// What became of it.
    Installed(Whole, Result<Installed, LogError>),
}

/// What an installation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The snapshot is durable.
    Written,
    /// This node's own are as new.
    NotNewer,
    /// It is not what it was said to be, and was thrown away: why.
    Refused(&'static str),
}

/// Carries out a request.
pub(super) fn perform(job: TransferJob, maker: &Maker) -> TransferDone {
    match job {
        TransferJob::Describe(dir) => TransferDone::Described(describe(&dir, maker)),
        TransferJob::Read(dir, chunks) => TransferDone::Read(chunks, read(&dir, &chunks)),
        TransferJob::Open(dir, whole) => TransferDone::Opened(whole, partial::resume(dir, &whole)),
        TransferJob::Store(dir, whole, offset, data) => {
            let stored = partial::store(dir, &whole, offset, &data);
            TransferDone::Stored(whole, stored.map(|()| data))
        }
        TransferJob::Install(dir, whole) => TransferDone::Installed(whole, install(&dir, &whole, maker)),
    }
}

fn describe(dir: &Dir, maker: &Maker) -> Result<Vec<Whole>, LogError> {
    let mut found = Vec::new();
    for slot in snapshot::list(dir)? {
        // One that is damaged is not offered; recovery tells of it.
        let Ok(read) = snapshot::read(dir, &maker.expect, slot) else { continue };
        let Ok((state, _)) = synod_wire::snapshot::parts(&read.body) else { continue };
        found.push(Whole { slot, bytes: state.len() as u64, crc: checksum(state) });
    }
    Ok(found)
}

/// Bytes from the first wanted chunk's place to the last one's end.
fn read(dir: &Dir, chunks: &Chunks) -> Result<Vec<u8>, LogError> {
    let begin = chunks.first * CHUNK_BYTES as u64;
    let last = chunks.first + u64::from(u64::BITS - 1 - chunks.wanted.leading_zeros());
    let end = ((last + 1) * CHUNK_BYTES as u64).min(chunks.whole.bytes);
    snapshot::read_part(dir, chunks.whole.slot, size_of::<Head>() as u64 + begin, (end - begin) as usize)
}

fn install(dir: &Dir, whole: &Whole, maker: &Maker) -> Result<Installed, LogError> {
    let (own, start) = super::recovery::begin(dir, maker)?;
    if own.slots.applied() >= whole.slot {
        partial::remove_upto(dir, whole.slot)?;
        return Ok(Installed::NotNewer);
    }
    let state = partial::read(dir, whole)?;
    if let Err(reason) = check(&state, whole, maker) {
        partial::remove_upto(dir, whole.slot)?;
        return Ok(Installed::Refused(reason));
    }
    let start = match start {
        Start::Beginning => (0, Lsn(1)),
        Start::At { segment, first_lsn } => (segment, first_lsn),
    };
    let facts = own.facts(start, own.restart.promised, &Index::starting_after(whole.slot));
    let head = Head { state_bytes: whole.bytes.into(), facts_bytes: (facts.len() as u64).into() };
    let body = [head.as_bytes(), &state, &facts].concat();
    let reader = LogReader::open(dir)?;
    // One that is there already is of no use, or this node would begin with it.
    if snapshot::list(dir)?.contains(&whole.slot) {
        snapshot::remove(dir, whole.slot)?;
    }
    snapshot::write(dir, reader.identity(), whole.slot, &body, &mut || {})?;
    partial::remove_upto(dir, whole.slot)?;
    remove_older(dir, None)?;
    Ok(Installed::Written)
}

/// The first slot that a log has for good. Below it the front was removed, or a snapshot of another member's stands for what this one
/// never got: what the log has there is what it once accepted, chosen or not.
pub fn first_own_slot(dir: &Dir, reader: &LogReader) -> Result<Slot, LogError> {
    let Identity { cluster, group, node, .. } = *reader.identity();
    let expect = Expect { cluster, group, node };
    for slot in snapshot::list(dir)?.into_iter().rev() {
        // One that is damaged says nothing; the one before it does.
        let Ok(read) = snapshot::read(dir, &expect, slot) else { continue };
        let Ok((_, rows)) = synod_wire::snapshot::facts_of(&read.body) else { continue };
        return Ok(rows.blocks.first().map_or(slot.next(), |block| Slot(block.first_slot.get())));
    }
    Ok(Slot(1))
}

/// Whether it is what it was said to be, and of use here.
fn check(state: &[u8], whole: &Whole, maker: &Maker) -> Result<(), &'static str> {
    let is_whole = checksum(state) == whole.crc || mutant("chunk_checksum_skipped");
    if state.len() as u64 != whole.bytes || !is_whole {
        return Err("the whole does not have its checksum");
    }
    if State::ref_from_prefix(state).map(|(state, _)| Slot(state.slot.get())) != Ok(whole.slot) {
        return Err("it is of another slot");
    }
    let mut replay = Replay::new(&maker.paxos, (maker.make)());
    replay.restore_state(state).map_err(|malformed| malformed.0)?;
    match replay.bad {
        Some(_) => Err("it is of a group with other members or quorums"),
        None => Ok(()),
    }
}
