//! What this node's word rests on: the disk, or memory (`wal.durability`). Called by the turn; `outputs.rs` and `clients.rs`
//! ask what is vouched for.
//!
//! Under memory durability the core is told that a record is persisted as soon as it lies in the arena, so a promise, a vote
//! and an acknowledgement wait for no disk; the log is written behind. A node that ends without having written all that
//! it vouched for has forgotten votes, and must never vote again. The log itself keeps that, where no change of the
//! configuration hides it, in [marks](synod_wire::record::DurabilityMark):
//!
//! | mark | written | read at the start, as the last one |
//! |---|---|---|
//! | memory | first, under memory durability; until it is durable nothing is vouched for beyond the disk | refused |
//! | disk | at an orderly end, as the last record: all before it is durable, and the core takes no more steps | as any log |
//!
//! A crash before the first is durable has vouched for nothing in memory; one before the second is durable leaves the first.

use super::jobs::{Done, Job};
use super::{Exit, Fatal, IDLE_MARK_NS, Shard};
use synod_paxos::Input;
use synod_ring::{Event, Io};
use synod_wire::client::Durability;
use synod_wire::frame::flags;
use synod_wire::{Lsn, NodeId, NodeSet};

/// How long records stay unwritten under memory durability, where nobody waits for them: a hundred writes a second cost
/// next to nothing, and what a crash takes from the offline tools is small.
const WRITE_BEHIND_NS: u64 = 10_000_000;
/// What one step persists may lead to records of its own, those to more; the next turn takes what is left then.
const MAX_VOUCHES: usize = 8;
/// The longest that an orderly end waits for the disk.
const CLOSE_NS: u64 = 10_000_000_000;

/// What was said so far.
#[derive(Debug)]
pub(super) struct Word {
    durability: Durability,
    /// The core was told that everything up to here is persisted.
    upto: Lsn,
    /// The record that says so, once logged.
    memory_mark: Option<Lsn>,
    /// The record of an orderly end: nothing is said any more.
    closed: Option<Lsn>,
    /// Members whose last votes rest on their memory.
    in_memory: NodeSet,
}

impl Word {
    /// All that recovery read is durable.
    pub(super) fn new(durability: Durability, durable: Lsn) -> Word {
        Word { durability, upto: durable, memory_mark: None, closed: None, in_memory: NodeSet::EMPTY }
    }

    /// What a member's frame says of its votes.
    pub(super) fn heard(&mut self, from: NodeId, header_flags: u8) {
        if header_flags & flags::MEMORY != 0 {
            self.in_memory.insert(from);
        } else {
            self.in_memory.0 &= !(1 << from.0);
        }
    }

    /// What goes into the header of a message to members.
    pub(super) fn flags(&self) -> u8 {
        match self.durability {
            Durability::Disk => 0,
            Durability::Memory => flags::MEMORY,
        }
    }

    /// What an acknowledgement rests on: the disks only if every member whose votes may be in it syncs them.
    pub(super) fn of_acknowledgements(&self) -> Durability {
        if self.in_memory.is_empty() { self.durability } else { Durability::Memory }
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// The Lsn up to which this node stands by its log.
    pub(super) fn vouched(&self) -> Lsn {
        self.word.upto
    }

    /// Whether records count as soon as they lie in memory: once it is durable that they do.
    pub(super) fn vouches_from_memory(&self) -> bool {
        self.word.memory_mark.is_some_and(|mark| mark <= self.log.durable_lsn()) && self.word.closed.is_none()
    }

    /// Whether something waits for the log's write.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.log.in_flight() && !self.vouches_from_memory()
    }

    /// A record was logged that somebody waits for.
    pub(super) fn await_log(&mut self) {
        if self.vouches_from_memory() {
            self.idle_mark_at_ns = self.idle_mark_at_ns.min(self.io.now_ns() + WRITE_BEHIND_NS);
        } else {
            self.log_awaited = true;
        }
    }

    /// The disk got further.
    pub(super) fn on_durable(&mut self, durable: Lsn) -> Result<(), Fatal> {
        self.idle_mark_at_ns = self.io.now_ns() + IDLE_MARK_NS;
        self.stages.durable(durable, self.io.now_ns());
        if self.word.closed.is_some() { Ok(()) } else { self.tell_persisted(durable) }
    }

    /// Under memory durability: what this turn logged counts. Before its answers go out.
    pub(super) fn vouch(&mut self) -> Result<(), Fatal> {
        if self.word.durability == Durability::Disk || self.word.closed.is_some() {
            return Ok(());
        }
        if self.word.memory_mark.is_none() && self.log.room() >= self.step_bytes() {
            self.word.memory_mark = Some(self.mark(Durability::Memory)?);
        }
        if !self.vouches_from_memory() {
            return Ok(());
        }
        for _ in 0..MAX_VOUCHES {
            if self.word.upto == self.log.last_lsn() {
                return Ok(());
            }
            if self.log.room() < self.step_bytes() {
                break;
            }
            self.tell_persisted(self.log.last_lsn())?;
        }
        // A write makes room, and its end is the event that the rest waits for.
        self.log_awaited = true;
        Ok(())
    }

    fn tell_persisted(&mut self, upto: Lsn) -> Result<(), Fatal> {
        if upto <= self.word.upto {
            return Ok(());
        }
        self.word.upto = upto;
        self.step(Input::Persisted { upto }, None)?;
        self.send_parked(upto);
        Ok(())
    }

    fn mark(&mut self, durability: Durability) -> Result<Lsn, Fatal> {
        let lsn = self.core.log_durability(durability == Durability::Memory);
        self.carry_out_all(None)?;
        self.log_awaited = true;
        Ok(lsn)
    }

    /// Whether the disk holds all that was ever vouched for, and says so. The core takes no more steps from the first call
    /// that finds everything durable.
    pub(super) fn is_settled(&mut self) -> Result<bool, Fatal> {
        if self.log.durable_lsn() < self.log.last_lsn() {
            self.log_awaited = true;
            return Ok(false);
        }
        if self.word.memory_mark.is_none() || self.word.closed.is_some() {
            return Ok(true);
        }
        if self.log.room() >= self.step_bytes() {
            self.word.closed = Some(self.mark(Durability::Disk)?);
        }
        Ok(false)
    }

    /// An orderly end. Under memory durability everything is synced first, and the log says so: then it may be started again.
    pub(super) fn close(&mut self) -> Result<Exit, Fatal> {
        self.leave_subscribers()?;
        if self.word.durability == Durability::Disk {
            return Ok(Exit::Stopped);
        }
        let until_ns = self.io.now_ns() + CLOSE_NS;
        while !self.is_settled()? {
            if self.io.now_ns() >= until_ns {
                return Err(Fatal::NotSettled);
            }
            self.write_log()?;
            self.poll_at_end(until_ns, true)?;
        }
        Ok(Exit::Stopped)
    }

    /// One poll of a node that ends: nobody is heard any more but the disk and housekeeping.
    pub(super) fn poll_at_end(&mut self, until_ns: u64, awaits_disk: bool) -> Result<(), Fatal> {
        let mut events = std::mem::take(&mut self.events);
        self.io.poll(until_ns, awaits_disk, &mut events)?;
        self.outbox.reset();
        for event in events.drain(..) {
            match event {
                Event::Datagram { buf, .. } => self.io.release(buf),
                Event::Written { token, result } => {
                    self.log.written(&mut self.io, token, result)?;
                }
                Event::Done(done) => self.on_done(done)?,
                Event::Overrun(_) | Event::SendFailed(_) | Event::Woken => {}
            }
        }
        self.events = events;
        self.hand_on();
        Ok(())
    }
}
