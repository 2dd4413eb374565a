//! What a reader gets is what was appended, at its place and with its time (S7, S4).
//!
//! Source: SEMANTICS, reads: each answer is a piece of the chosen prefix, never changed, never corrupt.

use super::sessions::Sessions;
use super::{Checked, violated};
use synod_client::EntryRef;

/// See the module.
pub(crate) struct Reads;

impl Reads {
    /// A reader was handed an entry.
    pub(crate) fn read(&self, sessions: &Sessions, reader: usize, read: &EntryRef<'_>) -> Checked {
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
}
