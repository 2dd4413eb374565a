//! Bodies of the replies to clients: acknowledgements and entries read.

use super::clients::{Key, put};
use super::stages::Timeline;
use crate::sequencer::{Answer, SESSION_CREDIT};
use std::net::SocketAddrV4;
use synod_wire::Sequence;
use synod_wire::client::{AckHeader, AckRun, Durability, ReadBody, ReadEntry, ReadReplyBody, Receipt};
use synod_wire::frame::HEADER_BYTES;
use synod_wire::guarantee::{Guarantee, GuaranteeBytes, Recency};
use synod_wire::mode::Mode;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, IntoBytes};

/// A read as it came, with the address to answer.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The kernel's source address of the request.
    pub to: SocketAddrV4,
    /// The request.
    pub body: ReadBody,
    /// How recent the state is that it is answered from.
    pub recency: Recency,
}

impl ReadRequest {
    /// The first sequence wanted.
    pub fn from(&self) -> Sequence {
        Sequence(self.body.from_sequence.get())
    }
}

/// What a reply to a read says of itself: the node's mode, and what may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) mode: Mode,
    pub(crate) guarantee: Guarantee,
}

impl Label {
    /// Puts it into a body that was built without one: what comes from the disk is labelled when it leaves.
    pub(crate) fn stamp(self, body: &mut [u8]) {
        if let Ok((head, _)) = ReadReplyBody::mut_from_prefix(body) {
            head.mode = self.mode as u8;
            head.guarantee = self.guarantee.encode();
        }
    }
}

const REPLY_BYTES: usize = size_of::<ReadReplyBody>();
const ENTRY_BYTES: usize = size_of::<ReadEntry>();

/// Packs entries into datagrams of a read reply, up to what the request allows.
#[derive(Debug)]
pub(crate) struct ReadWriter {
    request_id: u64,
    next: Sequence,
    first: Sequence,
    tail: u64,
    label: Option<Label>,
    left: u32,
    datagrams_left: u16,
    entries: u16,
    used: usize,
}

impl ReadWriter {
    /// Without a label: the bodies get one when they leave.
    pub(crate) fn new(request: &ReadRequest, tail: u64, label: Option<Label>) -> ReadWriter {
        ReadWriter {
            request_id: request.body.request_id.get(),
            next: request.from(),
            first: request.from(),
            tail,
            label,
            left: request.body.max_entries.get(),
            datagrams_left: request.body.max_datagrams.get().max(1),
            entries: 0,
            used: REPLY_BYTES,
        }
    }

    /// Adds an entry; those before the requested one are passed over. False: the request is satisfied. `emit` gets each
    /// full body, built in `out`, which is as long as a datagram's payload may be.
    pub(crate) fn entry(
        &mut self,
        sequence: Sequence,
        timestamp_ns: u64,
        entry: &[u8],
        out: &mut [u8],
        emit: &mut dyn FnMut(&[u8]),
    ) -> bool {
        if sequence < self.next {
            return true;
        }
        assert_eq!(sequence, self.next, "entries are read in order");
        if self.left == 0 {
            return false;
        }
        if self.used + ENTRY_BYTES + entry.len() > out.len() - HEADER_BYTES {
            if self.datagrams_left == 1 {
                return false;
            }
            self.emit(false, out, emit);
        }
        let head = ReadEntry { timestamp_ns: U64::new(timestamp_ns), length: U16::new(entry.len() as u16) };
        out[self.used..self.used + ENTRY_BYTES].copy_from_slice(head.as_bytes());
        self.used += ENTRY_BYTES;
        out[self.used..self.used + entry.len()].copy_from_slice(entry);
        self.used += entry.len();
        self.entries += 1;
        self.left -= 1;
        self.next = sequence.next();
        true
    }

    /// The last datagram, which may be empty.
    pub(crate) fn finish(&mut self, out: &mut [u8], emit: &mut dyn FnMut(&[u8])) {
        self.emit(true, out, emit);
    }

    fn emit(&mut self, last: bool, out: &mut [u8], emit: &mut dyn FnMut(&[u8])) {
        let head = ReadReplyBody {
            request_id: U64::new(self.request_id),
            first_sequence: U64::new(self.first.0),
            tail: U64::new(self.tail),
            entries: U16::new(self.entries),
            last: u8::from(last),
            mode: self.label.map_or(0, |label| label.mode as u8),
            guarantee: self.label.map_or(GuaranteeBytes::default(), |label| label.guarantee.encode()),
        };
        out[..REPLY_BYTES].copy_from_slice(head.as_bytes());
        emit(&out[..self.used]);
        self.datagrams_left = self.datagrams_left.saturating_sub(1);
        self.entries = 0;
        self.first = self.next;
        self.used = REPLY_BYTES;
    }
}

const _: () = assert!(SESSION_CREDIT <= u16::MAX as usize, "an answer's entries have two bytes");

/// The body of an acknowledgement.
pub(crate) struct AckWriter<'a> {
    pub(crate) key: Key,
    pub(crate) durability: Durability,
    /// The answers, and which of `timelines` goes with each.
    pub(crate) answers: &'a [(Answer, Option<u32>)],
    pub(crate) timelines: &'a [Timeline],
    pub(crate) replied_ns: u64,
}

impl AckWriter<'_> {
    /// Writes it; returns its bytes.
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let receipts = self.answers.iter().filter(|(_, receipt)| receipt.is_some()).count();
        let head = AckHeader {
            client_id: U128::new(self.key.client_id),
            session: U64::new(self.key.session),
            runs: U16::new(self.answers.len() as u16),
            durability: self.durability as u8,
            receipts: receipts as u8,
            credit: U32::new(SESSION_CREDIT as u32),
        };
        let mut used = put(head.as_bytes(), out);
        // What is acknowledged again from the session table was committed by the same kind of evidence.
        let guarantee = Guarantee::COMMITTED.encode();
        for (answer, _) in self.answers {
            let run = AckRun {
                first_seq: U64::new(answer.first_seq),
                first_sequence: U64::new(answer.value),
                timestamp_ns: U64::new(answer.timestamp_ns),
                entries: U16::new(answer.entries as u16),
                decision: answer.decision as u8,
                reserved: 0,
                guarantee,
            };
            used += put(run.as_bytes(), &mut out[used..]);
        }
        for (answer, receipt) in self.answers {
            let Some(index) = receipt else { continue };
            let receipt = self.timelines[*index as usize].receipt(answer.first_seq, answer.entries, self.replied_ns);
            used += put(receipt.as_bytes(), &mut out[used..]);
        }
        used
    }
}

/// How many of these answers, one at least, one acknowledgement holds in a datagram of this size.
pub(crate) fn acks_that_fit(answers: &[(Answer, Option<u32>)], max_datagram_bytes: usize) -> usize {
    let mut left = max_datagram_bytes - HEADER_BYTES - size_of::<AckHeader>();
    let mut receipts = 0;
    let mut fit = 0;
    for (_, receipt) in answers {
        receipts += usize::from(receipt.is_some());
        let bytes = size_of::<AckRun>() + if receipt.is_some() { size_of::<Receipt>() } else { 0 };
        if bytes > left || receipts > usize::from(u8::MAX) || fit == usize::from(u16::MAX) {
            break;
        }
        left -= bytes;
        fit += 1;
    }
    fit.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::batch::MIN_BATCH_BYTES;
    use synod_wire::client::Decision;

    fn answers(with_receipt: &[bool]) -> Vec<(Answer, Option<u32>)> {
        let answer = Answer { first_seq: 1, entries: 1, decision: Decision::Appended, value: 1, timestamp_ns: 1 };
        with_receipt.iter().map(|receipt| (answer, receipt.then_some(0))).collect()
    }

    #[test]
    fn acknowledgements_fill_a_datagram_and_never_overflow_it_or_their_counts() {
        let smallest = HEADER_BYTES + MIN_BATCH_BYTES;
        let room = MIN_BATCH_BYTES - size_of::<AckHeader>();
        assert_eq!(acks_that_fit(&answers(&[false; 100]), smallest), room / size_of::<AckRun>());
        let both = size_of::<AckRun>() + size_of::<Receipt>();
        assert_eq!(acks_that_fit(&answers(&[true; 100]), smallest), room / both);
        let mixed: Vec<bool> = (0..100).map(|at| at % 2 == 0).collect();
        let fit = acks_that_fit(&answers(&mixed), smallest);
        let bytes = |count: usize| count * size_of::<AckRun>() + count.div_ceil(2) * size_of::<Receipt>();
        assert!(bytes(fit) <= room && bytes(fit + 1) > room);
        assert_eq!(acks_that_fit(&answers(&[true; 300]), 1 << 16), 255, "the count of receipts has one byte");
    }
}
