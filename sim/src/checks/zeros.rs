//! The log writes over zeros only: no byte that is on the disk is ever written again, and none from before lies where a later
//! flush begins (S2).
//!
//! Source: the contract on disk (`wal/src/lib.rs`), "A durable block is never written again. So where a flush is being written
//! there are only zeros before", on which recovery relies to tell a torn flush from damage; and FAULTS 10, 11 and 30, bug 10.

use super::{Checked, violated};
use synod_ring::{BlockFile, Reading};

const PROPERTY: &str = "the log writes over zeros only";

/// A node is about to write `bytes` of its log at `offset` of a segment.
pub(crate) fn overwritten(node: usize, segment: &dyn BlockFile, offset: u64, bytes: usize) -> Checked {
    let place = format_args!("n{node} writes {bytes} bytes at {offset} of a segment");
    let view = match segment.view(offset, bytes, Reading::Whole) {
        Ok(view) => view,
        Err(error) => return violated(PROPERTY, format!("{place}, where nothing can be read: {error}")),
    };
    let Some(before) = view.get(0..view.used()) else {
        return violated(PROPERTY, format!("{place}, over a page that cannot be read"));
    };
    match before.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => violated(PROPERTY, format!("{place}, over what lies {at} bytes behind that")),
    }
}
