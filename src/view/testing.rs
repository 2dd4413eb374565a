//! Words of nodes for the tests.

use crate::config::{Config, DEFAULT_TOML, load};
use std::time::Duration;
use synod_client::{Picture, Stage, StageTimes, Status};
use synod_wire::client::{Counter, role};
use synod_wire::guarantee::Guarantee;
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Quorums, Sequence, Slot};

/// A node of three in TARGET, in a ballot of this round, who follows or is this leader.
pub(crate) fn status(node: u8, leader: Option<u8>, round: u64) -> Status {
    let leads = leader == Some(node);
    let position = |node: u8| (NodeId(node), leads.then_some(Slot(1_000 - 10 * u64::from(node))));
    Status {
        node: NodeId(node),
        epoch: Epoch(1),
        role: if leads { role::LEADER } else { role::FOLLOWER },
        leader: leader.map(NodeId),
        promised: Ballot { round, node: NodeId(leader.unwrap_or(node)) },
        chosen: Slot(1_000 - u64::from(node)),
        applied: Slot(1_000 - u64::from(node)),
        accepted: Slot(1_010),
        durable_lsn: Lsn(2_000),
        durable_bytes: 1 << 20,
        tail: Sequence(5_000),
        sessions: 3,
        uptime: Duration::from_secs(100),
        core: None,
        unknown_slots: 0,
        counters: vec![7; Counter::ALL.len()],
        durability: None,
        mode: Some(Mode::Target),
        mode_reason: Some(if leads { ModeReason::Elected } else { ModeReason::CaughtUp }),
        mode_for: Duration::from_secs(1),
        modes_entered: [1; Mode::ALL.len()],
        lease: None,
        lease_left: None,
        bound_left: None,
        guarantee: Guarantee::NONE,
        stages: Stage::ALL.map(|stage| times(stage, if leads { 100 } else { 0 })).to_vec(),
        picture: Some(Picture {
            first_slot: Slot(1),
            snapshot: Some(Slot(500)),
            voters: NodeSet(0b111),
            quorums: Quorums { phase1: 2, phase2: 2 },
            positions: (0..3).map(position).collect(),
            p999: Duration::from_micros(900),
            commits: std::array::from_fn(|bucket| if leads && (10..20).contains(&bucket) { 10 } else { 0 }),
        }),
    }
}

fn times(stage: Stage, count: u64) -> StageTimes {
    let us = Duration::from_micros;
    StageTimes { stage, count, p50: us(300), p99: us(700), max: us(1_200) }
}

/// The default configuration: three nodes, one group.
pub(crate) fn three_nodes() -> Config {
    load::parse(DEFAULT_TOML, "default.toml".as_ref(), std::iter::empty()).expect("it is valid").config
}
