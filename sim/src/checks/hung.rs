//! A node whose disk hangs neither votes nor shows a sign of life (S2, L1).
//!
//! Source: FAULTS, bug 12 (tarantool #9399): a failed disk, still heartbeating; SEMANTICS, "Failure handling".

use super::{Checked, violated};
use crate::disk::Disk;
use synod_wire::frame::{Header, Kind};

/// A frame leaves a node for another at `local_ns`, by the node's clock; a log write hangs after `hung_ns`.
pub(crate) fn hung_is_silent(node: usize, hung_ns: u64, local_ns: u64, disk: &Disk, header: &Header) -> Checked {
    let Some(oldest) = disk.in_flight.values().next() else { return Ok(()) };
    let moved_ns = oldest.since_ns.max(disk.written_ns);
    let speaks = matches!(
        header.kind,
        Kind::Heartbeat
            | Kind::HeartbeatAck
            | Kind::Accepted
            | Kind::Promise
            | Kind::Prepare
            | Kind::PreVote
            | Kind::PreVoteAck
            | Kind::ReadIndexAck
    );
    if speaks && local_ns > moved_ns + hung_ns {
        let detail = format!("n{node} sends a {:?}; its log has not moved for {} ns", header.kind, local_ns - moved_ns);
        return violated("a node whose disk hangs is silent", detail);
    }
    Ok(())
}
