//! One node's disk: what is in flight, what a lying cache holds, and what a crash makes of both. When and whether bytes reach
//! the files (`storage.rs`), which the production recovery reads, is decided here.

use crate::fault::Fault;
use crate::plan::Plan;
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use synod_ring::BlockFile;
use synod_wal::{Dir, Opening};
use synod_wire::frame::{HEADER_BYTES, Header, Kind, frame_bytes, parse_header};
use synod_wire::record::Trailer;
use synod_wire::{Lsn, Slot};
use zerocopy::FromBytes;

/// What a disk tears writes into.
pub(crate) const SECTOR_BYTES: usize = 512;
/// What the log writes in.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// A log write that the disk has not finished.
pub(crate) struct InFlight {
    pub(crate) file: Arc<dyn BlockFile>,
    pub(crate) offset: u64,
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) token: u64,
    /// When it was asked for, by the node's clock.
    pub(crate) since_ns: u64,
}

/// A record that a write put on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) header: Header,
    pub(crate) payload_crc: u32,
}

/// A flush that is on disk, as far as placing damage needs to know it.
#[derive(Clone, Debug)]
pub(crate) struct Flush {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) last_lsn: Lsn,
    pub(crate) mark: Lsn,
    pub(crate) records: Vec<(Kind, Slot, u64, usize)>,
    pub(crate) damaged: bool,
}

struct Undo {
    file: Arc<dyn BlockFile>,
    offset: u64,
    before: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) in_flight: BTreeMap<u64, InFlight>,
    next_id: u64,
    /// Parts of flushes whose rest is still to be written.
    partial: Vec<(Arc<dyn BlockFile>, u64, Vec<u8>)>,
    /// Since the lies began: what was there before, the oldest first.
    lies: Vec<Undo>,
    /// Syncs are lies: a power cut undoes all since.
    pub(crate) lying: bool,
    /// Nothing completes before this.
    pub(crate) stalled_until_ns: u64,
    /// When a write ended last, by the node's clock.
    pub(crate) written_ns: u64,
    /// Every write takes much longer before this.
    pub(crate) slow_until_ns: u64,
    pub(crate) no_space_until_ns: u64,
    pub(crate) fail_next: bool,
    /// Records on disk that the node has not heard of yet.
    pub(crate) unreported: Vec<Logged>,
    /// Records of torn writes: some may be whole.
    torn: Vec<Logged>,
    /// In the order of the log.
    pub(crate) flushes: Vec<Flush>,
}

/// What is left of the writes in flight after a crash, for the counters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CrashTally {
    pub(crate) torn: usize,
    pub(crate) lost: usize,
    pub(crate) whole: usize,
    pub(crate) undone: usize,
    /// Torn writes whose trailer was written: recovery must tell them from damage.
    pub(crate) trailers: usize,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crash {
    pub(crate) chaos: bool,
    pub(crate) power: bool,
}

impl Disk {
    pub(crate) fn begin(&mut self, write: InFlight) -> u64 {
        self.next_id += 1;
        self.in_flight.insert(self.next_id, write);
        self.next_id
    }

    /// The write reaches the disk, its first `bytes` at least; gives the records that are whole on disk by it.
    pub(crate) fn complete(&mut self, write: InFlight, bytes: usize) -> io::Result<()> {
        let InFlight { file, offset, bytes: all, .. } = write;
        let written = &all[..bytes];
        if self.lying {
            let mut before = vec![0; bytes];
            file.read_at(&mut before, offset)?;
            self.lies.push(Undo { file: file.clone(), offset, before });
        }
        file.write_at(written, offset)?;
        let before = self.partial.iter().position(|(part, end, _)| same(part, &file) && *end == offset);
        let mut flush = before.map_or_else(Vec::new, |at| self.partial.swap_remove(at).2);
        flush.extend_from_slice(written);
        if bytes < all.len() {
            self.partial.push((file, offset + bytes as u64, flush));
        } else {
            self.note_flush(&flush);
        }
        Ok(())
    }

    fn note_flush(&mut self, bytes: &[u8]) {
        let mut at = 0;
        let mut records = Vec::new();
        while let Ok((header, payload_crc, payload_bytes)) = parse_header(&bytes[at..]) {
            if header.kind == Kind::Trailer {
                let body = Trailer::read_from_prefix(&bytes[at + HEADER_BYTES..]);
                let (body, _) = body.expect("the log wrote a whole trailer");
                self.flushes.push(Flush {
                    start: body.start.get(),
                    bytes: bytes.len() as u64,
                    last_lsn: header.lsn,
                    mark: Lsn(header.slot.0),
                    records: std::mem::take(&mut records),
                    damaged: false,
                });
                return;
            }
            self.unreported.push(Logged { header, payload_crc });
            records.push((header.kind, header.slot, at as u64, frame_bytes(payload_bytes)));
            at += frame_bytes(payload_bytes);
        }
        panic!("the log wrote a flush without a trailer");
    }

    /// The process is gone, and with `power` the caches too: each write in flight is lost, torn by sector, or whole;
    /// without `chaos` whole. What a torn write does not reach stays zeros.
    pub(crate) fn crash(&mut self, plan: &Plan, how: Crash, rng: &mut Rng) -> io::Result<CrashTally> {
        let Crash { chaos, power } = how;
        let mut tally = CrashTally::default();
        for (_, write) in std::mem::take(&mut self.in_flight) {
            if chaos && rng.ppm(plan.rate(Fault::TornWrite)) {
                tally.trailers += usize::from(tear(&write, rng)?);
                let flush = self.flush_so_far(&write);
                self.torn.extend(records(&flush));
                tally.torn += 1;
            } else if chaos && rng.ppm(plan.rate(Fault::LostWrite)) {
                tally.lost += 1;
            } else {
                tally.whole += 1;
                let bytes = write.bytes.len();
                self.complete(write, bytes)?;
            }
        }
        // The front of a flush whose rest is lost, or was not asked for yet, may hold whole records.
        for (_, _, front) in self.partial.drain(..) {
            self.torn.extend(records(&front));
        }
        if power && !self.lies.is_empty() {
            tally.undone = self.lies.len();
            for undo in self.lies.drain(..).rev() {
                undo.file.write_at(&undo.before, undo.offset)?;
            }
        }
        Ok(tally)
    }

    /// A write fails: any of its sectors may be on disk.
    pub(crate) fn fail(&mut self, write: InFlight, rng: &mut Rng) -> io::Result<()> {
        tear(&write, rng)?;
        let flush = self.flush_so_far(&write);
        self.torn.extend(records(&flush));
        Ok(())
    }

    /// The flush that a write is of, up to its end: what short writes before it have written stands in front of it.
    fn flush_so_far(&mut self, write: &InFlight) -> Vec<u8> {
        let front = self.partial.iter().position(|(part, end, _)| same(part, &write.file) && *end == write.offset);
        let mut flush = front.map_or_else(Vec::new, |at| self.partial.swap_remove(at).2);
        flush.extend_from_slice(&write.bytes);
        flush
    }

    /// The lies end well: what was reported durable is durable now.
    pub(crate) fn settle(&mut self) {
        self.lying = false;
        self.lies.clear();
    }

    /// What the node has logged for good up to `durable`, and is told of now.
    pub(crate) fn reported(&mut self, durable: Lsn) -> Vec<Logged> {
        if self.unreported.is_empty() {
            return Vec::new();
        }
        let (done, rest) = std::mem::take(&mut self.unreported).into_iter().partition(|r| r.header.lsn <= durable);
        self.unreported = rest;
        done
    }

    /// After a recovery that ended at `last`: what was in flight beyond it is cut, and so are its flushes. What survived:
    /// all of the writes that were whole, and of the torn ones what the recovery `holds`.
    pub(crate) fn recovered(&mut self, last: Lsn, holds: impl Fn(&Logged) -> bool) -> Vec<Logged> {
        let mut survived = self.reported(last);
        self.unreported.clear();
        survived.extend(self.torn.drain(..).filter(|record| record.header.lsn <= last && holds(record)));
        self.flushes.retain(|flush| flush.last_lsn <= last);
        survived
    }

    /// Flushes that may be damaged without being taken for a torn tail: a later whole flush's mark covers them.
    pub(crate) fn damageable(&self) -> Vec<usize> {
        let mut highest = Lsn::ZERO;
        let mut all = Vec::new();
        for (at, flush) in self.flushes.iter().enumerate().rev() {
            // A flush without records may hold the only mark that covers what lies before it.
            if flush.last_lsn <= highest && !flush.damaged && !flush.records.is_empty() {
                all.push(at);
            }
            if !flush.damaged {
                highest = highest.max(flush.mark);
            }
        }
        all
    }
}

/// Writes some of the sectors, in any combination; whether a trailer lies over a sector that was not reached.
fn tear(write: &InFlight, rng: &mut Rng) -> io::Result<bool> {
    let trailer = trailer_sector(&write.bytes);
    let (mut trailer_written, mut missing) = (false, false);
    for (at, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
        if rng.percent(50) {
            write.file.write_at(sector, write.offset + (at * SECTOR_BYTES) as u64)?;
            trailer_written |= trailer == Some(at);
        } else {
            missing |= trailer.is_some_and(|trailer| at < trailer);
        }
    }
    Ok(trailer_written && missing)
}

/// The records of a flush, or of its rest.
fn records(bytes: &[u8]) -> Vec<Logged> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Ok((header, payload_crc, payload_bytes)) = parse_header(bytes.get(at..).unwrap_or(&[])) {
        all.push(Logged { header, payload_crc });
        at += frame_bytes(payload_bytes);
    }
    all
}

/// The sector in which a flush's trailer begins; none if these bytes begin in the middle of a frame.
fn trailer_sector(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Ok((header, _, payload_bytes)) = parse_header(bytes.get(at..).unwrap_or(&[])) {
        if header.kind == Kind::Trailer {
            return Some(at / SECTOR_BYTES);
        }
        at += frame_bytes(payload_bytes);
    }
    None
}

/// Whether they are the same file.
fn same(a: &Arc<dyn BlockFile>, b: &Arc<dyn BlockFile>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// The name of the segment that holds a position of the log.
pub(crate) fn segment_name(segment_bytes: u64, pos: u64) -> String {
    format!("{:016x}.seg", pos / segment_bytes)
}

/// Whether the segment that holds a position of the log is there.
pub(crate) fn is_there(dir: &Dir, segment_bytes: u64, pos: u64) -> bool {
    dir.open(&segment_name(segment_bytes, pos), Opening::Direct).is_ok()
}

/// The file that holds a position of the log, and where in it.
pub(crate) fn place(dir: &Dir, segment_bytes: u64, pos: u64) -> (Arc<dyn BlockFile>, u64) {
    let file = dir.open(&segment_name(segment_bytes, pos), Opening::Direct).expect("a segment that the log wrote to");
    (file, pos % segment_bytes)
}
