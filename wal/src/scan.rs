//! The scanner: one reading of a log for recovery, inspection and verification. It decides what is a record, what is damage and
//! where the log ends, by the rules at the crate's top; it writes nothing.

use crate::direct::{DirectReads, STRETCH_BYTES};
use crate::segment::Segments;
use crate::trailer::{self, TrailerView};
use crate::window::{PAGE_BYTES, Page, Window, is_ours, is_zero, lines, search_start};
use crate::{LogError, Place};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use synod_ring::give_way;
use synod_wire::frame::{Frame, HEADER_BYTES, Header, Kind, VERSION, VERSION_BITS, VERSION_OFFSET, frame_bytes};
use synod_wire::mutant::mutant;
use synod_wire::record::TrailerEntry;
use synod_wire::{Ballot, Lsn};

/// Records that were durable once and cannot be read: one run of Lsns without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    /// The first position that could not be read.
    pub pos: u64,
    /// The first Lsn that is lost.
    pub first_lsn: Lsn,
    /// The last Lsn that is lost; below `first_lsn` if no record is (a trailer or a segment's header was).
    pub last_lsn: Lsn,
    /// Those lost records that a trailer or their own header still names.
    pub named: Vec<TrailerEntry>,
    /// Whether `named` names every lost record.
    pub complete: bool,
}

impl Damage {
    /// How many records are lost.
    pub fn lost(&self) -> u64 {
        (self.last_lsn.0 + 1).saturating_sub(self.first_lsn.0)
    }
}

/// The end of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushMark {
    /// Where the trailer lies.
    pub pos: u64,
    /// Where its flush starts.
    pub start: u64,
    /// Where the next flush starts.
    pub next: u64,
    /// The last Lsn so far.
    pub lsn: Lsn,
    /// The durable Lsn when it was sealed.
    pub mark: Lsn,
    /// The promise when it was sealed.
    pub promised: Ballot,
    /// How many records it names.
    pub records: usize,
}

/// Bytes of a flush that was never durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where the first byte lies that is not part of a whole record.
    pub pos: u64,
    /// Whole records of that flush before it; they are kept.
    pub kept: usize,
    /// Bytes that were zeroed (0 when only inspecting).
    pub cut_bytes: u64,
}

/// What a scan comes by, in the order of the log.
#[derive(Debug)]
pub enum Item<'a> {
    /// A whole record.
    Record(Place, Frame<'a>),
    /// A whole trailer; its records came before it.
    Trailer(FlushMark),
    /// Damage; whole records of the same flush came before it.
    Damage(Damage),
    /// The last item, if the log does not end cleanly.
    TornTail(TornTail),
}

/// Receives items; may stop the scan.
pub(crate) type Visit<'v> = dyn FnMut(Item<'_>) -> ControlFlow<()> + 'v;

/// Where and how a scan ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The first position without a whole record.
    pub(crate) at: u64,
    /// The start of the flush that holds it.
    pub(crate) flush_start: u64,
    /// Whole records of that flush.
    pub(crate) kept: Vec<TrailerEntry>,
    /// Whether anything but zeros follows.
    pub(crate) dirty: bool,
    /// Where the torn flush's own trailer lies, if that is whole: the cut must void it.
    pub(crate) whole_trailer: Option<u64>,
    /// Whether the visitor stopped the scan.
    pub(crate) stopped: bool,
    pub(crate) last_lsn: Lsn,
    /// The highest promise of any whole record or trailer.
    pub(crate) promised: Ballot,
    /// The highest mark of any whole trailer.
    pub(crate) mark: Lsn,
}

impl End {
    /// Whether a cut is due.
    pub(crate) fn is_torn(&self) -> bool {
        !self.stopped && (self.dirty || !self.kept.is_empty())
    }
}

/// A record that the walk found whole.
struct Walked {
    place: Place,
    header: Header,
    payload_crc: u32,
    entry: TrailerEntry,
}

/// A later flush, where a scan may go on. From its start on its trailer is the authority: it names the place of each of its
/// records, so what was walked with the same Lsns before it is a misdirected copy.
#[derive(Clone, Copy)]
struct Resume {
    start: u64,
    first_lsn: Lsn,
    /// How many of the walked records stay.
    kept: usize,
    /// The first Lsn that was not read.
    next_lsn: Lsn,
}

/// How the reading of a flush ended.
enum Step {
    /// The next one follows.
    On,
    /// The window ended before the flush could be told: it is read again in another.
    Short,
    /// The log or the scan is at its end.
    End(End),
}

/// How a bad position was resolved.
enum Verdict<'w> {
    /// The trailer of the same flush was found.
    Covered(TrailerView<'w>),
    /// A later flush was found; whether a mark proves that the bad position was durable.
    Later(Resume, bool),
    /// Nothing; whether anything but zeros follows.
    Nothing { dirty: bool },
}

/// One scan. See the module.
pub(crate) struct Scanner<'s> {
    segments: &'s Segments,
    to: Option<u64>,
    at: u64,
    /// Where reading of the current flush began.
    begun: u64,
    /// Where the current flush starts, if it was not entered in its middle.
    flush_start: Option<u64>,
    next_lsn: Option<Lsn>,
    walked: Vec<Walked>,
    promised: Ballot,
    mark: Lsn,
    direct: Option<&'s mut DirectReads>,
}

impl<'s> Scanner<'s> {
    /// From the start of a segment, and of its first flush: with the Lsn that the first record there should have, if it is known.
    pub(crate) fn from_front(
        segments: &'s Segments,
        segment: u64,
        first_lsn: Option<Lsn>,
        to: Option<u64>,
    ) -> Scanner<'s> {
        let at = segments.geometry.first(segment * segments.geometry.segment_bytes);
        let mut scanner = Scanner::from_record(segments, at, to);
        scanner.flush_start = Some(at);
        scanner.next_lsn = first_lsn;
        scanner
    }

    /// From a frame within the log. Below `to` (where a flush or a record ends) all was durable: what is bad there is damage.
    pub(crate) fn from_record(segments: &'s Segments, at: u64, to: Option<u64>) -> Scanner<'s> {
        let walked = Vec::with_capacity(synod_wire::record::MAX_FLUSH_RECORDS);
        let (promised, mark) = (Ballot::ZERO, Lsn::ZERO);
        Scanner { segments, to, at, begun: at, flush_start: None, next_lsn: None, walked, promised, mark, direct: None }
    }

    /// The same, read around the page cache.
    pub(crate) fn directly(self, direct: Option<&'s mut DirectReads>) -> Scanner<'s> {
        Scanner { direct, ..self }
    }

    /// Runs to the end of the log, to `to`, or until the visitor breaks.
    pub(crate) fn run(mut self, visit: &mut Visit<'_>) -> Result<End, LogError> {
        let mut window: Option<Window> = None;
        loop {
            if self.to.is_some_and(|to| self.at >= to) || !self.segments.holds(self.at) {
                return Ok(self.end(false, false));
            }
            window = window.filter(|window| window.holds(self.at));
            let entered = window.is_none();
            let here = match &window {
                Some(window) => window,
                None => window.insert(self.window(None)?),
            };
            if entered && self.report_header(visit).is_break() {
                return Ok(self.end(false, true));
            }
            match self.flush(here, visit)? {
                Step::On => {}
                Step::Short => {
                    // Given up first: what it was read into is read into again.
                    let start = here.start();
                    drop(window.take());
                    window = Some(self.window(Some(start))?);
                }
                Step::End(end) => return Ok(end),
            }
        }
    }

    /// The window to read `self.at` in. A bounded scan reads a short stretch from the middle of a stride, over and over: it takes
    /// little more than that in, or, where a window from `short` on ended too early, the next stretch, or as far as it may.
    /// An unbounded one wants the whole stride, to explain damage.
    fn window(&mut self, short: Option<u64>) -> Result<Window, LogError> {
        let (block, stride) =
            (self.segments.geometry.block_bytes.max(PAGE_BYTES), self.segments.geometry.stride_start(self.at));
        let start = if self.to.is_some() { (self.at / block * block).max(stride) } else { stride };
        if self.to.is_none() || short == Some(start) {
            return self.segments.window(start, self.limit());
        }
        let to = self.limit().min(start + STRETCH_BYTES);
        let read = self.direct.as_mut().map(|direct| direct.window(self.segments, start, to)).transpose()?;
        read.flatten().map_or_else(|| self.segments.window(start, to), Ok)
    }

    fn limit(&self) -> u64 {
        self.to.unwrap_or(u64::MAX)
    }

    /// Reads one flush.
    fn flush(&mut self, window: &Window, visit: &mut Visit<'_>) -> Result<Step, LogError> {
        self.begun = self.at;
        let closing = self.walk(window);
        let verdict = match closing {
            Some(trailer) if self.closes(&trailer) => Verdict::Covered(trailer),
            // Whole up to the bound, which lies within a flush.
            None if self.to.is_some_and(|to| self.at >= to) => Verdict::Nothing { dirty: false },
            _ if window.reach() < self.limit().min(self.segments.geometry.stride_end(self.begun)) => {
                self.at = self.begun;
                return Ok(Step::Short);
            }
            _ => self.resolve(window)?,
        };
        let flow = match verdict {
            Verdict::Covered(trailer) if self.is_torn(window, &trailer)? => {
                return Ok(Step::End(End { whole_trailer: Some(trailer.pos), ..self.finish(window, true, visit) }));
            }
            Verdict::Covered(trailer) => self.take_covered(window, &trailer, visit),
            Verdict::Later(resume, proven) => self.take_up_to(window, resume, proven, visit),
            Verdict::Nothing { dirty } => return Ok(Step::End(self.finish(window, dirty, visit))),
        };
        if flow.is_break() {
            return Ok(Step::End(self.end(false, true)));
        }
        assert!(self.at > self.begun, "a scan goes forward");
        Ok(Step::On)
    }

    /// Follows whole records from `self.at`, into `self.walked`; stops behind the last. The trailer there, if one is.
    fn walk<'w>(&mut self, window: &'w Window) -> Option<TrailerView<'w>> {
        self.walked.clear();
        let stride_end = self.segments.geometry.stride_end(self.at);
        let mut expected = self.next_lsn;
        loop {
            let frame = window.frame(self.at).ok().filter(|frame| is_ours(&frame.header, &self.segments.identity))?;
            if frame.header.kind == Kind::Trailer {
                return TrailerView::read(&frame, self.at, &self.segments.geometry);
            }
            let place = Place { pos: self.at, bytes: (HEADER_BYTES + frame.payload.len()) as u32 };
            let fits = self.segments.geometry.fits(place.end(), self.walked.len() + 1, stride_end);
            if !is_record(&frame.header) || !fits || expected.is_some_and(|lsn| lsn != frame.header.lsn) {
                return None;
            }
            let entry = trailer::entry(&frame.header, window.header_crc(self.at), frame.payload.len());
            self.walked.push(Walked { place, header: frame.header, payload_crc: frame.payload_crc, entry });
            expected = Some(frame.header.lsn.next());
            self.at = place.end();
        }
    }

    /// Whether `trailer` is that of the flush being read: it starts where the flush does, and is not behind the flush before.
    /// It may name fewer records than were walked: one that a cut gave up (its page was unreadable then) stays in its block.
    fn closes(&self, trailer: &TrailerView<'_>) -> bool {
        let start = trailer.fields.start;
        let same = self.flush_start.map_or(start <= self.begun, |own| own == start);
        same && self.next_lsn.is_none_or(|next| trailer.fields.lsn.0 + 1 >= next.0)
    }

    /// Searches forward from the bad position `self.at`.
    fn resolve<'w>(&self, window: &'w Window) -> Result<Verdict<'w>, LogError> {
        if mutant("damage_truncated") || mutant("torn_tail_not_cut") {
            return Ok(Verdict::Nothing { dirty: true });
        }
        let (proven, floor) = (self.to.is_some(), self.next_lsn);
        let (begun, walked) = (self.begun, &self.walked[..]);
        let mut search = Search { resume: None, proven, dirty: false, here: window, begun, floor, walked };
        let from = search_start(&self.segments.geometry, self.segments.geometry.stride_start(self.at), self.at);
        let mut covering = None;
        search.window(self.segments, window, from, &mut |trailer| {
            covering = Some(trailer).filter(|trailer| self.closes(trailer));
            covering.is_some()
        });
        if let Some(trailer) = covering {
            return Ok(Verdict::Covered(trailer));
        }
        let mut stride = self.segments.geometry.stride_end(self.at);
        while !search.is_decided() && stride < self.segments.end().min(self.limit()) {
            let window = self.segments.window(stride, self.limit())?;
            let from = search_start(&self.segments.geometry, stride, stride);
            search.window(self.segments, &window, from, &mut |_| false);
            stride += self.segments.geometry.stride_bytes;
        }
        Ok(search.verdict())
    }

    /// Whether a crash alone explains that records which `trailer` names are not whole: nothing tells that their flush was
    /// durable, and each of them shows a sector that the write did not reach.
    fn is_torn(&self, window: &Window, trailer: &TrailerView<'_>) -> Result<bool, LogError> {
        // Where the walk ended at the trailer itself, every frame before it was whole.
        let misses = self.at < trailer.pos && self.next_lsn.is_none_or(|next| next == trailer.first_lsn());
        if self.to.is_some() || !misses || mutant("torn_flush_called_damage") {
            return Ok(false);
        }
        match self.first_unreached(window, trailer) {
            // Elsewhere: the walk went over a whole frame that is not the one named there, which no crash explains.
            Some((pos, lsn)) if pos == self.at => Ok(!self.is_marked(window, trailer.pos, lsn)?),
            _ => Ok(false),
        }
    }

    /// The first record that `trailer` names and that is not whole (its place and Lsn); None if any such record is not one that
    /// a torn write leaves.
    fn first_unreached(&self, window: &Window, trailer: &TrailerView<'_>) -> Option<(u64, Lsn)> {
        let mut first = None;
        for (entry, pos) in trailer.entries.iter().zip(positions(trailer)) {
            if self.named_record(window, None, pos, trailer.pos, entry).is_some() {
                continue;
            }
            if !is_unreached(window, pos, trailer.pos, entry) {
                return None;
            }
            first = first.or(Some((pos, Lsn(entry.lsn.get()))));
        }
        first
    }

    /// Whether a whole trailer at or behind `from` (in `window`) has a mark at or above `lsn`. A trailer's own mark counts: that
    /// of a cut, or of the first flush, covers its own records.
    fn is_marked(&self, window: &Window, from: u64, lsn: Lsn) -> Result<bool, LogError> {
        let has_mark = |window: &Window, from: u64| {
            let mut marked = false;
            trailers(self.segments, window, from, &mut |trailer| {
                marked |= trailer.fields.mark >= lsn;
                marked
            });
            marked
        };
        let mut marked = has_mark(window, from);
        let mut stride = self.segments.geometry.stride_end(from);
        while !marked && stride < self.segments.end() {
            let window = self.segments.window(stride, u64::MAX)?;
            marked = has_mark(&window, search_start(&self.segments.geometry, stride, stride));
            stride += self.segments.geometry.stride_bytes;
        }
        Ok(marked)
    }

    /// A flush whose trailer is whole: takes what is whole and as the trailer names it; the rest is damage.
    fn take_covered(&mut self, window: &Window, trailer: &TrailerView<'_>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let from = self.walked.first().map_or(self.at, |first| first.place.pos);
        let mut losses = Losses::new(self.segments, self.at);
        let mut walked = std::mem::take(&mut self.walked).into_iter().peekable();
        let mut pos = trailer.fields.start;
        let mut next = self.next_lsn.unwrap_or_else(|| match walked.peek() {
            Some(first) => first.header.lsn,
            None => trailer
                .entries
                .iter()
                .zip(positions(trailer))
                .find(|(_, pos)| *pos >= from)
                .map_or(trailer.fields.lsn.next(), |(entry, _)| Lsn(entry.lsn.get())),
        });
        for entry in trailer.entries {
            let lsn = Lsn(entry.lsn.get());
            if lsn >= next {
                losses.unnamed(next, lsn);
                next = lsn.next();
                match self.named_record(window, walked.next_if(|it| it.entry == *entry), pos, trailer.pos, entry) {
                    Some((place, frame)) => self.record(place, frame, visit)?,
                    None => losses.named(*entry),
                }
            }
            pos += frame_bytes(usize::from(entry.length.get())) as u64;
        }
        losses.unnamed(next, trailer.fields.lsn.next());
        self.walked.clear();
        losses.report(visit)?;
        self.trailer(trailer, visit)
    }

    /// The record that `entry` names at `pos`: as walked, or read now if a bad one stopped the walk before it.
    fn named_record<'w>(
        &self,
        window: &'w Window,
        walked: Option<Walked>,
        pos: u64,
        limit: u64,
        entry: &TrailerEntry,
    ) -> Option<(Place, Frame<'w>)> {
        if let Some(walked) = walked {
            return Some((walked.place, walked.frame(window)));
        }
        let place = Place { pos, bytes: (HEADER_BYTES + usize::from(entry.length.get())) as u32 };
        let frame = window.frame(pos).ok().filter(|_| place.end() <= limit)?;
        let same = trailer::entry(&frame.header, window.header_crc(pos), frame.payload.len()) == *entry;
        (same && is_record(&frame.header) && is_ours(&frame.header, &self.segments.identity)).then_some((place, frame))
    }

    /// A later flush goes on: takes the walked records, then what whole headers lead to; the Lsns up to the flush are lost.
    fn take_up_to(&mut self, window: &Window, resume: Resume, proven: bool, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.walked.truncate(resume.kept);
        self.at = self.walked.last().map_or(self.begun, |last| last.place.end());
        let mut losses = Losses::new(self.segments, self.at);
        self.take_walked(window, visit)?;
        self.salvage(window, resume.start, resume.first_lsn, &mut losses, visit)?;
        let next = self.next_lsn.unwrap_or(resume.first_lsn);
        losses.unnamed(next, resume.first_lsn);
        if proven && losses.runs.is_empty() {
            losses.nothing(next);
        }
        self.next_lsn = Some(resume.first_lsn);
        self.at = resume.start;
        self.flush_start = Some(resume.start);
        losses.report(visit)
    }

    fn take_walked(&mut self, window: &Window, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let walked = std::mem::take(&mut self.walked);
        walked.iter().try_for_each(|walked| self.record(walked.place, walked.frame(window), visit))
    }

    /// From the bad position on, as far as whole headers with the next Lsns lead, up to position `limit` and Lsn `end`: takes what
    /// is whole and names the rest.
    fn salvage(
        &mut self,
        window: &Window,
        limit: u64,
        end: Lsn,
        losses: &mut Losses<'_>,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<()> {
        while self.at < limit
            && self.next_lsn.is_none_or(|next| next < end)
            && let Some((place, header)) = self.header_below(window, limit)
        {
            match window.frame(self.at) {
                Ok(frame) => self.record(place, frame, visit)?,
                Err(_) => {
                    let payload_bytes = place.bytes as usize - HEADER_BYTES;
                    losses.named(trailer::entry(&header, window.header_crc(self.at), payload_bytes));
                    self.next_lsn = Some(header.lsn.next());
                }
            }
            self.at = place.end();
        }
        ControlFlow::Continue(())
    }

    /// The whole header of a record with the next Lsn, if the record ends by `limit`.
    fn header_below(&self, window: &Window, limit: u64) -> Option<(Place, Header)> {
        let (header, _, payload_bytes) = window.header(self.at).ok()?;
        let place = Place { pos: self.at, bytes: (HEADER_BYTES + payload_bytes) as u32 };
        let fits =
            place.end() <= self.segments.geometry.stride_end(self.at) && place.pos + u64::from(place.bytes) <= limit;
        let next = self.next_lsn.is_none_or(|next| header.lsn == next);
        (fits && next && is_record(&header) && is_ours(&header, &self.segments.identity)).then_some((place, header))
    }

    /// The end of the log: takes the walked records, which need no trailer to be kept.
    fn finish(&mut self, window: &Window, dirty: bool, visit: &mut Visit<'_>) -> End {
        let kept = self.walked.iter().map(|walked| walked.entry).collect();
        let mut flow = self.take_walked(window, visit);
        if let Some(to) = self.to.filter(|_| flow.is_continue()) {
            flow = self.finish_bounded(window, to, visit);
        }
        End { kept, ..self.end(dirty, flow.is_break()) }
    }

    /// Up to `to` all was durable: what is missing is damage, of at least one record or trailer if headers do not lead there.
    fn finish_bounded(&mut self, window: &Window, to: u64, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let mut losses = Losses::new(self.segments, self.at);
        self.salvage(window, to, Lsn(trailer::LSN_LIMIT), &mut losses, visit)?;
        if self.at < to {
            let next = self.next_lsn.unwrap_or(Lsn(1));
            losses.unnamed(next, next.next());
        }
        losses.report(visit)
    }

    fn record(&mut self, place: Place, frame: Frame<'_>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.promised = self.promised.max(frame.header.promised);
        self.next_lsn = Some(frame.header.lsn.next());
        // No commit is to wait for a slice of the scheduler because a log is read.
        give_way();
        visit(Item::Record(place, frame))
    }

    fn trailer(&mut self, trailer: &TrailerView<'_>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let fields = trailer.fields;
        self.promised = self.promised.max(fields.promised);
        self.mark = self.mark.max(fields.mark);
        self.next_lsn = Some(fields.lsn.next());
        self.at = fields.next;
        self.flush_start = Some(fields.next);
        visit(Item::Trailer(FlushMark {
            pos: trailer.pos,
            start: fields.start,
            next: fields.next,
            lsn: fields.lsn,
            mark: fields.mark,
            promised: fields.promised,
            records: trailer.entries.len(),
        }))
    }

    /// On entering a segment: its header may be damaged, which loses no record.
    fn report_header(&self, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let start = self.segments.geometry.stride_start(self.at);
        if self.segments.geometry.offset(start) != 0 || self.segments.file_at(start).header_is_whole {
            return ControlFlow::Continue(());
        }
        let mut losses = Losses::new(self.segments, start);
        losses.nothing(self.next_lsn.unwrap_or(Lsn(1)));
        losses.report(visit)
    }

    fn end(&self, dirty: bool, stopped: bool) -> End {
        End {
            at: self.at,
            flush_start: self.flush_start.unwrap_or(self.at),
            kept: Vec::new(),
            dirty,
            whole_trailer: None,
            stopped,
            last_lsn: self.next_lsn.map_or(Lsn::ZERO, |next| Lsn(next.0 - 1)),
            promised: self.promised,
            mark: self.mark,
        }
    }
}

impl Resume {
    /// Whether no Lsn is missing before the later flush.
    fn follows(&self) -> bool {
        self.first_lsn == self.next_lsn
    }
}

impl Walked {
    /// The frame again; its checksums were verified when it was walked, and the map did not change since.
    fn frame<'w>(&self, window: &'w Window) -> Frame<'w> {
        let payload_bytes = self.place.bytes as usize - HEADER_BYTES;
        let payload = window.bytes(self.place.pos + HEADER_BYTES as u64, payload_bytes).expect("walked before");
        Frame { header: self.header, payload_crc: self.payload_crc, payload }
    }
}

/// What the beginning of a segment tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// The Lsn of the first record there; of the first that is still named, if not `exact`.
    pub(crate) lsn: Lsn,
    /// Whether what tells so lies at the segment's start, or names it.
    pub(crate) exact: bool,
}

impl Front {
    /// Whether the first record may have Lsn `first`. Damage takes records away, but adds none with lower Lsns.
    pub(crate) fn fits(self, first: Lsn) -> bool {
        if self.exact { self.lsn == first } else { self.lsn >= first }
    }
}

/// Reads the beginning of `segment`, which must exist, up to position `to`: its first whole trailer, which is the authority over
/// records that were misdirected to its start; else the record at its start. None: nothing there is whole (or it is empty).
pub(crate) fn front(segments: &Segments, segment: u64, to: u64) -> Result<Option<Front>, LogError> {
    let geometry = &segments.geometry;
    let start = segment * geometry.segment_bytes;
    let first = geometry.first(start);
    for stride in (start..to.min(start + geometry.segment_bytes)).step_by(geometry.stride_bytes as usize) {
        let window = segments.window(stride, to)?;
        let mut found = None;
        trailers(segments, &window, search_start(geometry, stride, stride), &mut |trailer| {
            found = Some(Front { lsn: trailer.first_lsn(), exact: trailer.fields.start == first });
            true
        });
        if found.is_some() {
            return Ok(found);
        }
    }
    let window = segments.window(start, to)?;
    let here = window.frame(first).ok().filter(|frame| is_ours(&frame.header, &segments.identity));
    let record = here.filter(|frame| is_record(&frame.header));
    Ok(record.map(|frame| Front { lsn: frame.header.lsn, exact: true }))
}

/// Whether a whole frame is one that takes an Lsn.
fn is_record(header: &Header) -> bool {
    (header.kind as u8) < 32
        && !matches!(header.kind, Kind::Trailer | Kind::Segment)
        && (1..trailer::LSN_LIMIT).contains(&header.lsn.0)
}

/// Whether the bad bytes at `pos`, where `entry` names a record, are what a torn write leaves. Each sector is as written or all
/// zeros then, so the header (which lies in one sector) is either the one named or zeros; and a sector was not reached.
fn is_unreached(window: &Window, pos: u64, limit: u64, entry: &TrailerEntry) -> bool {
    let bytes = HEADER_BYTES + usize::from(entry.length.get());
    let named = || {
        let whole = window.header(pos).ok();
        whole.is_some_and(|(header, _, len)| trailer::entry(&header, window.header_crc(pos), len) == *entry)
    };
    let header = window.bytes(pos, HEADER_BYTES).is_some_and(is_zero) || named();
    header && Place { pos, bytes: bytes as u32 }.end() <= limit && window.has_zero_sector(pos, bytes)
}

/// The same of the trailer that should be at `pos`: its header is whole or zeros, and a sector of what is known of it was not
/// reached.
fn is_trailer_unreached(window: &Window, pos: u64) -> bool {
    let bytes = match window.header(pos) {
        Ok((header, _, payload_bytes)) if header.kind == Kind::Trailer => HEADER_BYTES + payload_bytes,
        Ok(_) => return false,
        Err(_) if window.bytes(pos, HEADER_BYTES).is_some_and(is_zero) => HEADER_BYTES,
        Err(_) => return false,
    };
    window.has_zero_sector(pos, bytes)
}

/// Shows `found` each whole trailer in `window` from `from` on, until it has enough. Whether anything but zeros was seen.
fn trailers<'w>(
    segments: &Segments,
    window: &'w Window,
    from: u64,
    found: &mut dyn FnMut(TrailerView<'w>) -> bool,
) -> bool {
    let mut dirty = false;
    for page in window.pages(from) {
        let Page::Bytes(page_pos, bytes) = page else {
            dirty = true;
            continue;
        };
        if is_zero(bytes) {
            continue;
        }
        dirty = true;
        for (pos, line) in lines(page_pos, bytes) {
            if line[VERSION_OFFSET] & VERSION_BITS != VERSION || line[17] != Kind::Trailer as u8 {
                continue;
            }
            let frame = window.frame(pos).ok().filter(|frame| is_ours(&frame.header, &segments.identity));
            let trailer = frame.and_then(|frame| TrailerView::read(&frame, pos, &segments.geometry));
            if trailer.is_some_and(&mut *found) {
                return dirty;
            }
        }
    }
    dirty
}

/// Where the records that a trailer names lie.
fn positions(trailer: &TrailerView<'_>) -> impl Iterator<Item = u64> {
    trailer.entries.iter().scan(trailer.fields.start, |pos, entry| {
        let here = *pos;
        *pos += frame_bytes(usize::from(entry.length.get())) as u64;
        Some(here)
    })
}

/// A search forward from a bad position.
struct Search<'a> {
    resume: Option<Resume>,
    proven: bool,
    dirty: bool,
    /// The window of the bad position.
    here: &'a Window,
    /// Where the flush with the bad position starts, and the Lsn that it should start with.
    begun: u64,
    floor: Option<Lsn>,
    /// Its whole records before the bad position.
    walked: &'a [Walked],
}

impl Search<'_> {
    /// Looks through one window from `from`. `covers` tells of each trailer whether it ends the search by itself.
    fn window<'w>(
        &mut self,
        segments: &Segments,
        window: &'w Window,
        from: u64,
        covers: &mut dyn FnMut(TrailerView<'w>) -> bool,
    ) {
        let dirty = trailers(segments, window, from, &mut |trailer| covers(trailer) || self.consider(&trailer));
        self.dirty |= dirty;
    }

    /// Weighs a trailer of another flush; tells whether the search is over.
    fn consider(&mut self, trailer: &TrailerView<'_>) -> bool {
        let (start, first_lsn) = (trailer.fields.start, trailer.first_lsn());
        if start <= self.begun || self.floor.is_some_and(|floor| first_lsn < floor) {
            return false;
        }
        let resume = self.resume.unwrap_or_else(|| {
            let before = |walked: &Walked| walked.place.pos < start && walked.header.lsn < first_lsn;
            let kept = self.walked.iter().take_while(|walked| before(walked)).count();
            let last = kept.checked_sub(1).map(|last| self.walked[last].header.lsn.next());
            Resume { start, first_lsn, kept, next_lsn: last.or(self.floor).unwrap_or(first_lsn) }
        });
        let mark = trailer.fields.mark;
        if trailer.fields.is_cut_mark && mark < resume.next_lsn {
            // The cut that it is of is done again.
            return false;
        }
        self.resume = Some(resume);
        // Flushes become durable whole: a mark at the last whole record proves the trailer that should follow it, too.
        let trailer_alone = resume.kept > 0 && resume.follows() && mark.next() >= resume.next_lsn;
        let marked = mark >= resume.next_lsn || trailer_alone;
        self.proven |= marked && !(resume.follows() && self.was_passed_over(resume.kept, trailer));
        self.is_decided()
    }

    /// Whether `next` may be the cut of a recovery that went over the missing trailer before it as a crash had left it. A cut's
    /// mark, the last Lsn itself, says of the records before it that they are durable, and nothing of their trailers.
    fn was_passed_over(&self, kept: usize, next: &TrailerView<'_>) -> bool {
        let pos = self.walked[..kept].last().map_or(self.begun, |last| last.place.end());
        next.fields.mark == next.fields.lsn && is_trailer_unreached(self.here, pos)
    }

    fn is_decided(&self) -> bool {
        self.resume.is_some_and(|resume| self.proven || resume.follows())
    }

    fn verdict<'w>(self) -> Verdict<'w> {
        match self.resume {
            Some(resume) if self.is_decided() => Verdict::Later(resume, self.proven),
            _ => Verdict::Nothing { dirty: self.dirty },
        }
    }
}

/// Collects lost records into runs.
struct Losses<'a> {
    segment: &'a Path,
    pos: u64,
    runs: Vec<Damage>,
}

impl<'a> Losses<'a> {
    fn new(segments: &'a Segments, pos: u64) -> Losses<'a> {
        Losses { segment: &segments.file_at(pos).path, pos, runs: Vec::new() }
    }

    /// The run that ends before `lsn`, or a new one that starts there.
    fn run(&mut self, lsn: Lsn) -> &mut Damage {
        if self.runs.last().is_none_or(|run| run.last_lsn.next() != lsn) {
            self.nothing(lsn);
        }
        self.runs.last_mut().expect("there is one now")
    }

    /// Damage that loses no record, before `lsn`.
    fn nothing(&mut self, lsn: Lsn) {
        let last_lsn = Lsn(lsn.0 - 1);
        let segment = self.segment.to_path_buf();
        self.runs.push(Damage { segment, pos: self.pos, first_lsn: lsn, last_lsn, named: Vec::new(), complete: true });
    }

    fn named(&mut self, entry: TrailerEntry) {
        let run = self.run(Lsn(entry.lsn.get()));
        run.last_lsn = run.last_lsn.next();
        run.named.push(entry);
    }

    /// The Lsns from `first` up to, not including, `end`.
    fn unnamed(&mut self, first: Lsn, end: Lsn) {
        if first < end {
            let run = self.run(first);
            run.last_lsn = Lsn(end.0 - 1);
            run.complete = false;
        }
    }

    fn report(self, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.runs.into_iter().try_for_each(|damage| visit(Item::Damage(damage)))
    }
}
