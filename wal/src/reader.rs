//! Reading a log from outside the shard: catch-up, archive, `inspect`, `verify`. Blocking, so for housekeeping threads and offline
//! tools only. Through maps (see "Reading through maps" at the crate's top), or around the page cache (`direct.rs`).

use crate::direct::DirectReads;
use crate::directory::{Lock, take_lock};
use crate::scan::{Scanner, front};
use crate::segment::Segments;
use crate::window::is_ours;
use crate::{Dir, Identity, Item, LogError, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Place, TornTail};
use std::ops::ControlFlow;
use synod_wire::frame::{HEADER_BYTES, Header};
use synod_wire::{Ballot, Lsn};

/// A reader of the log in a directory.
#[derive(Debug)]
pub struct LogReader {
    segments: Segments,
    lock: Option<Box<dyn Lock>>,
    direct: Option<DirectReads>,
}

/// Where a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// The first position that was not taken in.
    pub pos: u64,
    /// The last Lsn that was accounted for, as a record or as damage; 0 if none.
    pub last_lsn: Lsn,
    /// The highest promise seen.
    pub promised: Ballot,
    /// Whether the visitor stopped it.
    pub stopped: bool,
}

impl LogReader {
    /// Opens a log that may be in use: it can be read up to a durable position of its writer.
    pub fn open(dir: impl Into<Dir>) -> Result<LogReader, LogError> {
        Ok(LogReader { segments: Segments::open(&dir.into(), true)?, lock: None, direct: None })
    }

    /// The same, for what is read once: around the page cache, `piece_bytes` at once (a multiple of [`MAX_BLOCK_BYTES`]). A log write on
    /// the same disk waits for as much; and who reads sleeps as often, and gets the core back late where many want it.
    pub fn open_to_read_once(dir: impl Into<Dir>, piece_bytes: usize) -> Result<LogReader, LogError> {
        assert!(piece_bytes > 0 && piece_bytes.is_multiple_of(MAX_BLOCK_BYTES as usize), "whole blocks");
        Ok(LogReader { direct: Some(DirectReads::new(piece_bytes)), ..LogReader::open(dir)? })
    }

    /// Opens a log that is not in use, and keeps it so: it can be read to its end.
    pub fn open_offline(dir: impl Into<Dir>) -> Result<LogReader, LogError> {
        let dir = dir.into();
        let lock = take_lock(&dir)?;
        Ok(LogReader { segments: Segments::open(&dir, false)?, lock: Some(lock), direct: None })
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.segments.identity
    }

    /// Where the first flush that is left starts.
    pub fn first_pos(&self) -> u64 {
        self.segments.geometry.first(self.segments.start())
    }

    /// Bytes of a segment: segment `k` holds the positions from `k` times this.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.geometry.segment_bytes
    }

    /// Where the first flush of a segment starts.
    pub fn first_flush(&self, segment: u64) -> u64 {
        self.segments.geometry.first(segment * self.segments.geometry.segment_bytes)
    }

    /// The first segment that is left: above 0 if the log's front was removed.
    pub fn first_segment(&self) -> u64 {
        self.segments.first
    }

    /// The Lsn of the first record that is left, below position `to` (as for [`LogReader::scan`]); the next one, if only a flush
    /// without records tells. None: its flush does not tell any more.
    pub fn first_lsn(&self, to: Option<u64>) -> Result<Option<Lsn>, LogError> {
        self.check_bound(to)?;
        self.front_lsn(to)
    }

    fn front_lsn(&self, to: Option<u64>) -> Result<Option<Lsn>, LogError> {
        if self.segments.first == 0 {
            return Ok(Some(Lsn(1)));
        }
        let front = front(&self.segments, self.segments.first, to.unwrap_or(u64::MAX))?;
        Ok(front.filter(|front| front.exact).map(|front| front.lsn))
    }

    fn check_bound(&self, to: Option<u64>) -> Result<(), LogError> {
        match to {
            None if self.lock.is_none() => Err(LogError::Unbounded { dir: self.segments.dir.path().to_path_buf() }),
            _ => Ok(()),
        }
    }

    /// Looks for segments that were added or removed since. Until then a reader keeps those open that it had: they can be
    /// read, but their space is not free.
    pub fn refresh(&mut self) -> Result<(), LogError> {
        self.segments = Segments::open(&self.segments.dir, self.lock.is_none())?;
        self.direct = self.direct.as_ref().map(DirectReads::renewed);
        Ok(())
    }

    /// Visits what lies from `from` (a record or the start of a flush; not below the first segment's start, or it is
    /// [`LogError::Trimmed`]) up to `to` or until the visitor breaks. `to` is where a flush or
    /// a record ends, at or below a durable position of the writer ([`Log::durable_pos`](crate::Log::durable_pos)): reading
    /// what is being written would get in the log's way. None: to the end, offline only. Changes nothing: a torn tail is
    /// told, not cut.
    pub fn scan(
        &mut self,
        from: u64,
        to: Option<u64>,
        visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<ScanEnd, LogError> {
        self.check_bound(to)?;
        if to.is_some_and(|to| to > self.segments.end()) {
            self.refresh()?;
        }
        self.check_trimmed(from)?;
        let scanner = if from <= self.first_pos() {
            Scanner::from_front(&self.segments, self.segments.first, self.front_lsn(to)?, to)
        } else {
            Scanner::from_record(&self.segments, from, to)
        };
        let end = scanner.directly(self.direct.as_mut()).run(visit)?;
        let mut stopped = end.stopped;
        if to.is_none() && end.is_torn() {
            let torn = TornTail { pos: end.at, kept: end.kept.len(), cut_bytes: 0 };
            stopped = visit(Item::TornTail(torn)).is_break();
        }
        Ok(ScanEnd { pos: end.at, last_lsn: end.last_lsn, promised: end.promised, stopped })
    }

    fn check_trimmed(&self, pos: u64) -> Result<(), LogError> {
        if pos < self.segments.start() { Err(LogError::Trimmed { first_pos: self.first_pos() }) } else { Ok(()) }
    }

    /// The record at `place`, which must be durable, checked again.
    pub fn record_at(&mut self, place: Place) -> Result<(Header, Vec<u8>), LogError> {
        if !self.segments.holds(place.pos) {
            self.refresh()?;
        }
        self.check_trimmed(place.pos)?;
        let missing = |segments: &Segments| LogError::NoRecord {
            segment: crate::directory::segment_path(&segments.dir, segments.geometry.segment(place.pos)),
            pos: place.pos,
            bytes: place.bytes,
        };
        if !self.segments.holds(place.pos) {
            return Err(missing(&self.segments));
        }
        let page = u64::from(MIN_BLOCK_BYTES);
        let start = (place.pos / page * page).max(self.segments.geometry.stride_start(place.pos));
        let end = place.pos.saturating_add(u64::from(place.bytes)).checked_next_multiple_of(page);
        let window = self.segments.window(start, end.unwrap_or(u64::MAX))?;
        let frame = window.frame(place.pos).ok().filter(|frame| {
            let bytes = HEADER_BYTES + frame.payload.len();
            bytes == place.bytes as usize && is_ours(&frame.header, &self.segments.identity)
        });
        let frame = frame.ok_or_else(|| missing(&self.segments))?;
        Ok((frame.header, frame.payload.to_vec()))
    }
}
