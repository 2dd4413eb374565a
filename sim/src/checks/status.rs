//! What a node says of itself is how it is: each status reply is compared with the shard that sent it, at the end of the
//! same turn.
//!
//! Source: DESIGN, "Off the core": metrics and status; a wrong one misleads whoever decides to replace a node.

use super::{Checked, violated};
use crate::io::SimIo;
use synod::shard::Shard;
use synod_paxos::Role;
use synod_wire::client::{Durability, StageRow, StatusBody, role};
use synod_wire::frame::{Kind, parse};
use synod_wire::picture::PictureBody;
use synod_wire::{NodeId, Slot};
use zerocopy::FromBytes;

const PROPERTY: &str = "a status tells the truth";

/// A datagram to a client leaves `node`: if it is a status reply, it must be true. `delivered`: the furthest that anybody is.
pub(crate) fn told(
    node: usize,
    memory_durability: bool,
    shard: &Shard<SimIo>,
    delivered: Slot,
    datagram: &[u8],
) -> Checked {
    if datagram.get(17) != Some(&(Kind::StatusReply as u8)) {
        return Ok(());
    }
    let Ok(frame) = parse(datagram) else {
        return violated(PROPERTY, format!("n{node} sends a status that is no frame"));
    };
    let Ok((body, rest)) = StatusBody::read_from_prefix(frame.payload) else {
        return violated(PROPERTY, format!("n{node} sends a status without a body"));
    };
    let core = shard.core();
    let number = match core.role() {
        Role::Joining => role::JOINING,
        Role::Follower => role::FOLLOWER,
        Role::Candidate => role::CANDIDATE,
        Role::Preparing => role::PREPARING,
        Role::Leader => role::LEADER,
        Role::Halted => role::HALTED,
    };
    let leader = core.leader();
    let numbers_bytes = usize::from(body.counters) * 8 + usize::from(body.stages) * size_of::<StageRow>();
    // The smaller of the plans' two batches has room for neither stages nor the picture, the larger one for both.
    let behind_bytes = if body.stages == 0 { 0 } else { size_of::<PictureBody>() };
    let durability = if memory_durability { Durability::Memory } else { Durability::Disk };
    let rows = [
        ("node", u64::from(frame.header.from.0), node as u64),
        ("role", u64::from(body.role), u64::from(number)),
        ("leader known", u64::from(body.has_leader), u64::from(leader.is_some())),
        ("leader", u64::from(body.leader), leader.map_or(0, |leader| u64::from(leader.0))),
        ("promised", body.promised.get(), core.promised().pack()),
        ("chosen", body.chosen.get(), core.prefix().0),
        ("applied", body.applied.get(), shard.applied().0),
        ("tail", body.tail.get(), shard.machine().tail().0),
        ("sessions", body.sessions.get(), shard.machine().sessions() as u64),
        ("unknown slots", body.unknown_slots.get().into(), core.unknown_slots().map_or(u32::MAX as u64, |n| n as u64)),
        ("durable Lsn", body.durable_lsn.get(), shard.log().durable_lsn().0),
        ("durable bytes", body.durable_bytes.get(), shard.log().durable_pos()),
        ("bytes behind its body", (numbers_bytes + behind_bytes) as u64, rest.len() as u64),
        ("durability", u64::from(body.durability), durability as u64),
        ("mode", u64::from(body.mode), shard.modes().mode() as u64),
        ("lease's length", body.lease_us.get().into(), core.lease_length_ns().unwrap_or(0) / 1_000),
        ("reason of its mode", u64::from(body.mode_reason), shard.modes().reason() as u64),
    ];
    if let Some((what, said, is)) = rows.into_iter().find(|(_, said, is)| said != is) {
        return violated(PROPERTY, format!("n{node} says that its {what} is {said}; it is {is}"));
    }
    if body.lease_left_us.get() > 0 && core.role() != Role::Leader {
        return violated(PROPERTY, format!("n{node} says that it holds a lease, and does not lead"));
    }
    if body.accepted.get() > core.highest_held().0 {
        return violated(PROPERTY, format!("n{node} says that it holds slot {}", body.accepted));
    }
    if behind_bytes == 0 { Ok(()) } else { pictured(node, shard, delivered, &rest[numbers_bytes..]) }
}

/// What is drawn of it.
fn pictured(node: usize, shard: &Shard<SimIo>, delivered: Slot, bytes: &[u8]) -> Checked {
    let core = shard.core();
    let Some(picture) = PictureBody::parse(bytes) else {
        return violated(PROPERTY, format!("n{node} sends a picture that is none"));
    };
    let members: Vec<NodeId> = core.configuration().members().iter().map(|member| member.node).collect();
    if picture.voters.get() != core.configuration().voters().0 || !picture.positions().map(|(node, _)| node).eq(members)
    {
        return violated(PROPERTY, format!("n{node} does not say who its members are: {picture:?}"));
    }
    let farthest = picture.positions().filter_map(|(_, slot)| slot).max();
    // It may know of more than it knows chosen: what a member said.
    if farthest.is_some_and(|slot| !core.leads() || slot > delivered) {
        return violated(
            PROPERTY,
            format!("n{node} says that a member has delivered {farthest:?}, which it cannot know"),
        );
    }
    Ok(())
}
