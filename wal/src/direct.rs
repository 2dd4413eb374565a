//! Reading a live log once, as is done for snapshots and for members that lag: around the page cache, into memory that is used
//! again. Maps cost more there: each is populated, locked and unmapped, which interrupts every core that runs a thread of this
//! process, and the cache fills with what nobody reads again.

use crate::LogError;
use crate::directory::open_to_read_directly;
use crate::segment::Segments;
use crate::window::{PAGE_BYTES, Window};
use std::sync::Arc;
use synod_ring::{Arena, BlockFile, View};

/// What is read before somebody looks at it, at most.
pub(crate) const STRETCH_BYTES: u64 = 512 << 10;

/// The file being read, and the memory that it is read into.
#[derive(Debug)]
pub(crate) struct DirectReads {
    /// What is asked for at once.
    piece_bytes: usize,
    /// None until the first stretch.
    buffer: Option<Arc<Arena>>,
    file: Option<(u64, Arc<dyn BlockFile>)>,
}

impl DirectReads {
    pub(crate) fn new(piece_bytes: usize) -> DirectReads {
        DirectReads { piece_bytes, buffer: None, file: None }
    }

    /// As from the start: what it had open is not held any longer.
    pub(crate) fn renewed(&self) -> DirectReads {
        DirectReads::new(self.piece_bytes)
    }

    /// As [`Segments::window`], of at most [`STRETCH_BYTES`]; `start` is where a block starts. None if a part of it cannot be read: a map
    /// tells which pages those are.
    pub(crate) fn window(&mut self, segments: &Segments, start: u64, to: u64) -> Result<Option<Window>, LogError> {
        let segment = segments.geometry.segment(start);
        let path = &segments.file(segment).path;
        let offset = segments.geometry.offset(start);
        let end = segments.geometry.stride_end(start).min(to);
        let bytes = (end - start).min(STRETCH_BYTES) as usize;
        if self.file.as_ref().is_none_or(|(of, _)| *of != segment) {
            self.file = Some((segment, open_to_read_directly(&segments.dir, segment)?));
        }
        let (_, file) = self.file.as_ref().expect("opened above");
        // A window that is still looked at keeps its memory.
        let mut buffer = match self.buffer.take().and_then(Arc::into_inner) {
            Some(buffer) => buffer,
            None => Arena::new(STRETCH_BYTES as usize).map_err(LogError::file("map a buffer to read", path))?,
        };
        let block_bytes = segments.geometry.block_bytes.max(PAGE_BYTES) as usize;
        let all = buffer.get_mut(0, bytes.next_multiple_of(block_bytes));
        let mut at = offset;
        for piece in all.chunks_mut(self.piece_bytes) {
            if file.read_at(piece, at).is_err() {
                // The map that takes its place meets the same, page by page, and reports it.
                self.buffer = Some(Arc::new(buffer));
                return Ok(None);
            }
            at += piece.len() as u64;
        }
        let buffer = self.buffer.insert(Arc::new(buffer));
        Ok(Some(Window::read(&segments.geometry, View::arena(buffer.clone(), bytes), start)))
    }
}
