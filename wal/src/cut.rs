//! The cut of a torn tail: so that what is appended next stands right behind what is kept, and no later scan comes by the rest.
//! Called by recovery. Its steps, and why they may be interrupted, stand at the crate's top under *The cut*.

use crate::directory::{open_direct, segment_name};
use crate::layout::{Geometry, trailer_bytes};
use crate::scan::End;
use crate::segment::Segments;
use crate::trailer::{self, TrailerFields};
use crate::window::{Page, is_zero, search_start};
use crate::{LogError, TornTail};
use std::path::Path;
use synod_ring::{Arena, BlockFile, Haste};
use synod_wire::mutant::mutant;
use synod_wire::record::TrailerEntry;

/// Cuts the torn tail at `end`, durably; where to append, and what was cut.
pub(crate) fn cut(segments: &mut Segments, end: &End) -> Result<(u64, TornTail), LogError> {
    let geometry = segments.geometry;
    let start = geometry.block_ceil(end.at);
    let bytes = geometry.block_ceil(trailer_bytes(end.kept.len()));
    let stride_end = geometry.stride_end(end.at);
    assert!(start + bytes <= stride_end, "every flush leaves room for a cut");
    let dirty = dirty_from(segments, start)?;
    let behind = dirty.last().map_or(0, |last| last + geometry.block_bytes).max(start + bytes);
    let mark = write_mark(segments, end, behind)?;
    let voided = match end.whole_trailer {
        Some(trailer) if trailer < start => zero_behind(segments, end.at)?,
        _ => 0,
    };
    if !mutant("cut_not_zeroed") {
        zero(segments, &dirty)?;
    }
    let next = geometry.next_start(start + bytes, stride_end);
    let fields = TrailerFields {
        start: end.flush_start,
        next,
        lsn: end.last_lsn,
        mark: end.last_lsn,
        promised: end.promised,
        is_cut_mark: false,
    };
    write_trailer(segments, start, &fields, &end.kept)?;
    zero(segments, &[mark])?;
    let cut_bytes = voided + dirty.len() as u64 * geometry.block_bytes;
    Ok((next, TornTail { pos: end.at, kept: end.kept.len(), cut_bytes }))
}

/// Writes a mark of its own behind all that will be zeroed (`behind`: where a block ends), in a new segment if the last one ends
/// there; where it lies. The cut takes the marks of the torn flushes, and only they may tell that what is bad before the tail was
/// durable.
fn write_mark(segments: &mut Segments, end: &End, behind: u64) -> Result<u64, LogError> {
    let geometry = segments.geometry;
    let start = geometry.next_start(behind, geometry.stride_end(behind - 1));
    if !segments.holds(start) {
        segments.prepare_next()?;
    }
    let next = geometry.next_start(start + geometry.block_bytes, geometry.stride_end(start));
    let fields =
        TrailerFields { start, next, lsn: end.last_lsn, mark: end.last_lsn, promised: end.promised, is_cut_mark: true };
    if !mutant("cut_takes_the_marks") {
        write_trailer(segments, start, &fields, &[])?;
    }
    Ok(start)
}

/// Writes a trailer to blocks of its own at `pos`, and syncs.
fn write_trailer(
    segments: &Segments,
    pos: u64,
    fields: &TrailerFields,
    entries: &[TrailerEntry],
) -> Result<(), LogError> {
    let (geometry, path) = (&segments.geometry, &segments.file_at(pos).path);
    let used = trailer_bytes(entries.len());
    let bytes = geometry.block_ceil(used) as usize;
    let mut blocks = Arena::new(bytes).map_err(LogError::file("map a buffer to write", path))?;
    trailer::write(blocks.get_mut(0, used as usize), &segments.identity, fields, entries);
    let file = open_direct(&segments.dir, &segment_name(geometry.segment(pos)), false)?;
    file.write_at(blocks.get(0, bytes), geometry.offset(pos))
        .and_then(|()| file.sync())
        .map_err(LogError::file("write the cut of", path))
}

/// Zeroes what lies behind the kept records in their last block, and syncs; how many bytes. The torn flush's own trailer is whole
/// there: besides the cut's it would name the lost records for ever. Nothing in this block was ever acknowledged (the flush is
/// torn, and this recovery did not return yet), and the kept bytes stay the same.
fn zero_behind(segments: &Segments, at: u64) -> Result<u64, LogError> {
    let geometry = &segments.geometry;
    let block = at / geometry.block_bytes * geometry.block_bytes;
    let segment = segments.file_at(block);
    let bytes = geometry.block_bytes as usize;
    let mut buffer = Arena::new(bytes).map_err(LogError::file("map a buffer to write", &segment.path))?;
    segment
        .file
        .read_at(buffer.get_mut(0, (at - block) as usize), geometry.offset(block))
        .map_err(LogError::file("read", &segment.path))?;
    let file = open_direct(&segments.dir, &segment_name(geometry.segment(block)), false)?;
    file.write_at(buffer.get(0, bytes), geometry.offset(block))
        .and_then(|()| file.sync())
        .map_err(LogError::file("void the torn trailer in", &segment.path))?;
    Ok(block + geometry.block_bytes - at)
}

/// Zeroes these blocks (in ascending order), and syncs.
fn zero(segments: &Segments, blocks: &[u64]) -> Result<(), LogError> {
    let geometry = &segments.geometry;
    for blocks in blocks.chunk_by(|a, b| geometry.segment(*a) == geometry.segment(*b)) {
        let index = geometry.segment(blocks[0]);
        let path = &segments.file(index).path;
        let file = open_direct(&segments.dir, &segment_name(index), false)?;
        for block in blocks {
            let offset = geometry.offset(*block);
            file.zero(offset, offset + geometry.block_bytes, &Haste::at_once())
                .map_err(LogError::file("zero", path))?;
        }
        file.sync().map_err(LogError::file("sync", path))?;
    }
    Ok(())
}

/// The blocks from `from` on that hold anything but zeros, or cannot be read, in all segments; each has its whole length then.
fn dirty_from(segments: &Segments, from: u64) -> Result<Vec<u64>, LogError> {
    let geometry = &segments.geometry;
    let mut blocks = Vec::new();
    for index in geometry.segment(from)..segments.end_index() {
        let file = open_direct(&segments.dir, &segment_name(index), false)?;
        restore_length(&*file, &segments.file(index).path, geometry)?;
        let segment_start = index * geometry.segment_bytes;
        for stride in (0..geometry.segment_bytes).step_by(geometry.stride_bytes as usize).map(|at| segment_start + at) {
            if geometry.stride_end(stride) > from {
                dirty_in_stride(segments, search_start(geometry, stride, from), &mut blocks)?;
            }
        }
    }
    Ok(blocks)
}

/// The same from `from` to its stride's end.
fn dirty_in_stride(segments: &Segments, from: u64, blocks: &mut Vec<u64>) -> Result<(), LogError> {
    let window = segments.window(segments.geometry.stride_start(from), u64::MAX)?;
    let block_bytes = segments.geometry.block_bytes;
    let mut pos = from;
    for page in window.pages(from) {
        let (bytes, dirty) = match page {
            Page::Bytes(_, bytes) => (bytes.len() as u64, !is_zero(bytes)),
            Page::Unreadable => (u64::from(crate::MIN_BLOCK_BYTES), true),
        };
        let block = pos / block_bytes * block_bytes;
        if dirty && blocks.last() != Some(&block) {
            blocks.push(block);
        }
        pos += bytes;
    }
    Ok(())
}

/// A shortened segment gets its length and its zeros back before anything is appended to it.
pub(crate) fn restore_length(file: &dyn BlockFile, path: &Path, geometry: &Geometry) -> Result<(), LogError> {
    let bytes = file.len_bytes().map_err(LogError::file("stat", path))?;
    if bytes >= geometry.segment_bytes {
        return Ok(());
    }
    file.set_len_bytes(geometry.segment_bytes).map_err(LogError::file("restore the length of", path))?;
    file.zero(geometry.block_ceil(bytes), geometry.segment_bytes, &Haste::at_once())
        .map_err(LogError::file("zero", path))?;
    file.sync().map_err(LogError::file("sync", path))
}
