//! Segments as the scanner sees them: read-only maps of one stride at a time in which no page is touched that cannot be read.
//! Called by recovery and [`LogReader`](crate::LogReader); blocking. See "Reading through maps" at the crate's top.

use crate::layout::{Geometry, stride_end, stride_start};
use crate::{Identity, LogError, STRIDE_BYTES};
use memmap2::{Advice, Mmap, MmapOptions};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use synod_wire::frame::{self, Frame, FrameError, HEADER_BYTES, Header};

/// Pages are the unit of what can be unreadable.
pub(crate) const PAGE_BYTES: u64 = 4096;
const PAGE: usize = PAGE_BYTES as usize;
/// The smallest unit that a disk writes whole or not at all; larger ones are multiples of it.
const SECTOR_BYTES: u64 = 512;

/// Part of one stride.
#[derive(Debug)]
pub(crate) struct Window {
    map: Option<Mmap>,
    start: u64,
    unreadable: Vec<Range<usize>>,
}

/// What a page of a window holds.
pub(crate) enum Page<'a> {
    /// Its bytes, from the position asked for.
    Bytes(u64, &'a [u8]),
    /// It cannot be read.
    Unreadable,
}

impl Window {
    /// Maps what `file` (of `path`, holding the segment at `segment_start`) has of the stride at `start`, up to position `to`.
    pub(crate) fn map(
        file: &File,
        path: &Path,
        segment_start: u64,
        start: u64,
        to: u64,
        live: bool,
    ) -> Result<Window, LogError> {
        assert!(start.is_multiple_of(PAGE_BYTES) && stride_end(start) - start <= STRIDE_BYTES);
        let file_bytes = file.metadata().map_err(LogError::file("stat", path))?.len();
        let end = stride_end(start).min(to).min(segment_start + file_bytes);
        if end <= start {
            return Ok(Window { map: None, start, unreadable: Vec::new() });
        }
        let mut options = MmapOptions::new();
        options.offset(start - segment_start).len((end - start) as usize);
        // SAFETY: the bytes below `to` do not change while they are mapped: either this process holds the directory's lock and
        // writes nothing meanwhile (recovery, offline tools), or `to` is a durable position, below which no block is
        // ever written again. Nothing shortens a segment; see the crate's documentation for what a foreign process could do.
        let map = unsafe { options.map(file) }.map_err(LogError::file("map", path))?;
        // Reading ahead beyond `to` would put pages into the page cache that the log is about to write directly.
        let advice = if live { Advice::Random } else { Advice::Sequential };
        map.advise(advice).map_err(LogError::file("madvise", path))?;
        // One request for the whole stretch: populating by itself reads page by page where reading ahead is off.
        map.advise(Advice::WillNeed).map_err(LogError::file("madvise", path))?;
        let unreadable = populate(&map).map_err(LogError::file("read", path))?;
        if unreadable.is_empty() {
            // Refused where RLIMIT_MEMLOCK is lower than a stride: then eviction stays possible, as the crate's top says.
            let _locked: bool = map.lock().is_ok();
        }
        Ok(Window { map: Some(map), start, unreadable })
    }

    /// Whether `pos` lies in this window's stride, at or behind its start.
    pub(crate) fn holds(&self, pos: u64) -> bool {
        pos >= self.start && stride_start(pos) == stride_start(self.start)
    }

    /// `len` bytes at `pos`, if all of them can be read.
    pub(crate) fn bytes(&self, pos: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(pos.checked_sub(self.start)?).ok()?;
        let range = from..from.checked_add(len)?;
        let hit = |bad: &Range<usize>| bad.start < range.end && range.start < bad.end;
        if self.unreadable.iter().any(hit) {
            return None;
        }
        self.map.as_ref()?.get(range)
    }

    /// The header at `pos`: (header, the payload's checksum, the payload's length).
    pub(crate) fn header(&self, pos: u64) -> Result<(Header, u32, usize), FrameError> {
        frame::parse_header(self.bytes(pos, HEADER_BYTES).ok_or(FrameError::Truncated)?)
    }

    /// The whole frame at `pos`.
    pub(crate) fn frame(&self, pos: u64) -> Result<Frame<'_>, FrameError> {
        let (_, _, payload_bytes) = self.header(pos)?;
        frame::parse(self.bytes(pos, HEADER_BYTES + payload_bytes).ok_or(FrameError::Truncated)?)
    }

    /// The checksum field of the header at `pos`, which must be whole.
    pub(crate) fn header_crc(&self, pos: u64) -> u32 {
        let bytes = self.bytes(pos, 4).expect("the caller parsed this header");
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    /// Whether a sector of the file that holds any of the `len` bytes at `pos` holds nothing but zeros.
    pub(crate) fn has_zero_sector(&self, pos: u64, len: usize) -> bool {
        let mut sectors = (pos / SECTOR_BYTES * SECTOR_BYTES..pos + len as u64).step_by(SECTOR_BYTES as usize);
        sectors.any(|sector| self.bytes(sector, SECTOR_BYTES as usize).is_some_and(is_zero))
    }

    /// The pages from position `from` on.
    pub(crate) fn pages(&self, from: u64) -> impl Iterator<Item = Page<'_>> {
        let len = self.map.as_ref().map_or(0, |map| map.len());
        let mut at = usize::try_from(from.saturating_sub(self.start)).unwrap_or(len);
        std::iter::from_fn(move || {
            if at >= len {
                return None;
            }
            let end = (at / PAGE + 1).saturating_mul(PAGE).min(len);
            let pos = self.start + at as u64;
            let page = self.bytes(pos, end - at).map_or(Page::Unreadable, |bytes| Page::Bytes(pos, bytes));
            at = end;
            Some(page)
        })
    }
}

/// Brings all pages in; the ranges that cannot be read.
fn populate(map: &Mmap) -> std::io::Result<Vec<Range<usize>>> {
    if is_readable(map.advise(Advice::PopulateRead))? {
        return Ok(Vec::new());
    }
    let mut unreadable = Vec::new();
    for start in (0..map.len()).step_by(PAGE) {
        let len = PAGE.min(map.len() - start);
        if !is_readable(map.advise_range(Advice::PopulateRead, start, len))? {
            unreadable.push(start..start + len);
        }
    }
    Ok(unreadable)
}

/// EFAULT stands where touching would raise SIGBUS (an I/O error, a shortened file), EHWPOISON for broken memory; anything
/// else is not about a page.
fn is_readable(result: std::io::Result<()>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON | libc::EIO)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a page, or a part of one, holds nothing but zeros.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    static ZEROS: [u8; PAGE] = [0; PAGE];
    page == &ZEROS[..page.len()]
}

/// Whether a frame is of this log.
pub(crate) fn is_ours(header: &Header, identity: &Identity) -> bool {
    header.cluster == identity.cluster && header.group == identity.group
}

/// The step between places where a frame may start, for searches.
pub(crate) fn lines(pos: u64, page: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let chunks = page.chunks_exact(frame::ALIGN).enumerate();
    chunks.map(move |(line, bytes)| (pos + (line * frame::ALIGN) as u64, bytes))
}

/// The start of what a flush may use in the stride at `start`, or `pos` if that is further.
pub(crate) fn search_start(geometry: &Geometry, start: u64, pos: u64) -> u64 {
    geometry.first(start).max(pos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_shortened_file_is_bytes_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let window = Window::map(&file, &path, STRIDE_BYTES, STRIDE_BYTES, u64::MAX, false).unwrap();
        assert_eq!(window.bytes(STRIDE_BYTES + 9_990, 10), Some(&[7; 10][..]));
        assert_eq!(window.bytes(STRIDE_BYTES + 9_990, 11), None);
        assert_eq!(window.bytes(STRIDE_BYTES - 1, 1), None);
        assert_eq!(window.bytes(u64::MAX, usize::MAX), None);
        assert_eq!(window.pages(STRIDE_BYTES + 64).count(), 3);
        let empty = Window::map(&file, &path, 0, 16_384, u64::MAX, false).unwrap();
        assert_eq!(empty.bytes(16_384, 1), None);
    }

    #[test]
    fn a_sector_of_zeros_is_one_of_the_file_not_of_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut bytes = [7; 4_000];
        bytes[1_000..2_000].fill(0);
        file.write_all(&bytes).unwrap();
        let window = Window::map(&file, &path, 0, 0, u64::MAX, false).unwrap();
        assert!(window.has_zero_sector(1_024, 512) && window.has_zero_sector(64, 961));
        assert!(!window.has_zero_sector(64, 960), "it ends before the sector");
        assert!(
            window.has_zero_sector(1_535, 64) && !window.has_zero_sector(1_536, 464),
            "512 zeros across two sectors"
        );
        assert!(!window.has_zero_sector(3_900, 400), "the file ends within the sector");
    }

    #[test]
    fn a_page_that_vanished_under_the_map_is_told_before_it_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(16_384).unwrap();
        // SAFETY: the map is only given to madvise, never read.
        let map = unsafe { MmapOptions::new().len(16_384).map(&file) }.unwrap();
        file.set_len(8_192).unwrap();
        assert_eq!(populate(&map).unwrap(), [8_192..12_288, 12_288..16_384]);
    }
}
