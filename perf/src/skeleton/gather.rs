//! Group commit: what comes while a write is in flight gathers, and the next write covers it all.
//!
//! Two regions of registered memory take turns: one is being written (and sent from), the other fills. A region is
//! touched again only after its write ended, which is later than the poll that its datagrams left with.
//! Called by: leader and follower.

use super::message::{HEAD_BYTES, Kind, write_head};
use crate::files::{BLOCK_BYTES, LOG_BYTES};
use anyhow::{Context, bail, ensure};
use std::path::Path;
use synod_ring::{Arena, FileSlot, Io, Slice};

/// Bytes of a region: far more than the largest window here sends at once.
const REGION_BYTES: usize = 4 << 20;
/// The only log file.
const FILE: FileSlot = FileSlot(0);

/// A datagram's place in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Image {
    start: usize,
    len: usize,
}

/// A datagram being filled.
#[derive(Clone, Copy, Debug)]
struct OpenImage {
    start: usize,
    first: u64,
    entries: usize,
}

/// The log of a node, as far as a skeleton has one.
pub(super) struct Gather {
    arena: Arena,
    /// Whether flushes go to disk; else they are done at once.
    durable: bool,
    entry_bytes: usize,
    datagram_bytes: usize,
    /// The region that fills: 0 or 1.
    region: usize,
    used: usize,
    images: Vec<Image>,
    open: Option<OpenImage>,
    /// Behind the last entry gathered.
    next: u64,
    /// Behind the last entry that is durable.
    durable_upto: u64,
    /// The write in flight: its bytes, and what it makes durable.
    writing: Option<(usize, u64)>,
    file_offset: u64,
}

impl Gather {
    /// An empty log; `arena` is the reactor's log arena, of [`Gather::arena_bytes`].
    pub(super) fn new(arena: Arena, durable: bool, entry_bytes: usize, datagram_bytes: usize) -> Gather {
        assert!(arena.len() >= Gather::arena_bytes(), "the arena holds two regions");
        Gather {
            arena,
            durable,
            entry_bytes,
            datagram_bytes,
            region: 0,
            used: 0,
            images: Vec::with_capacity(1_024),
            open: None,
            next: 0,
            durable_upto: 0,
            writing: None,
            file_offset: 0,
        }
    }

    /// What the arena must hold.
    pub(super) fn arena_bytes() -> usize {
        2 * REGION_BYTES
    }

    /// Hands the log's file to the reactor.
    pub(super) fn attach<I: Io>(&self, io: &mut I, path: &Path) -> anyhow::Result<()> {
        io.attach(FILE, crate::files::open_log(path)?).context("cannot register the log file")
    }

    /// Behind the last entry gathered.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Behind the last durable entry.
    pub(super) fn durable_upto(&self) -> u64 {
        self.durable_upto
    }

    /// Whether a write is in flight.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether a flush would do something.
    pub(super) fn is_due(&self) -> bool {
        self.writing.is_none() && self.used > 0
    }

    /// The leader's way: an entry joins the datagram that is being filled.
    pub(super) fn push_entry(&mut self, entry: &[u8]) -> anyhow::Result<()> {
        assert_eq!(entry.len(), self.entry_bytes, "all entries have one size");
        let full = |open: &OpenImage| HEAD_BYTES + (open.entries + 1) * self.entry_bytes > self.datagram_bytes;
        if self.open.as_ref().is_some_and(full) {
            self.close_image();
        }
        let mut open = match self.open {
            Some(open) => open,
            None => OpenImage { start: self.reserve(self.datagram_bytes)?, first: self.next, entries: 0 },
        };
        let at = self.base() + open.start + HEAD_BYTES + open.entries * self.entry_bytes;
        self.arena.get_mut(at, entry.len()).copy_from_slice(entry);
        open.entries += 1;
        self.open = Some(open);
        self.next += 1;
        Ok(())
    }

    /// The follower's way: a whole datagram with entries `first..first + entries`.
    pub(super) fn push_datagram(&mut self, datagram: &[u8], first: u64, entries: usize) -> anyhow::Result<()> {
        ensure!(first == self.next, "entry {first} came where {} was next: a datagram was lost", self.next);
        let start = self.reserve(datagram.len())?;
        let at = self.base() + start;
        self.arena.get_mut(at, datagram.len()).copy_from_slice(datagram);
        self.used = start + datagram.len();
        self.next += entries as u64;
        Ok(())
    }

    /// Closes what gathered and writes it. Hands each datagram of the leader's way to `send` first.
    ///
    /// # Panics
    /// If no flush is due.
    pub(super) fn flush<I: Io>(&mut self, io: &mut I, mut send: impl FnMut(&mut I, Slice<'_>)) {
        assert!(self.is_due(), "nothing to flush, or a write is in flight");
        self.close_image();
        let base = self.base();
        for image in self.images.drain(..) {
            send(io, self.arena.slice(base + image.start, image.len));
        }
        let bytes = self.used.next_multiple_of(BLOCK_BYTES);
        if self.durable {
            if self.file_offset + bytes as u64 > LOG_BYTES {
                self.file_offset = 0;
            }
            io.write(FILE, self.file_offset, self.arena.slice(base, bytes), self.next);
            self.file_offset += bytes as u64;
            self.writing = Some((bytes, self.next));
        } else {
            self.durable_upto = self.next;
        }
        self.region = 1 - self.region;
        self.used = 0;
    }

    /// A write ended.
    pub(super) fn written(&mut self, token: u64, result: Result<usize, i32>) -> anyhow::Result<()> {
        let (bytes, upto) = self.writing.take().context("a completion of no write")?;
        assert_eq!(token, upto, "one write is in flight at a time");
        match result {
            Ok(written) if written == bytes => {
                self.durable_upto = upto;
                Ok(())
            }
            Ok(written) => bail!("a log write ended after {written} of {bytes} bytes"),
            Err(errno) => Err(std::io::Error::from_raw_os_error(errno)).context("a log write failed"),
        }
    }

    fn base(&self) -> usize {
        self.region * REGION_BYTES
    }

    fn reserve(&self, bytes: usize) -> anyhow::Result<usize> {
        ensure!(
            self.used + bytes <= REGION_BYTES,
            "more than {REGION_BYTES} bytes came during one log write: choose fewer or smaller entries in flight"
        );
        Ok(self.used)
    }

    fn close_image(&mut self) {
        let Some(open) = self.open.take() else { return };
        let len = HEAD_BYTES + open.entries * self.entry_bytes;
        let head = self.arena.get_mut(self.region * REGION_BYTES + open.start, HEAD_BYTES);
        write_head(head, Kind::Forward, 0, open.first, open.entries, self.entry_bytes);
        self.images.push(Image { start: open.start, len });
        self.used = open.start + len;
    }
}
