//! The log in memory: appending frames to the ring, and reading them there. Owned by one shard; never blocks, never
//! allocates once warm. Writing to disk is in `flush.rs`.
//!
//! # What must not be overwritten
//! Appending at `pos` overwrites what lay at `pos - arena_bytes`. At each turn's end ([`Log::flush`]) the log fixes how far
//! the next turn may append: not over bytes that are not durable yet, not over what [`Log::set_hold`] holds, and not
//! further than a stride. So whatever [`Log::frame`] hands out stays as it is until the turn's datagrams left, even
//! where completions or a new hold set bytes free in the middle of the turn.

use crate::depth::Depth;
use crate::directory::{Lock, segment_path};
use crate::layout::{Geometry, trailer_bytes};
use crate::trailer::{self, TrailerFields};
use crate::{Dir, Identity, LogError, MIN_FLUSH_BYTES, Place, PreparedSegment, SegmentSpec, Settings};
use std::collections::VecDeque;
use synod_ring::{Arena, FILE_SLOTS, FileSlot, Haste, Slice};
use synod_wire::frame::{self, HEADER_BYTES, Header, Kind, frame_bytes};
use synod_wire::mutant::mutant;
use synod_wire::record::{MAX_FLUSH_RECORDS, TrailerEntry};
use synod_wire::{Ballot, Lsn};

/// The log of one group, open for appending.
#[derive(Debug)]
pub struct Log {
    _lock: Box<dyn Lock>,
    pub(crate) dir: Dir,
    pub(crate) settings: Settings,
    pub(crate) geometry: Geometry,
    pub(crate) identity: Identity,
    direct: bool,
    pub(crate) arena: Arena,
    /// Below this the ring never held the log (it starts with the last part of what recovery read).
    arena_floor: u64,
    /// What this turn may append up to.
    pub(crate) limit: u64,
    hold: u64,
    /// The end of what was ever written to the ring (an open batch counts whole).
    ring_end: u64,
    pub(crate) open: Open,
    batch: Option<Batch>,
    pub(crate) sealed: VecDeque<Flush>,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// How many may be.
    pub(crate) depth: Depth,
    /// When the first record of the open flush was there.
    pub(crate) open_since_ns: Option<u64>,
    /// When the last turn ended.
    pub(crate) turn_ns: u64,
    pub(crate) next_token: u64,
    pub(crate) last_lsn: Lsn,
    pub(crate) durable_lsn: Lsn,
    pub(crate) durable_pos: u64,
    /// The highest mark in a durable trailer.
    pub(crate) durable_mark: Lsn,
    pub(crate) promised: Ballot,
    /// Segments below this exist.
    pub(crate) prepared_end: u64,
    /// Segments below this are registered with the reactor.
    pub(crate) attached_end: u64,
    pub(crate) asked: bool,
    /// Of the segment that was asked for.
    pub(crate) haste: Haste,
    pub(crate) unattached: VecDeque<PreparedSegment>,
    pub(crate) failed: bool,
    /// The write that ended last, until somebody asks.
    pub(crate) ended: Option<EndedWrite>,
}

impl Drop for Log {
    /// Whoever ends waits for the preparation of a segment.
    fn drop(&mut self) {
        self.haste.set(true);
    }
}

/// The flush that gathers records.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) start: u64,
    /// Where the next frame goes.
    pub(crate) head: u64,
    pub(crate) entries: Vec<TrailerEntry>,
}

/// A frame being filled in place.
#[derive(Clone, Copy, Debug)]
struct Batch {
    pos: u64,
    max_payload: usize,
}

/// A sealed flush: bytes `start..end`, a whole number of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flush {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) next: u64,
    pub(crate) last_lsn: Lsn,
    pub(crate) mark: Lsn,
    pub(crate) records: u64,
    /// When its first record was there, to the turn.
    pub(crate) since_ns: u64,
    /// It gathered or left while another one was in flight.
    pub(crate) met_another: bool,
}

/// A flush being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) flush: Flush,
    pub(crate) token: u64,
    /// Where the write in flight starts (behind what a short write already wrote).
    pub(crate) from: u64,
    pub(crate) done: bool,
    /// When it was handed over.
    pub(crate) submitted_ns: u64,
}

/// A log write that ended well, for whoever measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedWrite {
    /// From its submission to its end, durable; nanoseconds.
    pub took_ns: u64,
    /// Its bytes, with what pads it to blocks.
    pub bytes: u64,
    /// Its records.
    pub records: u64,
}

/// What recovery hands over.
pub(crate) struct Start {
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) dir: Dir,
    pub(crate) settings: Settings,
    pub(crate) geometry: Geometry,
    pub(crate) identity: Identity,
    pub(crate) files: Vec<PreparedSegment>,
    pub(crate) direct: bool,
    pub(crate) arena: Arena,
    pub(crate) arena_floor: u64,
    pub(crate) head: u64,
    pub(crate) last_lsn: Lsn,
    pub(crate) mark: Lsn,
    pub(crate) promised: Ballot,
}

impl Log {
    pub(crate) fn start(start: Start) -> Log {
        let current = start.geometry.segment(start.head);
        assert!(start.files.iter().map(|file| file.index).eq(current..current + start.files.len() as u64));
        // A flush that waits for its write was full: it has this many bytes at least, but for one a stride.
        let smallest_full = MIN_FLUSH_BYTES as usize / 2;
        let waiting = start.settings.arena_bytes / smallest_full
            + (start.settings.arena_bytes as u64 / start.geometry.stride_bytes) as usize;
        let mut log = Log {
            _lock: start.lock,
            dir: start.dir,
            settings: start.settings,
            geometry: start.geometry,
            identity: start.identity,
            direct: start.direct,
            arena: start.arena,
            arena_floor: start.arena_floor,
            limit: 0,
            hold: u64::MAX,
            ring_end: start.head,
            open: Open { start: start.head, head: start.head, entries: Vec::with_capacity(MAX_FLUSH_RECORDS) },
            batch: None,
            sealed: VecDeque::with_capacity(waiting),
            in_flight: VecDeque::with_capacity(start.settings.max_in_flight),
            depth: Depth::new(start.settings.max_in_flight, start.settings.adapts),
            open_since_ns: None,
            turn_ns: 0,
            next_token: 0,
            last_lsn: start.last_lsn,
            durable_lsn: start.last_lsn,
            durable_pos: start.head,
            durable_mark: start.mark,
            promised: start.promised,
            prepared_end: current + start.files.len() as u64,
            attached_end: current,
            asked: false,
            haste: Haste::default(),
            unattached: start.files.into(),
            failed: false,
            ended: None,
        };
        log.begin_turn();
        log
    }

    /// Whether it is written around the page cache; else the file system refused that, and each write is synced through it.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The Lsn of the last record appended.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// All records up to this Lsn are on stable storage.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// The writes of all records up to this Lsn are submitted, or done.
    pub fn submitted_lsn(&self) -> Lsn {
        self.in_flight.back().map_or(self.durable_lsn, |write| write.flush.last_lsn)
    }

    /// Everything below this position is on stable storage: what a [`LogReader`](crate::LogReader) may read up to.
    pub fn durable_pos(&self) -> u64 {
        self.durable_pos
    }

    /// Where the next frame would go, if it fits there.
    pub fn head_pos(&self) -> u64 {
        self.open.head
    }

    /// Appends a record, copying `payload` once; `payload_crc` saves its checksum where it is known. None: there is no room this
    /// turn (bytes that must stay would be overwritten, or the next segment is not prepared); try again after a [`Log::flush`].
    ///
    /// # Panics
    /// If `header.lsn` is not the next one, the header is of another log, or a batch is open: bugs of the caller.
    pub fn append(&mut self, header: &Header, payload: &[u8], payload_crc: Option<u32>) -> Option<Place> {
        let pos = self.reserve(payload.len())?;
        let at = self.at(pos);
        self.arena.get_mut(at + HEADER_BYTES, payload.len()).copy_from_slice(payload);
        let crc = payload_crc.unwrap_or_else(|| frame::checksum(payload));
        Some(self.commit(header, pos, payload.len(), crc))
    }

    /// Opens a frame at the tail for a payload of at most `max_payload` bytes: its payload area, to be filled in place. It stays
    /// open until it is closed or abandoned, before the turn's [`Log::flush`]. None: as [`Log::append`].
    ///
    /// # Panics
    /// If a batch is open.
    pub fn open_batch(&mut self, max_payload: usize) -> Option<&mut [u8]> {
        let pos = self.reserve(max_payload)?;
        self.batch = Some(Batch { pos, max_payload });
        self.batch_payload()
    }

    /// The payload area of the open batch.
    pub fn batch_payload(&mut self) -> Option<&mut [u8]> {
        let batch = self.batch?;
        let at = self.at(batch.pos);
        Some(self.arena.get_mut(at + HEADER_BYTES, batch.max_payload))
    }

    /// Seals the open batch as a record with the first `payload_bytes` of its area.
    ///
    /// # Panics
    /// If no batch is open, or it is smaller; and as [`Log::append`].
    pub fn close_batch(&mut self, header: &Header, payload_bytes: usize) -> Place {
        let batch = self.batch.take().expect("close_batch without open_batch");
        assert!(payload_bytes <= batch.max_payload, "{payload_bytes} bytes in a batch of {}", batch.max_payload);
        let payload = self.arena.get(self.at(batch.pos) + HEADER_BYTES, payload_bytes);
        let crc = frame::checksum(payload);
        self.commit(header, batch.pos, payload_bytes, crc)
    }

    /// Gives the open batch up; nothing of it is logged.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn abandon_batch(&mut self) {
        assert!(self.batch.take().is_some(), "abandon_batch without open_batch");
    }

    /// Appends a record whose payload is that of the frame at `from`, copied within the ring; its checksum is taken over, not
    /// computed. None: as [`Log::append`], or `from` is no longer in the ring ([`Log::frame`] tells).
    ///
    /// # Panics
    /// As [`Log::append`].
    pub fn reappend(&mut self, header: &Header, from: Place) -> Option<Place> {
        let payload_bytes = self.payload(from)?.len();
        let source = self.at(from.pos);
        let crc = self.arena.get(source + 4, 4).try_into().expect("four bytes");
        // The source lies at or above what this turn may overwrite, so the copy cannot reach it.
        let pos = self.reserve(payload_bytes)?;
        let (source, target) = (source + HEADER_BYTES, self.at(pos) + HEADER_BYTES);
        let ring = self.arena.len();
        self.arena.get_mut(0, ring).copy_within(source..source + payload_bytes, target);
        Some(self.commit(header, pos, payload_bytes, u32::from_le_bytes(crc)))
    }

    /// The frame at `place`, as it was appended. None once its bytes may be overwritten before the turn ends. What it hands out stays
    /// unchanged until the next [`Log::flush`] returned and the poll after it.
    pub fn frame(&self, place: Place) -> Option<Slice<'_>> {
        let resident = place.pos >= self.resident_floor() && place.pos + u64::from(place.bytes) <= self.open.head;
        resident.then(|| self.arena.slice(self.at(place.pos), place.bytes as usize))
    }

    /// The frames from `first` to `last`, with the padding between them, for one datagram: if only frames of records lie between.
    pub fn contiguous(&self, first: Place, last: Place) -> Option<Slice<'_>> {
        self.frame(first)?;
        self.frame(last)?;
        let end = last.pos + u64::from(last.bytes);
        if last.pos < first.pos || end > self.geometry.stride_end(first.pos) {
            return None;
        }
        let mut pos = first.end();
        while pos < last.pos {
            pos = self.record_end(pos)?;
        }
        let same = first == last || pos == last.pos;
        same.then(|| self.arena.slice(self.at(first.pos), (end - first.pos) as usize))
    }

    /// The end of the record at `pos`; None if a trailer (or padding) lies there.
    fn record_end(&self, pos: u64) -> Option<u64> {
        let header = self.arena.get(self.at(pos), HEADER_BYTES);
        let (header, _, payload_bytes) = frame::parse_header(header).ok()?;
        (header.kind != Kind::Trailer).then_some(pos + frame_bytes(payload_bytes) as u64)
    }

    /// The payload of the frame at `place`, under the conditions of [`Log::frame`].
    pub fn payload(&self, place: Place) -> Option<&[u8]> {
        self.frame(place).map(|slice| &slice.bytes()[HEADER_BYTES..])
    }

    /// Appends whose frames ([`frame_bytes`]) add up to no more than this, and that are at most [`MAX_FLUSH_RECORDS`], are sure to
    /// find room this turn, whatever their order: a lower bound, which leaves what trailers, padding and skipped ends of
    /// strides may take.
    pub fn room(&self) -> usize {
        let prepared = self.prepared_end * self.geometry.segment_bytes;
        let left = self.limit.min(prepared).saturating_sub(self.open.head);
        // A flush is closed because it is large (then two together exceed the limit), because it has many records (once, with
        // those that it had), or at the end of a stride (twice at most, as a turn's limit is a stride).
        let seals = 2 * left / self.settings.max_flush_bytes as u64 + 4;
        let entries = 2 * trailer_bytes(MAX_FLUSH_RECORDS);
        let overhead = seals * (self.geometry.block_bytes + trailer_bytes(0)) + entries + 2 * MIN_FLUSH_BYTES;
        left.saturating_sub(overhead) as usize
    }

    /// From `pos` on (the record of the oldest open slot) bytes stay in the ring; appends fail rather than overwrite them. Takes
    /// effect at the next [`Log::flush`]. A hold on what is already gone (after recovery, say) is not one: it keeps as much as
    /// leaves a turn's room.
    pub fn set_hold(&mut self, pos: u64) {
        self.hold = pos;
    }

    /// Asks for the next segment to be prepared: once, as soon as the log has entered the last one that exists. Called once a turn:
    /// calls for haste once a third of that is full.
    pub fn wants_segment(&mut self) -> Option<SegmentSpec> {
        let (wanted, geometry) = (self.prepared_end, self.geometry);
        if wanted > geometry.segment(self.open.head) + 1 {
            return None;
        }
        let last_begins = (wanted - 1) * geometry.segment_bytes;
        self.haste.set(self.open.head > last_begins + geometry.segment_bytes / 3);
        if std::mem::replace(&mut self.asked, true) {
            return None;
        }
        let (dir, identity, haste) = (self.dir.clone(), self.identity, self.haste.clone());
        Some(SegmentSpec { dir, index: wanted, geometry, identity, haste })
    }

    /// The preparation failed: [`Log::wants_segment`] will ask again. Until one succeeds, the log fills what it has.
    ///
    /// # Panics
    /// If none was asked for.
    pub fn segment_failed(&mut self) {
        assert!(std::mem::take(&mut self.asked), "no segment was asked for");
    }

    /// Fixes what the next turn may append up to; see the module.
    pub(crate) fn begin_turn(&mut self) {
        let high = self.high();
        // Half of the smallest ring; a turn's datagrams are far fewer.
        let turn_bytes = self.geometry.stride_bytes;
        let arena_bytes = self.settings.arena_bytes as u64;
        let unwritten = self.unwritten();
        let floor = high.saturating_sub(arena_bytes).max(self.arena_floor);
        let hold = if self.hold < floor { high.saturating_sub(arena_bytes - turn_bytes) } else { self.hold };
        self.limit = (unwritten.min(hold) + arena_bytes).min(high + turn_bytes).max(high);
    }

    /// Where the oldest flush starts that is not on disk as a whole.
    pub(crate) fn unwritten(&self) -> u64 {
        let oldest = self.in_flight.front().map(|write| &write.flush).or(self.sealed.front());
        oldest.map_or(self.open.start, |flush| flush.start)
    }

    /// The end of what was and surely will be written to the ring: the open flush's trailer included.
    fn high(&self) -> u64 {
        match self.open.entries.len() {
            0 => self.ring_end,
            records => self.geometry.sealed_end(self.open.head, records).max(self.ring_end),
        }
    }

    fn resident_floor(&self) -> u64 {
        self.limit.saturating_sub(self.settings.arena_bytes as u64).max(self.arena_floor)
    }

    /// Where byte `pos` lies in the ring.
    pub(crate) fn at(&self, pos: u64) -> usize {
        (pos % self.settings.arena_bytes as u64) as usize
    }

    /// Finds room for a frame, closing the open flush first if the frame does not fit it.
    fn reserve(&mut self, payload_bytes: usize) -> Option<u64> {
        assert!(self.batch.is_none(), "a batch is open");
        assert!(payload_bytes <= frame::MAX_PAYLOAD_BYTES, "a payload of {payload_bytes} bytes");
        let need = frame_bytes(payload_bytes) as u64;
        let records = self.open.entries.len();
        if self.is_full(need) {
            let end = self.geometry.sealed_end(self.open.head, records);
            let start = self.geometry.next_start(end, self.geometry.stride_end(self.open.start));
            if !self.has_room(start + need, 1) {
                return None;
            }
            self.seal();
            assert!(self.open.start == start && !self.is_full(need), "a record fits a new flush");
        } else if !self.has_room(self.open.head + need, records + 1) {
            return None;
        }
        self.ring_end = self.ring_end.max(self.open.head + need);
        Some(self.open.head)
    }

    /// Whether the open flush has records and must be closed before it can take a frame of `need` bytes.
    fn is_full(&self, need: u64) -> bool {
        let records = self.open.entries.len();
        let end = self.open.head + need;
        let fits = self.geometry.fits(end, records + 1, self.geometry.stride_end(self.open.start));
        assert!(fits || records > 0, "any record fits where a flush may start");
        let bytes = self.geometry.sealed_end(end, records + 1) - self.open.start;
        records > 0 && (!fits || bytes > self.settings.max_flush_bytes as u64)
    }

    /// Whether a flush of `records` records that end at `end` may be written to the ring now, and to disk ever.
    pub(crate) fn has_room(&self, end: u64, records: usize) -> bool {
        let sealed_end = self.geometry.sealed_end(end, records);
        sealed_end <= self.limit && self.geometry.segment(sealed_end - 1) < self.prepared_end
    }

    fn commit(&mut self, header: &Header, pos: u64, payload_bytes: usize, payload_crc: u32) -> Place {
        assert_eq!(header.lsn, self.last_lsn.next(), "Lsns are dense");
        assert!(
            header.cluster == self.identity.cluster && header.group == self.identity.group,
            "a record of another log: {header:?}"
        );
        assert!(
            (header.kind as u8) < 32 && !matches!(header.kind, Kind::Trailer | Kind::Segment),
            "{:?} is not a record",
            header.kind
        );
        let total = frame_bytes(payload_bytes);
        let at = self.at(pos);
        let frame = self.arena.get_mut(at, total);
        let header_crc = frame::write_header(frame, header, payload_bytes, payload_crc);
        frame[HEADER_BYTES + payload_bytes..].fill(0);
        self.open.entries.push(trailer::entry(header, header_crc, payload_bytes));
        self.open.head = pos + total as u64;
        self.last_lsn = header.lsn;
        self.promised = self.promised.max(header.promised);
        Place { pos, bytes: (HEADER_BYTES + payload_bytes) as u32 }
    }

    /// Closes the open flush with a trailer and opens the next one.
    pub(crate) fn seal(&mut self) {
        assert!(self.batch.is_none(), "a flush was sealed under an open batch");
        let Open { start, head, .. } = self.open;
        let records = self.open.entries.len();
        let end = self.geometry.sealed_end(head, records);
        let next = self.geometry.next_start(end, self.geometry.stride_end(start));
        let mark = if mutant("mark_covers_own_flush") { self.last_lsn } else { self.durable_lsn };
        let fields =
            TrailerFields { start, next, lsn: self.last_lsn, mark, promised: self.promised, is_cut_mark: false };
        let at = self.at(head);
        let out = self.arena.get_mut(at, (end - head) as usize);
        trailer::write(out, &self.identity, &fields, &self.open.entries);
        self.ring_end = self.ring_end.max(end);
        let since_ns = self.open_since_ns.take().unwrap_or(self.turn_ns);
        let met_another = !self.in_flight.is_empty() || since_ns < self.turn_ns;
        let (last_lsn, mark) = (self.last_lsn, self.durable_lsn);
        self.sealed.push_back(Flush {
            start,
            end,
            next,
            last_lsn,
            mark,
            records: records as u64,
            since_ns,
            met_another,
        });
        self.open.entries.clear();
        self.open.start = next;
        self.open.head = next;
    }

    /// Whether a batch is open.
    pub fn has_open_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// The slot of the reactor's file table that a segment goes to.
    pub(crate) fn slot(index: u64) -> FileSlot {
        FileSlot((index % u64::from(FILE_SLOTS)) as u8)
    }

    pub(crate) fn write_failed(&mut self, from: u64, end: u64, reason: String) -> LogError {
        self.failed = true;
        LogError::WriteFailed {
            segment: segment_path(&self.dir, self.geometry.segment(from)),
            offset: self.geometry.offset(from),
            bytes: end - from,
            reason,
        }
    }
}
