//! Segments as the scanner sees them: read-only maps of one stride at a time in which no page is touched that cannot be read.
//! Called by recovery and [`LogReader`](crate::LogReader); blocking. See "Reading through maps" at the crate's top.

use crate::layout::Geometry;
use crate::{Identity, LogError};
use std::path::Path;
use synod_ring::{BlockFile, View};
use synod_wire::frame::{self, Frame, FrameError, HEADER_BYTES, Header};

/// Pages are the unit of what can be unreadable.
pub(crate) const PAGE_BYTES: u64 = 4096;
const PAGE: usize = PAGE_BYTES as usize;
/// The smallest unit that a disk writes whole or not at all; larger ones are multiples of it.
const SECTOR_BYTES: u64 = 512;

/// Part of one stride.
#[derive(Debug)]
pub(crate) struct Window {
    view: View,
    start: u64,
    /// Where it was asked to end, at most at the stride's end.
    reach: u64,
    stride_end: u64,
}

/// What a page of a window holds.
pub(crate) enum Page<'a> {
    /// Its bytes, from the position asked for.
    Bytes(u64, &'a [u8]),
    /// It cannot be read.
    Unreadable,
}

impl Window {
    /// What `file` (of `path`, holding a segment) has of the stride at `start`, up to position `to`. The bytes below `to` do not change
    /// while the window lives: either this process holds the directory's lock and writes nothing meanwhile (recovery, offline
    /// tools), or `to` is a durable position, below which no block is ever written again. Nothing shortens a segment; see the
    /// crate's documentation for what a foreign process could do.
    pub(crate) fn open(
        geometry: &Geometry,
        file: &dyn BlockFile,
        path: &Path,
        start: u64,
        to: u64,
    ) -> Result<Window, LogError> {
        assert!(start.is_multiple_of(PAGE_BYTES));
        let file_bytes = file.len_bytes().map_err(LogError::file("stat", path))?;
        let (offset, stride_end) = (geometry.offset(start), geometry.stride_end(start));
        let reach = stride_end.min(to);
        let end = reach.min(start - offset + file_bytes);
        let bytes = end.saturating_sub(start) as usize;
        let view = file.view(offset, bytes).map_err(LogError::file("map", path))?;
        Ok(Window { view, start, reach, stride_end })
    }

    /// What was read of the stride at `start` beforehand.
    pub(crate) fn read(geometry: &Geometry, view: View, start: u64) -> Window {
        Window { start, reach: start + view.len() as u64, stride_end: geometry.stride_end(start), view }
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Where it was asked to end, at most at the stride's end.
    pub(crate) fn reach(&self) -> u64 {
        self.reach
    }

    /// Whether `pos` lies in this window's stride, at or behind its start.
    pub(crate) fn holds(&self, pos: u64) -> bool {
        (self.start..self.stride_end).contains(&pos)
    }

    /// `len` bytes at `pos`, if all of them can be read.
    pub(crate) fn bytes(&self, pos: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(pos.checked_sub(self.start)?).ok()?;
        self.view.get(from..from.checked_add(len)?)
    }

    /// The header at `pos`: (header, the payload's checksum, the payload's length).
    pub(crate) fn header(&self, pos: u64) -> Result<(Header, u32, usize), FrameError> {
        frame::parse_header(self.bytes(pos, HEADER_BYTES).ok_or(FrameError::Truncated)?)
    }

    /// The whole frame at `pos`.
    pub(crate) fn frame(&self, pos: u64) -> Result<Frame<'_>, FrameError> {
        let (header, payload_crc, payload_bytes) = self.header(pos)?;
        let payload = self.bytes(pos + HEADER_BYTES as u64, payload_bytes).ok_or(FrameError::Truncated)?;
        if frame::checksum(payload) != payload_crc {
            return Err(FrameError::Checksum);
        }
        Ok(Frame { header, payload_crc, payload })
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

    /// The pages from position `from` on, up to where the file knows of nothing but zeros.
    pub(crate) fn pages(&self, from: u64) -> impl Iterator<Item = Page<'_>> {
        let len = self.view.used().next_multiple_of(PAGE).min(self.view.len());
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
    use crate::STRIDE_BYTES;
    use std::fs::File;
    use std::io::Write;

    const GEOMETRY: Geometry = Geometry { segment_bytes: STRIDE_BYTES, stride_bytes: STRIDE_BYTES, block_bytes: 4096 };

    #[test]
    fn a_shortened_file_is_bytes_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let window = Window::open(&GEOMETRY, &file, &path, STRIDE_BYTES, u64::MAX).unwrap();
        assert_eq!(window.bytes(STRIDE_BYTES + 9_990, 10), Some(&[7; 10][..]));
        assert_eq!(window.bytes(STRIDE_BYTES + 9_990, 11), None);
        assert_eq!(window.bytes(STRIDE_BYTES - 1, 1), None);
        assert_eq!(window.bytes(u64::MAX, usize::MAX), None);
        assert_eq!(window.pages(STRIDE_BYTES + 64).count(), 3);
        let empty = Window::open(&GEOMETRY, &file, &path, 16_384, u64::MAX).unwrap();
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
        let window = Window::open(&GEOMETRY, &file, &path, 0, u64::MAX).unwrap();
        assert!(window.has_zero_sector(1_024, 512) && window.has_zero_sector(64, 961));
        assert!(!window.has_zero_sector(64, 960), "it ends before the sector");
        assert!(
            window.has_zero_sector(1_535, 64) && !window.has_zero_sector(1_536, 464),
            "512 zeros across two sectors"
        );
        assert!(!window.has_zero_sector(3_900, 400), "the file ends within the sector");
    }
}
