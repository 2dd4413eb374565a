//! Entries that came in datagrams of any order, held until their turn: used by [`crate::ReadCore`] and
//! [`crate::SubscribeCore`]. Bounded by the datagrams that it was made for, whose buffers are used again.

use crate::reply::split_read_entry;
use synod_wire::Sequence;

/// An entry of the log, borrowed from the buffer that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Its place in the group's total order.
    pub sequence: Sequence,
    /// The leader's timestamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// The bytes, as they were appended.
    pub payload: &'a [u8],
}

/// The entries of one datagram: `first..end`.
#[derive(Debug)]
struct Held {
    first: u64,
    end: u64,
    bytes: Vec<u8>,
    /// The next entry to hand out, and where it starts.
    at: u64,
    offset: usize,
}

/// What became of a datagram's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// They are held; one that lies further ahead may have made room.
    New,
    /// The same, and the one furthest ahead was dropped for it.
    Displaced,
    /// They were handed out, or are held.
    Known,
    /// There is no room.
    Full,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Holding {
    /// The next entry to hand out.
    next: u64,
    /// In order of `first`.
    all: Vec<Held>,
    free: Vec<Vec<u8>>,
    most: usize,
}

impl Holding {
    /// Room for so many datagrams.
    pub(crate) fn new(most: usize) -> Holding {
        Holding { next: 1, all: Vec::with_capacity(most + 1), free: Vec::with_capacity(most + 1), most }
    }

    /// Forgets all; `next` is the first entry to hand out.
    pub(crate) fn restart(&mut self, next: u64) {
        self.next = next;
        self.drop_from(0);
    }

    /// The next entry to hand out.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Behind the last entry that can be handed out without another datagram.
    pub(crate) fn covered(&self) -> u64 {
        let mut covered = self.next;
        for held in &self.all {
            if held.first > covered {
                break;
            }
            covered = covered.max(held.end);
        }
        covered
    }

    /// Datagrams that hold entries still to be handed out.
    pub(crate) fn ahead(&self) -> usize {
        self.all.iter().filter(|held| held.end > self.next).count()
    }

    /// Where what is held goes on behind a gap at `from`.
    pub(crate) fn gap_end(&self, from: u64) -> Option<u64> {
        self.all.iter().map(|held| held.first).find(|first| *first > from)
    }

    /// Forgets what lies behind the first gap.
    pub(crate) fn drop_behind_gap(&mut self) {
        let covered = self.covered();
        let at = self.all.partition_point(|held| held.first < covered);
        self.drop_from(at);
    }

    fn drop_from(&mut self, at: usize) {
        while self.all.len() > at
            && let Some(held) = self.all.pop()
        {
            self.recycle(held);
        }
    }

    /// Keeps a datagram's entries. What lies nearer displaces what lies further ahead.
    pub(crate) fn hold(&mut self, first: u64, end: u64, bytes: &[u8]) -> Kept {
        if end <= self.next || self.all.iter().any(|held| held.first <= first && end <= held.end) {
            return Kept::Known;
        }
        self.release();
        let mut kept = Kept::New;
        if self.all.len() == self.most {
            if self.all.last().is_none_or(|furthest| furthest.first <= first) {
                return Kept::Full;
            }
            kept = Kept::Displaced;
            self.drop_from(self.most - 1);
        }
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.extend_from_slice(bytes);
        let place = self.all.partition_point(|held| held.first < first);
        self.all.insert(place, Held { first, end, bytes: buffer, at: first, offset: 0 });
        kept
    }

    /// The next entry in order, if it has come.
    pub(crate) fn take(&mut self) -> Option<EntryRef<'_>> {
        self.release();
        let wanted = self.next;
        let held = self.all.first_mut().filter(|held| held.first <= wanted)?;
        self.next += 1;
        loop {
            let rest = &held.bytes[held.offset..];
            let (timestamp_ns, payload, after) = split_read_entry(rest).expect("checked when it was received");
            held.offset += rest.len() - after.len();
            held.at += 1;
            if held.at == wanted + 1 {
                // Borrowed anew: the borrow above ends with the loop's turn.
                let at = held.offset - payload.len()..held.offset;
                return Some(EntryRef { sequence: Sequence(wanted), timestamp_ns, payload: &held.bytes[at] });
            }
        }
    }

    /// Drops the datagrams whose entries were all handed out. Not done when the last one is: the caller has it borrowed.
    fn release(&mut self) {
        while let Some(used) = self.all.iter().position(|held| held.end <= self.next) {
            let used = self.all.remove(used);
            self.recycle(used);
        }
    }

    /// Datagrams held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn recycle(&mut self, mut held: Held) {
        held.bytes.clear();
        self.free.push(held.bytes);
    }
}
