//! A log calls damaged only what was: a crash leaves torn tails, never damage (L1).
//!
//! Source: the contract on disk (`wal/src/lib.rs`), "Not reached": to call what a crash tears damage would be safe for one
//! node, but a power cut tears the flushes of several, and the group would stand still for good; FAULTS 10, 11 and 29.

use super::{Checked, violated};
use synod::shard::Findings;

/// A recovery found `findings` on the disk of a node; `happened`: something was done to it that a crash does not do.
pub(crate) fn has_a_cause(node: usize, findings: &Findings, happened: bool) -> Checked {
    match findings.damage.first() {
        Some(damage) if !happened => {
            violated("damage has a cause", format!("n{node} found damage, though its disk has none: {damage:?}"))
        }
        _ => Ok(()),
    }
}
