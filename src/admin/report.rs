//! Health and status of a node as JSON, from its boards.

use super::About;
use crate::node::monotonic_ns;
use crate::shard::{Board, Gauge};
use crate::without::{Lack, Lacks};
use serde::Serialize;
use std::time::Duration;
use synod_wire::client::{Counter, role};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::{GroupId, NodeId};

/// What a node says of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// The group.
    pub group: u8,
    /// Its role.
    pub role: &'static str,
    /// The leader that it knows.
    pub leader: Option<u8>,
    /// Its mode; `None`: it has not come up yet.
    pub mode: Option<&'static str>,
    /// Why it is in it.
    pub mode_reason: Option<&'static str>,
    /// For how long, seconds.
    pub mode_seconds: f64,
    /// Slots chosen, and delivered here.
    pub chosen_slot: u64,
    /// Slots applied here.
    pub applied_slot: u64,
    /// The last sequence.
    pub tail: u64,
    /// The first sequence that can be read.
    pub first_sequence: u64,
    /// What the host refuses it: [`crate::without::Lack`].
    pub without: Vec<&'static str>,
    /// Since its core last showed its state, seconds.
    pub shown_seconds_ago: f64,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The cluster.
    pub cluster: u32,
    /// The node.
    pub node: u8,
    /// The version that runs.
    pub version: &'static str,
    /// Its groups.
    pub groups: Vec<GroupReport>,
}

/// Whether a node does its work, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// All its groups are in TARGET, and their cores move.
    pub ok: bool,
    /// What is not as it should be.
    pub reasons: Vec<String>,
}

impl Health {
    /// Of what a node says. A core that has not shown its state for `stuck_after` is stuck.
    pub fn of(report: &Report, stuck_after: Duration) -> Health {
        let ailment = |group| ailment(group, stuck_after);
        let reasons: Vec<String> = report.groups.iter().filter_map(ailment).collect();
        Health { ok: reasons.is_empty(), reasons }
    }
}

/// Why a group is not well.
fn ailment(group: &GroupReport, stuck_after: Duration) -> Option<String> {
    let number = group.group;
    let Some(mode) = group.mode else { return Some(format!("group {number} has not come up yet")) };
    if group.shown_seconds_ago > stuck_after.as_secs_f64() {
        return Some(format!("group {number}: its core has not moved for {:.1} s", group.shown_seconds_ago));
    }
    let reason = group.mode_reason.unwrap_or("no reason given");
    (mode != Mode::Target.name())
        .then(|| format!("group {number} is in {mode} for {:.1} s: {reason}", group.mode_seconds))
}

/// What a node says of itself now.
pub fn report(about: &About) -> Report {
    let now_ns = monotonic_ns();
    let groups = about.groups.iter().map(|(group, board)| of_group(*group, board, now_ns)).collect();
    Report { cluster: about.cluster.0, node: about.node.0, version: env!("CARGO_PKG_VERSION"), groups }
}

fn of_group(group: GroupId, board: &Board, now_ns: u64) -> GroupReport {
    let gauge = |gauge| board.gauge(gauge);
    let came_up = gauge(Gauge::RefreshedNs) > 0;
    let seconds_since = |at_ns: u64| now_ns.saturating_sub(at_ns) as f64 / 1e9;
    GroupReport {
        group: group.0,
        role: role::name(gauge(Gauge::Role) as u8),
        leader: gauge(Gauge::Leader).checked_sub(1).map(|node| NodeId(node as u8).0),
        mode: Mode::from_u8(gauge(Gauge::Mode) as u8).filter(|_| came_up).map(Mode::name),
        mode_reason: ModeReason::from_u8(gauge(Gauge::ModeReason) as u8).filter(|_| came_up).map(ModeReason::name),
        mode_seconds: if came_up { seconds_since(gauge(Gauge::ModeSinceNs)) } else { 0.0 },
        chosen_slot: gauge(Gauge::ChosenSlot),
        applied_slot: gauge(Gauge::AppliedSlot),
        tail: gauge(Gauge::Tail),
        first_sequence: board.counter(Counter::FirstSequence),
        without: Lacks(gauge(Gauge::Lacks)).list().map(Lack::name).collect(),
        shown_seconds_ago: if came_up { seconds_since(gauge(Gauge::RefreshedNs)) } else { 0.0 },
    }
}

/// As JSON, a line.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain numbers and names") + "\n"
}
