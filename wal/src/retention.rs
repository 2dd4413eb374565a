//! Removing the front of a log: segments that a snapshot made needless. Called by housekeeping, beside the appender and readers;
//! blocking.
//!
//! # Why it may be interrupted anywhere
//! The files are removed one by one, from the lowest, and a file system with a journal makes removals durable in their order. So
//! whatever a crash leaves is the log without some prefix of its segments: a log whose front was removed up to a segment at or
//! below the one asked for, where the snapshot says to start. The next removal goes on from there.

use crate::directory::{list, open_direct, open_read, segment_name, segment_path, sync_dir};
use crate::window::is_zero;
use crate::{Dir, LogError, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES};
use std::io;
use synod_ring::Arena;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes the segments below `before_segment` of the log in `dir`, durably. The caller has a durable snapshot of all that
/// they hold, and `before_segment` is at most the segment of [`Log::durable_pos`](crate::Log::durable_pos). The last segment
/// that anything was written to, and what is prepared behind it, stay whatever is asked for. A
/// [`LogReader`](crate::LogReader) keeps what it has open, and its space, until it is refreshed.
pub fn remove_front(dir: impl Into<Dir>, before_segment: u64) -> Result<Removed, LogError> {
    let dir = dir.into();
    let segments = list(&dir)?.segments;
    let before = before_segment.min(last_written(&dir, &segments)?);
    let mut removed = Removed::default();
    for index in segments.into_iter().take_while(|index| *index < before) {
        let path = segment_path(&dir, index);
        // Closed again before it is removed: the space of a file that somebody has open goes back in one go.
        let bytes = open_read(&dir, &segment_name(index))?.len_bytes().map_err(LogError::file("stat", &path))?;
        dir.remove(&segment_name(index)).map_err(LogError::file("remove", &path))?;
        removed.segments += 1;
        removed.bytes += bytes;
    }
    if removed.segments > 0 {
        sync_dir(&dir)?;
    }
    Ok(removed)
}

/// The last segment with a flush: all but the two or three behind it, which are prepared, have one. Read around the page cache, which
/// must not hold what is being written.
fn last_written(dir: &Dir, segments: &[u64]) -> Result<u64, LogError> {
    for index in segments.iter().rev().copied() {
        if is_written(dir, index)? {
            return Ok(index);
        }
    }
    Ok(segments.first().copied().unwrap_or(0))
}

/// Whether a segment's first flush has begun to reach the disk: it starts behind the header, which is at most a
/// [`MAX_BLOCK_BYTES`] long and at least a [`MIN_BLOCK_BYTES`].
fn is_written(dir: &Dir, index: u64) -> Result<bool, LogError> {
    let path = segment_path(dir, index);
    let file = open_direct(dir, &segment_name(index), false)?;
    let bytes = 2 * MAX_BLOCK_BYTES as usize;
    let mut buffer = Arena::new(bytes).map_err(LogError::file("map a buffer to read", &path))?;
    match file.read_at(buffer.get_mut(0, bytes), 0) {
        Ok(()) => {}
        // Unreadable or cut off: it does not count, so less is removed.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
        Err(error) => return Err(LogError::file("read", &path)(error)),
    }
    let page = MIN_BLOCK_BYTES as usize;
    // A header block is zeros behind its frame, so what follows the first page is zeros or a flush.
    Ok((page..bytes).step_by(page).any(|at| !is_zero(buffer.get(at, page))))
}
