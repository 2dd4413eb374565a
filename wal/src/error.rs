//! What can go wrong with a log that is not our own bug. Every text says what happened, where, and how to mend it.

use std::io;
use std::path::{Path, PathBuf};
use synod_wire::Lsn;

/// An error of the log. After [`LogError::WriteFailed`] the log in memory must not be trusted: the shard ends.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A setting that does not fit.
    #[error("{field} = {value} does not fit a log: it must be {rule}")]
    Setting {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        rule: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}. Check the file system, its permissions and the kernel's log, then start again", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process owns the directory.
    #[error("the log in {} is in use by another process (it holds {}/lock). Stop that process, or give this one a directory of its own", dir.display(), dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory to be formatted holds a log.
    #[error("{} already holds a log ({}). Start without formatting, or, if that log is to be given up for good, move it away and rejoin under a new incarnation", dir.display(), found.display())]
    Formatted {
        /// The directory.
        dir: PathBuf,
        /// What was found in it.
        found: PathBuf,
    },
    /// The directory holds no log.
    #[error("{} holds no log. Format it if this node is new; if it had a log here, find that disk: an emptied node must rejoin under a new incarnation", dir.display())]
    NotFormatted {
        /// The directory.
        dir: PathBuf,
    },
    /// A segment that must exist does not.
    #[error("the segment {} is missing, though {why}. Put it back; if it is lost, this node must rejoin under a new incarnation", path.display())]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
        /// Why it should.
        why: &'static str,
    },
    /// The log was to be read from its beginning, which is gone.
    #[error("the log in {} begins at {}: what was before was removed, so a snapshot must say where to start. Put the snapshot (.snap) back; if none is left, this node must rejoin under a new incarnation", dir.display(), first.display())]
    FrontRemoved {
        /// The directory.
        dir: PathBuf,
        /// Its first segment.
        first: PathBuf,
    },
    /// The snapshot and the log do not fit: nothing was changed.
    #[error("the log is to be read on from lsn {expected} in {}, but the first record there has lsn {found}: the snapshot is not of this log. Put the right files back, or let this node rejoin under a new incarnation", path.display())]
    WrongStart {
        /// The segment to start at.
        path: PathBuf,
        /// The Lsn that the caller expects.
        expected: Lsn,
        /// The Lsn that is there.
        found: Lsn,
    },
    /// A snapshot that is not whole. The one before it is to be used.
    #[error("the snapshot {} cannot be used: {what}. An earlier one serves as well, if its log is there; else fetch one from a peer", path.display())]
    BadSnapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes of the log that retention removed were asked for. Not an error of the disk: read a snapshot, or ask from `first_pos` on.
    #[error("the log was removed up to position {first_pos}. Read a snapshot, then go on from there")]
    Trimmed {
        /// Where the first flush that is left starts.
        first_pos: u64,
    },
    /// More empty segments lie ahead than this program ever prepares.
    #[error("the segment {} lies too far ahead of the log's end and holds nothing. It is not of this program's making: move it away", path.display())]
    StraySegment {
        /// The file.
        path: PathBuf,
    },
    /// No segment has a readable header.
    #[error("no segment in {} has a readable header, so nobody can tell whose log it is. This node must rejoin under a new incarnation", dir.display())]
    NoHeader {
        /// The directory.
        dir: PathBuf,
    },
    /// The founding record is gone, and so is everything else.
    #[error("the first record in {} is not readable and nothing follows it. This node must rejoin under a new incarnation", path.display())]
    NoFoundingRecord {
        /// Segment 0.
        path: PathBuf,
    },
    /// A segment of another format.
    #[error("{} has format {found}, this program reads format {}. Use the release that wrote it", path.display(), synod_wire::frame::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// A segment of another cluster, group, node, incarnation, or of other sizes than the rest.
    #[error("{} has {field} {found}, expected {expected}. {mend}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What the file says.
        found: u64,
        /// What it should say.
        expected: u64,
        /// What to do about it.
        mend: &'static str,
    },
    /// A whole record whose body its kind does not allow: another program's, or a bug's. Found by the caller.
    #[error("the log in {} cannot be taken over: {what}. Use the release that wrote it, or replace this node", dir.display())]
    Malformed {
        /// The directory.
        dir: PathBuf,
        /// Which record, and what is wrong with it.
        what: String,
    },
    /// The disk is full.
    #[error("no space for {}: {bytes} bytes are needed. Free or add space on its file system; the log goes on until its current segment is full", path.display())]
    NoSpace {
        /// The file to be.
        path: PathBuf,
        /// Bytes that it needs.
        bytes: u64,
    },
    /// The file system does not take direct writes as a log makes them.
    #[error("{} cannot be written directly ({reason}). Put the log on a local ext4 or XFS file system", path.display())]
    NoDirectIo {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A write of the log failed. It is never tried again: after an error the kernel may have dropped the data.
    #[error("writing {bytes} bytes at offset {offset} of {} failed ({reason}). The shard ends; check the disk before it is started again", segment.display())]
    WriteFailed {
        /// The segment.
        segment: PathBuf,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// The errno's text, or what is wrong with the count.
        reason: String,
    },
    /// The reactor did not take a segment file.
    #[error("the reactor cannot register the segment {}: {source}", segment.display())]
    Attach {
        /// The segment.
        segment: PathBuf,
        /// Why.
        source: synod_ring::IoError,
    },
    /// No whole record lies at that place.
    #[error("no readable record of {bytes} bytes lies at position {pos} ({}). Run `synod verify`; fetch the record from a peer", segment.display())]
    NoRecord {
        /// The segment.
        segment: PathBuf,
        /// The position asked for.
        pos: u64,
        /// The length asked for.
        bytes: u32,
    },
    /// A log that may be in use was to be read without a bound.
    #[error("the log in {} is not locked by this reader, so it can be read only up to a durable position. Stop the node first, or ask it for its durable position", dir.display())]
    Unbounded {
        /// The directory.
        dir: PathBuf,
    },
}

impl LogError {
    /// The system's number of the error, where it is one of the system's.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            LogError::NoSpace { .. } => Some(libc::ENOSPC),
            LogError::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::File { action, path: path.to_path_buf(), source }
    }
}
