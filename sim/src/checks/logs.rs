//! At the end the logs of all nodes hold the same bytes in the same slots, read back from disk (S2, S4).
//!
//! Source: FAULTS, "logs byte-identical at checkpoints" (TigerBeetle).

use super::prefix::Prefix;
use super::{Checked, violated};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use synod::shard::install::first_own_slot;
use synod_wal::{Dir, Item, LogError, LogReader};
use synod_wire::Slot;
use synod_wire::frame::Kind;

/// The value that a log in use holds at `slot`, read from its disk up to the durable position `to`: the last record counts,
/// as in a recovery.
pub(crate) fn value_on_disk(dir: &Dir, to: u64, slot: Slot) -> Result<Option<Vec<u8>>, LogError> {
    let mut value = None;
    let mut reader = LogReader::open(dir)?;
    let start = reader.first_pos();
    reader.scan(start, Some(to), &mut |item| {
        if let Item::Record(_, frame) = item
            && matches!(frame.header.kind, Kind::Accept | Kind::Learnt)
            && frame.header.slot == slot
        {
            value = Some(frame.payload.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    Ok(value)
}

/// Reads a log that no process uses and compares the value of each slot up to `applied` with what was applied first.
/// Slots whose records were damaged there are left out: an older record of theirs may be all that is left.
pub(crate) fn applied_log(
    dir: &Dir,
    node: usize,
    applied: Slot,
    prefix: &Prefix,
    damaged: &dyn Fn(Slot) -> bool,
) -> Checked {
    let mut values: BTreeMap<Slot, u32> = BTreeMap::new();
    // Of a log whose front was removed, or that was sent a snapshot, one stands for what is not there.
    let (mut removed, mut own) = (Slot::ZERO, Slot::ZERO);
    let scanned = LogReader::open_offline(dir).and_then(|mut reader| {
        let start = reader.first_pos();
        own = first_own_slot(dir, &reader)?;
        if reader.first_segment() > 0 {
            removed = synod_wal::snapshot::list(dir)?.last().copied().unwrap_or_default();
        }
        reader.scan(start, None, &mut |item| {
            if let Item::Record(_, frame) = item
                && matches!(frame.header.kind, Kind::Accept | Kind::Learnt)
                && frame.header.slot <= applied
            {
                values.insert(frame.header.slot, frame.payload_crc);
            }
            ControlFlow::Continue(())
        })
    });
    if let Err(error) = scanned {
        return violated("identical logs", format!("the log of n{node} cannot be read: {error}"));
    }
    for slot in (1..=applied.0).map(Slot) {
        match (values.get(&slot).copied(), prefix.value(slot)) {
            _ if damaged(slot) || slot < own => {}
            (None, _) if slot <= removed => {}
            (Some(is), Some(expected)) if is == expected => {}
            (is, _) => {
                return violated(
                    "identical logs",
                    format!("n{node} holds {is:08x?} in slot {slot}, not what was applied"),
                );
            }
        }
    }
    Ok(())
}
