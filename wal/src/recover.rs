//! Recovery: from a directory to a [`Log`] that can be appended to. Scans, has a torn tail cut, fills the ring in memory. Called
//! once, before the shard runs; blocking. The rules stand at the crate's top.

use crate::cut::{cut, restore_length};
use crate::directory::{block_bytes, list, open_direct, segment_name, segment_path, sync_dir, take_lock};
use crate::log;
use crate::scan::{Scanner, front};
use crate::segment::Segments;
use crate::trailer;
use crate::{
    Damage, Dir, Expect, Identity, Item, Log, LogError, MAX_ARENA_BYTES, Place, PreparedSegment, Settings, TornTail,
};
use std::ops::ControlFlow;
use synod_ring::{Arena, give_way};
use synod_wire::frame::Frame;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn};

/// Segments at and behind the log's end that may exist: the current one and two ahead (after a cut).
const SEGMENTS_AHEAD: u64 = 3;
/// What is read into the ring at once, before others may have the core.
const FILL_BYTES: u64 = 64 << 10;

/// A recovered log, and what was found.
#[derive(Debug)]
pub struct Recovered {
    /// The log, to be appended to after [`Log::attach_segments`].
    pub log: Log,
    /// Whose log it is.
    pub identity: Identity,
    /// The first segment that is there: above 0 if the log's front was removed.
    pub first_segment: u64,
    /// Bytes of a segment: segment `k` holds the positions from `k` times this.
    pub segment_bytes: u64,
    /// The Lsn of the last record; all up to it is durable.
    pub last_lsn: Lsn,
    /// The highest promise in any whole record or trailer.
    pub promised: Ballot,
    /// What was durable once and cannot be read, in the order of the log.
    pub damage: Vec<Damage>,
    /// The torn tail that was cut.
    pub torn: Option<TornTail>,
    /// Whole records.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// Where a recovery starts to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record, Lsn 1.
    Beginning,
    /// At a segment's start, which is always where a flush starts: a snapshot has what was before.
    At {
        /// The segment.
        segment: u64,
        /// The Lsn of the first record at or behind its start: the next one, if there is none yet.
        first_lsn: Lsn,
    },
}

impl Start {
    /// The segment, and the Lsn of the first record at or behind its start.
    pub fn place(self) -> (u64, Lsn) {
        match self {
            Start::Beginning => (0, Lsn(1)),
            Start::At { segment, first_lsn } => (segment, first_lsn),
        }
    }
}

/// Recovers the log in `dir`: takes its lock, syncs it, calls `visit` for each whole record in order from `from` on, cuts a torn
/// tail, and makes sure that the segment to append to exists. May be interrupted at any point and repeated. Segments below
/// `from` are kept for reads, and not scanned: what they had of promises and damage is for the snapshot to know.
pub fn recover(
    dir: impl Into<Dir>,
    expect: &Expect,
    settings: &Settings,
    from: Start,
    visit: &mut dyn FnMut(Place, &Frame<'_>),
) -> Result<Recovered, LogError> {
    settings.check()?;
    let dir = dir.into();
    if !dir.exists() {
        return Err(LogError::NotFormatted { dir: dir.path().to_path_buf() });
    }
    let lock = take_lock(&dir)?;
    remove_leftovers(&dir)?;
    let mut segments = Segments::open(&dir, false)?;
    segments.check(expect, settings)?;
    check_blocks(&segments)?;
    sync(&segments)?;
    let direct = is_direct(&segments)?;
    if !direct {
        // After a write that failed the cache may show what never came to the disk.
        forget_pages(&segments)?;
    }
    let mut found = Found::default();
    let end = scanner(&segments, from)?.run(&mut |item| {
        found.take(item, visit);
        ControlFlow::Continue(())
    })?;
    if end.last_lsn == Lsn::ZERO {
        return Err(LogError::NoFoundingRecord { path: segments.file(0).path.clone() });
    }
    check_lsn(&segments, end.last_lsn)?;
    let mut head = end.at;
    let mut torn = None;
    if end.is_torn() && mutant("torn_tail_not_cut") {
        head = segments.geometry.block_ceil(end.at);
    } else if end.is_torn() {
        let cut = cut(&mut segments, &end)?;
        (head, torn) = (cut.0, Some(cut.1));
    }
    let files = open_ahead(&mut segments, head)?;
    let (arena, arena_floor) = fill_arena(&segments, head, settings)?;
    forget_pages(&segments)?;
    let start = log::Start {
        lock,
        dir,
        settings: *settings,
        geometry: segments.geometry,
        identity: segments.identity,
        files,
        direct,
        arena,
        arena_floor,
        head,
        last_lsn: end.last_lsn,
        mark: if end.is_torn() { end.last_lsn } else { end.mark },
        promised: end.promised,
    };
    Ok(Recovered {
        log: Log::start(start),
        identity: segments.identity,
        first_segment: segments.first,
        segment_bytes: segments.geometry.segment_bytes,
        last_lsn: end.last_lsn,
        promised: end.promised,
        damage: found.damage,
        torn,
        records: found.records,
        bytes: found.bytes,
    })
}

/// The scanner of what `from` names, if that is there. A start that is not the log's own is refused: by the rules of the scan
/// records with lower Lsns would be nothing, and be cut.
fn scanner(segments: &Segments, from: Start) -> Result<Scanner<'_>, LogError> {
    let (segment, first_lsn) = match from {
        Start::Beginning if segments.first > 0 => {
            let first = segments.files[0].path.clone();
            return Err(LogError::FrontRemoved { dir: segments.dir.path().to_path_buf(), first });
        }
        Start::Beginning => return Ok(Scanner::from_front(segments, 0, Some(Lsn(1)), None)),
        Start::At { segment, first_lsn } => (segment, first_lsn),
    };
    if !(segments.first..segments.end_index()).contains(&segment) {
        let path = segment_path(&segments.dir, segment);
        return Err(LogError::MissingSegment { path, why: "a snapshot says that the log goes on there" });
    }
    let real = (1..trailer::LSN_LIMIT).contains(&first_lsn.0);
    let front = front(segments, segment, u64::MAX)?;
    match front.map_or(!real, |front| !real || !front.fits(first_lsn)) {
        true => {
            let (path, found) = (segments.file(segment).path.clone(), front.map_or(Lsn::ZERO, |front| front.lsn));
            Err(LogError::WrongStart { path, expected: first_lsn, found })
        }
        false => Ok(Scanner::from_front(segments, segment, Some(first_lsn), None)),
    }
}

/// What the scan comes by.
#[derive(Default)]
struct Found {
    damage: Vec<Damage>,
    records: u64,
    bytes: u64,
}

impl Found {
    fn take(&mut self, item: Item<'_>, visit: &mut dyn FnMut(Place, &Frame<'_>)) {
        match item {
            Item::Record(place, frame) => {
                self.records += 1;
                self.bytes += u64::from(place.bytes);
                visit(place, &frame);
            }
            Item::Damage(damage) => self.damage.push(damage),
            Item::Trailer(_) | Item::TornTail(_) => {}
        }
    }
}

/// Interrupted preparations never were part of the log.
fn remove_leftovers(dir: &Dir) -> Result<(), LogError> {
    let leftovers = list(dir)?.leftovers;
    for name in &leftovers {
        dir.remove(name).map_err(LogError::file("remove", &dir.path().join(name)))?;
    }
    if leftovers.is_empty() { Ok(()) } else { sync_dir(dir) }
}

/// A log moved to a device with larger blocks could not be appended to.
fn check_blocks(segments: &Segments) -> Result<(), LogError> {
    let file = segments.files.last().expect("an opened log has a segment");
    let device = u64::from(block_bytes(&*file.file, &file.path)?);
    if device <= segments.geometry.block_bytes {
        return Ok(());
    }
    Err(LogError::Mismatch {
        path: file.path.clone(),
        field: "block_bytes",
        found: segments.geometry.block_bytes,
        expected: device,
        mend: "The device writes larger blocks than the log was formatted for: move the log to a device like the old one",
    })
}

/// No log gets that far by appending; one that claims to could not be appended to.
fn check_lsn(segments: &Segments, last_lsn: Lsn) -> Result<(), LogError> {
    if last_lsn.next().0 < trailer::LSN_LIMIT {
        return Ok(());
    }
    Err(LogError::Mismatch {
        path: segments.files[0].path.clone(),
        field: "a last Lsn of",
        found: last_lsn.0,
        expected: trailer::LSN_LIMIT,
        mend: "No log is that long: run `synod verify`; this node must rejoin under a new incarnation",
    })
}

/// What is read from here on is durable: writes that a killed process left in the device's cache, and names.
fn sync(segments: &Segments) -> Result<(), LogError> {
    for segment in &segments.files {
        segment.file.sync().map_err(LogError::file("sync", &segment.path))?;
    }
    sync_dir(&segments.dir)
}

/// Whether the file system lets the log be written around the page cache.
fn is_direct(segments: &Segments) -> Result<bool, LogError> {
    let last = segments.end_index() - 1;
    let file = open_direct(&segments.dir, &segment_name(last), false)?;
    file.is_direct().map_err(LogError::file("ask for the flags of", &segment_path(&segments.dir, last)))
}

/// Opens the segment to append to, and those behind it, for direct writes; prepares the first if it does not exist.
fn open_ahead(segments: &mut Segments, head: u64) -> Result<Vec<PreparedSegment>, LogError> {
    let geometry = segments.geometry;
    let current = geometry.segment(head);
    if !segments.holds(head) {
        segments.prepare_next()?;
    }
    let existing = segments.end_index();
    // And as many as the ring in memory held while writes hung; it may have been larger then than it is now.
    let most = current + SEGMENTS_AHEAD + MAX_ARENA_BYTES / geometry.segment_bytes;
    if existing > most {
        let path = segments.file(most).path.clone();
        return Err(LogError::StraySegment { path });
    }
    let open = |index: u64| {
        let path = segments.file(index).path.clone();
        let file = open_direct(&segments.dir, &segment_name(index), false)?;
        restore_length(&*file, &path, &geometry)?;
        Ok(PreparedSegment { index, path, file })
    };
    (current..existing).map(open).collect()
}

/// Fills the ring with the last part of the log; also the first position that it holds.
fn fill_arena(segments: &Segments, head: u64, settings: &Settings) -> Result<(Arena, u64), LogError> {
    let path = segments.dir.path();
    let arena_bytes = settings.arena_bytes as u64;
    let mut arena = Arena::of_huge_pages(settings.arena_bytes).map_err(LogError::file("map the ring for", path))?;
    // A turn's room stays free: what the caller holds of a log with a hole may reach down to the floor.
    let mut floor = head.saturating_sub(arena_bytes - segments.geometry.stride_bytes).max(segments.start());
    let mut pos = floor;
    while pos < head {
        let end = segments.geometry.stride_end(pos).min(head).min(pos / FILL_BYTES * FILL_BYTES + FILL_BYTES);
        give_way();
        let target = arena.get_mut((pos % arena_bytes) as usize, (end - pos) as usize);
        let segment = segments.file_at(pos);
        if let Err(error) = segment.file.read_at(target, segments.geometry.offset(pos)) {
            match error.kind() {
                // Damage was found there; what lies behind can still be served from memory, the rest from disk.
                std::io::ErrorKind::UnexpectedEof => floor = end,
                _ if error.raw_os_error() == Some(libc::EIO) => floor = end,
                _ => return Err(LogError::file("read", &segment.path)(error)),
            }
        }
        pos = end;
    }
    Ok((arena, floor))
}

/// The log is written around the page cache from now on; cached pages would only have to be dropped write by write.
fn forget_pages(segments: &Segments) -> Result<(), LogError> {
    for segment in &segments.files {
        segment.file.forget().map_err(LogError::file("drop the cached pages of", &segment.path))?;
    }
    Ok(())
}
