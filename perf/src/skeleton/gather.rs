//! Group commit: what comes while a write is in flight gathers, and the next write covers it all.
//!
//! Two regions of registered memory take turns: one is being written (and sent from), the other fills. A region is
//! touched again only after its write ended, which is later than the poll that its datagrams left with.
//! Called by: leader and follower.

use super::message::{HEAD_BYTES, Kind, write_head};
use crate::files::{BLOCK_BYTES, LOG_BYTES};
use anyhow::{Context, bail, ensure};
use std::path::Path;
use std::sync::Arc;
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
        io.attach(FILE, Arc::new(crate::files::open_log(path)?)).context("cannot register the log file")
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
        self.writing.is_none() && (self.used > 0 || self.open.is_some())
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

#[cfg(test)]
mod tests {
    use super::super::message::parse;
    use super::*;
    use std::net::SocketAddrV4;
    use synod_ring::{Event, IoError, RxBuf};

    const ENTRY: usize = 100;
    const DATAGRAM: usize = HEAD_BYTES + 2 * ENTRY;

    /// Notes what is asked of it.
    #[derive(Default)]
    struct Noted {
        sent: Vec<Vec<u8>>,
        /// Offset, bytes, token.
        written: Vec<(u64, Vec<u8>, u64)>,
    }

    impl Io for Noted {
        type Job = ();
        type Done = ();

        fn poll(&mut self, _: u64, _: bool, _: &mut Vec<Event<()>>) -> Result<(), IoError> {
            unreachable!("the log never waits")
        }
        fn now_ns(&self) -> u64 {
            0
        }
        fn wall_ns(&self) -> u64 {
            0
        }
        fn datagram(&self, _: &RxBuf) -> &[u8] {
            unreachable!("the log receives nothing")
        }
        fn release(&mut self, _: RxBuf) {}
        fn send_peer(&mut self, _: usize, bytes: Slice<'_>) {
            self.sent.push(bytes.bytes().to_vec());
        }
        fn send_client(&mut self, _: SocketAddrV4, _: Slice<'_>) {
            unreachable!("the log knows no client")
        }
        fn attach(&mut self, _: FileSlot, _: Arc<dyn synod_ring::BlockFile>) -> Result<(), IoError> {
            Ok(())
        }
        fn write(&mut self, _: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
            self.written.push((offset, bytes.bytes().to_vec(), token));
        }
        fn request(&mut self, (): ()) -> Result<(), ()> {
            Err(())
        }
    }

    fn gather(durable: bool) -> Gather {
        Gather::new(Arena::new(Gather::arena_bytes()).unwrap(), durable, ENTRY, DATAGRAM)
    }

    fn flush(gather: &mut Gather, io: &mut Noted) {
        gather.flush(io, |io, datagram| io.send_peer(1, datagram));
    }

    #[test]
    fn what_comes_during_a_write_is_covered_by_the_next() {
        let (mut gather, mut io) = (gather(true), Noted::default());
        gather.push_entry(&[1; ENTRY]).unwrap();
        flush(&mut gather, &mut io);
        assert_eq!((io.sent.len(), io.written.len()), (1, 1));
        for byte in 2..=4 {
            gather.push_entry(&[byte; ENTRY]).unwrap();
            assert!(!gather.is_due(), "a write is in flight");
        }
        assert_eq!(io.written[0].1.len(), BLOCK_BYTES);
        gather.written(1, Ok(BLOCK_BYTES)).unwrap();
        assert_eq!(gather.durable_upto(), 1);
        flush(&mut gather, &mut io);
        let datagrams: Vec<(u64, usize)> =
            io.sent.iter().map(|sent| parse(sent).unwrap()).map(|message| (message.first, message.entries)).collect();
        assert_eq!(datagrams, [(0, 1), (1, 2), (3, 1)]);
        let (offset, bytes, upto) = &io.written[1];
        assert_eq!((*offset, *upto), (BLOCK_BYTES as u64, 4));
        assert!(bytes.windows(ENTRY).any(|run| run == [4; ENTRY]), "the last entry is written");
        assert_eq!(gather.durable_upto(), 1, "not before its write ended");
        gather.written(4, Ok(BLOCK_BYTES)).unwrap();
        assert_eq!(gather.durable_upto(), 4);
        assert!(!gather.is_due());
    }

    #[test]
    fn a_follower_writes_the_datagrams_as_they_came_and_notices_a_loss() {
        let (mut leader, mut follower, mut io) = (gather(true), gather(true), Noted::default());
        (1..=3).for_each(|byte| leader.push_entry(&[byte; ENTRY]).unwrap());
        flush(&mut leader, &mut io);
        for sent in &io.sent {
            let message = parse(sent).unwrap();
            follower.push_datagram(sent, message.first, message.entries).unwrap();
        }
        flush(&mut follower, &mut io);
        assert_eq!(io.written[0].1, io.written[1].1, "leader and follower write the same bytes");
        let error = follower.push_datagram(&io.sent[1], 4, 1).unwrap_err();
        assert!(error.to_string().contains("entry 4 came where 3 was next"), "{error}");
    }

    #[test]
    fn without_a_log_a_flush_is_done_at_once() {
        let (mut gather, mut io) = (gather(false), Noted::default());
        gather.push_entry(&[1; ENTRY]).unwrap();
        flush(&mut gather, &mut io);
        assert_eq!((gather.durable_upto(), io.sent.len(), io.written.len()), (1, 1, 0));
    }

    #[test]
    fn an_error_or_a_short_write_is_not_durable() {
        for result in [Err(libc::EIO), Ok(512)] {
            let (mut gather, mut io) = (gather(true), Noted::default());
            gather.push_entry(&[1; ENTRY]).unwrap();
            flush(&mut gather, &mut io);
            gather.written(1, result).unwrap_err();
            assert_eq!(gather.durable_upto(), 0);
        }
    }

    #[test]
    fn the_file_is_written_round_and_round() {
        let (mut gather, mut io) = (gather(true), Noted::default());
        for entry in 1..=LOG_BYTES / BLOCK_BYTES as u64 + 1 {
            gather.push_entry(&[1; ENTRY]).unwrap();
            gather.flush(&mut io, |_, _| {});
            gather.written(entry, Ok(BLOCK_BYTES)).unwrap();
            let (offset, _, _) = io.written.pop().unwrap();
            assert_eq!(offset, (entry - 1) * BLOCK_BYTES as u64 % LOG_BYTES);
        }
    }
}
