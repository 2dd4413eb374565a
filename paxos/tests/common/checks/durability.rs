//! S2: no reply leaves before what it asserts is on the sender's disk.
//!
//! FAULTS, mutants 1 (a duplicate's answer skips the wait), 3 (acknowledged before the sync) and 28 (a watermark that
//! covers slots accepted in another ballot).

use super::agreement::Agreement;
use crate::common::disk::Disk;
use synod_paxos::{Message, ReportState};
use synod_wire::{Ballot, NodeId, Slot};

/// Checks what `node` says against its synced log.
pub(super) fn check_reply(node: NodeId, message: &Message, disk: &mut Disk, agreement: &Agreement) {
    let good = |slot: Slot| disk.stable(slot).next_back().is_some_and(|(_, value)| agreement.is_chosen(slot, value));
    disk.vouched = (disk.vouched.0 + 1..).map(Slot).take_while(|slot| good(*slot)).last().unwrap_or(disk.vouched);
    let disk = &*disk;
    let promised = |ballot: Ballot| {
        assert!(disk.stable_promise() >= ballot, "node {node} answers in ballot {ballot} before that is on its disk");
    };
    match message {
        Message::Prepare { ballot, .. } | Message::HeartbeatAck { ballot, .. } => promised(*ballot),
        Message::Refused { promised: ballot } => promised(*ballot),
        Message::Promise { ballot, prefix, reports, .. } => {
            promised(*ballot);
            check_slots(node, *ballot, disk.vouched.next(), *prefix, disk, agreement);
            for report in reports {
                if let ReportState::Accepted(held) | ReportState::Chosen(held) = report.state {
                    assert!(disk.is_stable(report.slot, held), "node {node}: {report:?} is not on its disk");
                }
            }
        }
        Message::Accepted { ballot, upto, bits } => {
            promised(*ballot);
            check_slots(node, *ballot, disk.vouched.next(), *upto, disk, agreement);
            for bit in (0..256).filter(|bit| bits[bit / 64] & (1 << (bit % 64)) != 0) {
                let slot = Slot(upto.0 + 1 + bit as u64);
                check_slots(node, *ballot, slot, slot, disk, agreement);
            }
        }
        Message::Value { slot, ballot, .. } => {
            assert!(disk.is_stable(*slot, *ballot), "node {node} hands out slot {slot}, which is not on its disk");
        }
        _ => {}
    }
}

/// Slots `first..=last` are on disk, in `ballot` or chosen.
fn check_slots(node: NodeId, ballot: Ballot, first: Slot, last: Slot, disk: &Disk, agreement: &Agreement) {
    for slot in (first.0..=last.0).map(Slot) {
        let good = |(held, value): (Ballot, _)| held == ballot || agreement.is_chosen(slot, value);
        assert!(
            disk.stable(slot).rev().any(good),
            "node {node} vouches for slot {slot} in ballot {ballot}; on its disk: {:?}",
            disk.stable(slot).collect::<Vec<_>>()
        );
    }
}
