//! What a node of this process says of itself: its board, in the form that other nodes' words have. Asks no core anything.

use crate::shard::{Board, Gauge};
use std::time::Duration;
use synod_client::{Picture, Stage, StageTimes, Status};
use synod_wire::client::Counter;
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, Sequence, Slot};

/// What the board says, and when its core wrote that; `None`: it has not come up yet.
pub fn status(node: NodeId, board: &Board, now_ns: u64) -> Option<(Status, u64)> {
    let gauge = |gauge| board.gauge(gauge);
    let written_ns = gauge(Gauge::RefreshedNs);
    if written_ns == 0 {
        return None;
    }
    let since = |at_ns: u64| Duration::from_nanos(now_ns.saturating_sub(at_ns));
    // Told as what was left when the board was written.
    let left = |span_ns: u64| span(span_ns.saturating_sub(now_ns.saturating_sub(written_ns)));
    let status = Status {
        node,
        epoch: Epoch(gauge(Gauge::Epoch) as u32),
        role: gauge(Gauge::Role) as u8,
        leader: gauge(Gauge::Leader).checked_sub(1).map(|leader| NodeId(leader as u8)),
        promised: Ballot { round: gauge(Gauge::BallotRound), node: NodeId(gauge(Gauge::BallotNode) as u8) },
        chosen: Slot(gauge(Gauge::ChosenSlot)),
        applied: Slot(gauge(Gauge::AppliedSlot)),
        accepted: Slot(gauge(Gauge::AcceptedSlot)),
        durable_lsn: Lsn(gauge(Gauge::DurableLsn)),
        durable_bytes: board.counter(Counter::FlushedBytes),
        tail: Sequence(gauge(Gauge::Tail)),
        sessions: gauge(Gauge::Sessions),
        uptime: since(gauge(Gauge::StartedNs)),
        core: None,
        unknown_slots: u32::try_from(gauge(Gauge::UnknownSlots)).unwrap_or(u32::MAX),
        counters: Counter::ALL.iter().map(|counter| board.counter(*counter)).collect(),
        durability: None,
        mode: Mode::from_u8(gauge(Gauge::Mode) as u8),
        mode_reason: ModeReason::from_u8(gauge(Gauge::ModeReason) as u8),
        mode_for: since(gauge(Gauge::ModeSinceNs)),
        modes_entered: board.modes_entered().map(|entered| entered as u32),
        lease: span(gauge(Gauge::LeaseNs)),
        lease_left: left(gauge(Gauge::LeaseLeftNs)),
        bound_left: left(gauge(Gauge::BoundLeftNs)),
        guarantee: Guarantee::read(Recency::StalePossible),
        stages: Stage::ALL.map(|stage| times(stage, board)).to_vec(),
        picture: Some(Picture::from(board.picture())),
    };
    Some((status, written_ns))
}

/// A span that is none where it is 0.
fn span(span_ns: u64) -> Option<Duration> {
    Some(Duration::from_nanos(span_ns)).filter(|span| !span.is_zero())
}

fn times(stage: Stage, board: &Board) -> StageTimes {
    let histogram = board.stage(stage);
    let count = histogram.count();
    let [p50, p99] = histogram.quantiles(count, [500, 990]).map(Duration::from_nanos);
    StageTimes { stage, count, p50, p99, max: Duration::from_nanos(histogram.max()) }
}
