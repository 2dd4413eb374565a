//! What housekeeping does for a snapshot that goes to another member or comes from one (`offers.rs`, `pull.rs`). Only the state
//! travels, which members have alike; the snapshot that is installed has that state and *this* node's facts.
//!
//! | of an installed snapshot | is |
//! |---|---|
//! | its state: slot, configuration, sessions, timestamps, trims, the machine | the other member's, byte for byte |
//! | its facts: promise, founding, marks, leases, durability | this node's: of its log up to where that was durable when the last chunk had come |
//! | where a recovery goes on in the log | in the segment with the lowest vote above the slot, or else the last: as from a snapshot of its own |
//! | its index | empty: it goes on behind the slot |
//!
//! So the log is read once for it, off the core, and no promise, no vote above the slot and no mark of this node's is lost by it. While
//! damage in the log is not made good, the facts are those of this node's newest snapshot, or of a log's beginning, and a recovery
//! reads from there all that it would have read without.

use super::checkpoint::{Maker, Shadow, remove_older};
use super::replay::Replay;
use crate::index::Index;
use synod_wal::partial::{self, Whole};
use synod_wal::{Dir, Expect, Identity, LogError, LogReader, long, snapshot};
use synod_wire::mutant::mutant;
use synod_wire::peer::CHUNK_BYTES;
use synod_wire::snapshot::{Head, State};
use synod_wire::{NodeId, Slot};
use zerocopy::{FromBytes, IntoBytes};

/// A request.
#[derive(Debug)]
pub enum TransferJob {
    /// Which snapshots there are: reads them, and checks them.
    Describe(Dir),
    /// Read chunks for a member.
    Read(Dir, Chunks),
    /// A state is offered: find out how much of it is there, and let go of all others; or, where an earlier life had begun one and that
    /// is wanted, of that one.
    Open {
        /// The group's directory.
        dir: Dir,
        /// What is offered.
        offered: Whole,
        /// Whether what an earlier life began is gone on with.
        earlier: bool,
    },
    /// Keep what comes next, from this offset on.
    Store(Dir, Whole, u64, Vec<u8>),
    /// All is there: make a snapshot of it. The log is durable up to this position.
    Install(Dir, Whole, u64),
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
    /// This was offered; the state that is to come, and bytes of it that are there.
    Opened(Whole, Result<(Whole, u64), LogError>),
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
        TransferJob::Open { dir, offered, earlier } => TransferDone::Opened(offered, open(&dir, offered, earlier)),
        TransferJob::Store(dir, whole, offset, data) => {
            let stored = partial::store(dir, &whole, offset, &data);
            TransferDone::Stored(whole, stored.map(|()| data))
        }
        TransferJob::Install(dir, whole, upto_pos) => {
            TransferDone::Installed(whole, install(&dir, &whole, upto_pos, maker))
        }
    }
}

fn open(dir: &Dir, offered: Whole, earlier: bool) -> Result<(Whole, u64), LogError> {
    let begun = if earlier { partial::begun(dir)? } else { None };
    let whole = begun.unwrap_or(offered);
    Ok((whole, partial::resume(dir, &whole)?))
}

fn describe(dir: &Dir, maker: &Maker) -> Result<Vec<Whole>, LogError> {
    let mut found = Vec::new();
    for slot in snapshot::list(dir)? {
        // One that is damaged is not offered; recovery tells of it.
        let Ok(read) = snapshot::read(dir, &maker.expect, slot) else { continue };
        let Ok((state, _)) = synod_wire::snapshot::parts(&read.body) else { continue };
        found.push(Whole { slot, bytes: state.len() as u64, crc: long::checksum(state) });
        long::free(read.body);
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

fn install(dir: &Dir, whole: &Whole, upto_pos: u64, maker: &Maker) -> Result<Installed, LogError> {
    let (own, start) = super::recovery::begin(dir, maker)?;
    if own.slots.applied() >= whole.slot {
        partial::remove_upto(dir, whole.slot)?;
        return Ok(Installed::NotNewer);
    }
    let state = partial::read(dir, whole)?;
    let replay = match check(&state, whole, maker) {
        Ok(replay) => replay,
        Err(reason) => {
            partial::remove_upto(dir, whole.slot)?;
            return Ok(Installed::Refused(reason));
        }
    };
    let mut reader = LogReader::open(dir)?;
    let old_facts = own.facts(start.place(), own.restart.promised, &Index::starting_after(whole.slot));
    drop(own);
    let facts = later_facts(replay, &old_facts, upto_pos, &mut reader)?.unwrap_or(old_facts);
    let head = Head { state_bytes: (state.len() as u64).into(), facts_bytes: (facts.len() as u64).into() };
    let body = long::concat(&[head.as_bytes(), &state, &facts]);
    long::free(state);
    // One that is there already is of no use, or this node would begin with it.
    if snapshot::list(dir)?.contains(&whole.slot) {
        snapshot::remove(dir, whole.slot)?;
    }
    snapshot::write(dir, reader.identity(), whole.slot, &body, &mut || {})?;
    long::free(body);
    partial::remove_upto(dir, whole.slot)?;
    remove_older(dir, None)?;
    Ok(Installed::Written)
}

/// The facts of a snapshot with this state whose log was read up to here; none while damage is not made good.
fn later_facts(
    mut replay: Replay,
    old_facts: &[u8],
    upto_pos: u64,
    reader: &mut LogReader,
) -> Result<Option<Vec<u8>>, LogError> {
    let Ok(start) = replay.restore_facts(reader.identity().incarnation, old_facts) else { return Ok(None) };
    Shadow::over(replay, start, reader).facts_upto(upto_pos, reader)
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

/// What begins with it, if it is what it was said to be, and of use here.
fn check(state: &[u8], whole: &Whole, maker: &Maker) -> Result<Replay, &'static str> {
    let is_whole = long::checksum(state) == whole.crc || mutant("chunk_checksum_skipped");
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
        None => Ok(replay),
    }
}
