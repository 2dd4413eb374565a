//! What a reader gets is what was appended, at its place and with its time, all of what it asked for and nothing else
//! (S7, S4).
//!
//! Source: SEMANTICS, reads: each answer is a piece of the chosen prefix, never changed, never corrupt; `ReadCore`: entries
//! come in order, without gaps or duplicates, as far as the node's log reached when it first answered.

use super::sessions::Sessions;
use super::views::OWN_REQUESTS;
use super::{Checked, violated};
use std::collections::BTreeMap;
use synod_client::EntryRef;

/// A read under way.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    from: u64,
    next: u64,
    /// Behind the last entry wanted.
    end: u64,
    follows: bool,
    /// The first request that was made for it.
    first_request: Option<u64>,
    /// The tail that came with the first answer.
    first_tail: Option<u64>,
    finished: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    cursors: BTreeMap<usize, Cursor>,
}

impl Reads {
    /// A reader wants `count` entries from `from` on, or all for ever.
    pub(crate) fn begun(&mut self, reader: usize, from: u64, count: Option<u64>) {
        let cursor = Cursor {
            from,
            next: from,
            end: from.saturating_add(count.unwrap_or(u64::MAX)),
            follows: count.is_none(),
            first_request: None,
            first_tail: None,
            finished: false,
        };
        self.cursors.insert(reader, cursor);
    }

    /// A reader sends a request.
    pub(crate) fn asked(&mut self, reader: usize, request_id: u64) {
        if let Some(cursor) = self.cursors.get_mut(&reader).filter(|_| request_id < OWN_REQUESTS) {
            cursor.first_request.get_or_insert(request_id);
        }
    }

    /// A reader hears how far the log of a node reaches.
    pub(crate) fn told(&mut self, reader: usize, request_id: u64, tail: u64) {
        let Some(cursor) = self.cursors.get_mut(&reader).filter(|_| request_id < OWN_REQUESTS) else { return };
        if cursor.first_request.is_some_and(|first| request_id >= first) {
            cursor.first_tail.get_or_insert(tail);
        }
    }

    /// A reader was handed an entry.
    pub(crate) fn read(&mut self, sessions: &Sessions, reader: usize, read: &EntryRef<'_>) -> Checked {
        self.in_order(reader, read.sequence.0)?;
        let Some(entry) = sessions.entries().get(read.sequence.0 as usize - 1) else {
            return violated(
                "nothing corrupt served",
                format!("c{reader} read sequence {}, which no node applied", read.sequence),
            );
        };
        let same = sessions.payloads().is(entry.client_id, entry.client_seq, read.payload);
        if same && entry.timestamp_ns == read.timestamp_ns {
            return Ok(());
        }
        violated(
            "nothing corrupt served",
            format!(
                "c{reader} read other bytes or another time at sequence {} than were appended there",
                read.sequence
            ),
        )
    }

    fn in_order(&mut self, reader: usize, sequence: u64) -> Checked {
        match self.cursors.get_mut(&reader) {
            Some(cursor) if sequence == cursor.next && sequence < cursor.end => {
                cursor.next += 1;
                Ok(())
            }
            cursor => violated("reads are complete", format!("c{reader} was handed sequence {sequence}: {cursor:?}")),
        }
    }

    /// A reader is told that what it wants next was trimmed, and ends; `model` is the first sequence that is left by what was applied
    /// anywhere. True: it had not said so before.
    pub(crate) fn trimmed(&mut self, reader: usize, first: u64, model: u64) -> Result<bool, super::Violation> {
        let Some(cursor) = self.cursors.remove(&reader) else { return Ok(false) };
        if cursor.next < first && first <= model {
            return Ok(true);
        }
        let detail =
            format!("c{reader} is told that all before {first} is trimmed, and {model} is the first: {cursor:?}");
        violated("reads are complete", detail).map(|()| false)
    }

    /// A reader has all that it wanted, as far as it exists. True: it had not said so before.
    pub(crate) fn finished(&mut self, reader: usize) -> Result<bool, super::Violation> {
        let Some(cursor) = self.cursors.get_mut(&reader) else { return Ok(false) };
        if std::mem::replace(&mut cursor.finished, true) {
            return Ok(false);
        }
        let due = cursor.first_tail.map_or(cursor.end, |tail| cursor.end.min(tail + 1).max(cursor.from));
        if cursor.next == due && !cursor.follows {
            return Ok(true);
        }
        violated("reads are complete", format!("c{reader} ended a read that is not complete: {cursor:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reader 1 reads 3 entries from 5 on; its first request is number 4.
    fn reading(count: Option<u64>) -> Reads {
        let mut reads = Reads::default();
        reads.begun(1, 5, count);
        reads.asked(1, 4);
        reads
    }

    #[test]
    fn a_gap_a_duplicate_or_one_too_many_is_found() {
        let mut reads = reading(Some(3));
        assert!(reads.in_order(1, 5).is_ok());
        assert!(reads.in_order(1, 5).is_err(), "twice");
        assert!(reads.in_order(1, 7).is_err(), "a gap");
        assert!(reads.in_order(1, 6).is_ok() && reads.in_order(1, 7).is_ok());
        assert!(reads.in_order(1, 8).is_err(), "four");
        assert!(reads.in_order(2, 1).is_err(), "unasked");
    }

    #[test]
    fn a_read_ends_where_the_first_answer_said() {
        let mut reads = reading(Some(3));
        reads.told(1, 3, 5);
        reads.told(1, 4, 6);
        reads.told(1, 4, 9);
        assert!(reads.in_order(1, 5).is_ok());
        assert!(reads.clone().finished(1).is_err(), "6 was told of");
        assert!(reads.in_order(1, 6).is_ok());
        assert_eq!(reads.finished(1), Ok(true));
        assert_eq!(reads.finished(1), Ok(false), "said once");
    }

    #[test]
    fn a_reader_that_follows_never_ends() {
        assert!(reading(None).finished(1).is_err());
        let mut unanswered = reading(Some(3));
        assert!(unanswered.finished(1).is_err(), "nobody said that there is nothing");
        let mut empty = reading(Some(3));
        empty.told(1, 4, 4);
        assert_eq!(empty.finished(1), Ok(true));
    }
}
