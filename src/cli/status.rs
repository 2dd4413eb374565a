//! `synod status`: what the nodes say of themselves.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{StatusArgs, client_failure};
use crate::config::Config;
use crate::view::{Answer, ask};
use anyhow::anyhow;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_client::{Mode, Picture, StageTimes, Status};
use synod_wire::GroupId;
use synod_wire::client::role;

/// One node's word on one group.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    node: u8,
    group: u8,
    address: SocketAddrV4,
    /// False: the node did not answer, and `error` says how.
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

/// What a node that answered says.
#[derive(Debug, Serialize)]
struct State {
    /// What the node does for clients, why, since when, and how often it entered each mode.
    mode: Option<&'static str>,
    mode_reason: Option<&'static str>,
    mode_seconds: f64,
    modes_entered: BTreeMap<&'static str, u32>,
    /// How long leases are, for how long it holds its own still, and for how long it is bound by one that it granted; 0: they are
    /// off, it holds none, it is free.
    lease_us: u128,
    lease_left_us: u128,
    bound_left_us: u128,
    role: &'static str,
    leader: Option<u8>,
    epoch: u32,
    ballot_round: u64,
    ballot_node: u8,
    chosen_slot: u64,
    applied_slot: u64,
    accepted_slot: u64,
    durable_lsn: u64,
    durable_bytes: u64,
    tail: u64,
    sessions: u64,
    uptime_seconds: f64,
    core: Option<u32>,
    /// Slots whose vote damage hides; -1: all above the chosen ones.
    unknown_slots: i64,
    /// What its word rests on.
    durability: Option<&'static str>,
    /// How long commits took on it as a leader, from the client's datagram to each stage.
    stages: BTreeMap<&'static str, StageState>,
    counters: BTreeMap<&'static str, u64>,
    /// `None`: the node's datagrams have no room for it.
    picture: Option<PictureState>,
}

/// See [`synod_client::Picture`].
#[derive(Debug, Serialize)]
struct PictureState {
    first_slot: u64,
    snapshot_slot: Option<u64>,
    voters: Vec<u8>,
    phase1: usize,
    phase2: usize,
    /// On a leader: up to where it knows each member to have delivered everything.
    delivered: BTreeMap<u8, u64>,
    p999_us: f64,
}

impl PictureState {
    fn of(picture: &Picture) -> PictureState {
        PictureState {
            first_slot: picture.first_slot.0,
            snapshot_slot: picture.snapshot.map(|slot| slot.0),
            voters: picture.voters.iter().map(|node| node.0).collect(),
            phase1: picture.quorums.phase1,
            phase2: picture.quorums.phase2,
            delivered: picture.positions.iter().filter_map(|(node, slot)| Some((node.0, (*slot)?.0))).collect(),
            p999_us: picture.p999.as_nanos() as f64 / 1_000.0,
        }
    }
}

/// See [`synod_client::StageTimes`].
#[derive(Debug, Serialize)]
struct StageState {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

impl StageState {
    fn of(times: &StageTimes) -> StageState {
        let us = |time: Duration| time.as_nanos() as f64 / 1_000.0;
        StageState { count: times.count, p50_us: us(times.p50), p99_us: us(times.p99), max_us: us(times.max) }
    }
}

impl State {
    fn of(status: &Status) -> State {
        State {
            mode: status.mode.map(|mode| mode.name()),
            mode_reason: status.mode_reason.map(|reason| reason.name()),
            mode_seconds: status.mode_for.as_secs_f64(),
            modes_entered: Mode::ALL.iter().map(|mode| mode.name()).zip(status.modes_entered).collect(),
            lease_us: micros(status.lease),
            lease_left_us: micros(status.lease_left),
            bound_left_us: micros(status.bound_left),
            role: status.role_name(),
            leader: status.leader.map(|node| node.0),
            epoch: status.epoch.0,
            ballot_round: status.promised.round,
            ballot_node: status.promised.node.0,
            chosen_slot: status.chosen.0,
            applied_slot: status.applied.0,
            accepted_slot: status.accepted.0,
            durable_lsn: status.durable_lsn.0,
            durable_bytes: status.durable_bytes,
            tail: status.tail.0,
            sessions: status.sessions,
            uptime_seconds: status.uptime.as_secs_f64(),
            core: status.core,
            unknown_slots: if status.unknown_slots == u32::MAX { -1 } else { status.unknown_slots.into() },
            durability: status.durability.map(|durability| durability.name()),
            stages: status.stages.iter().map(|times| (times.stage.name(), StageState::of(times))).collect(),
            counters: status.named_counters().collect(),
            picture: status.picture.as_ref().map(PictureState::of),
        }
    }
}

fn micros(span: Option<Duration>) -> u128 {
    span.unwrap_or_default().as_micros()
}

/// Asks every node about every group, all at once.
pub(super) fn status(args: &StatusArgs) -> Outcome {
    let config = args.cluster.load()?.config;
    let answers = ask(&config, Duration::from_millis(args.timeout_ms), |_, _| true).map_err(client_failure)?;
    let rows: Vec<Row> = answers.iter().map(row).collect();
    match args.output {
        Style::Text => print(&table(&rows))?,
        Style::Json => print_json(&rows)?,
    }
    let leaderless = config.group_ids().filter(|group| !has_leader(&config, *group, &answers));
    let names: Vec<String> = leaderless.map(|group| group.to_string()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let groups = names.join(", ");
    let reason = anyhow!("group {groups}: no leader, or too few nodes answer. Start the nodes that are unreachable");
    Err(Failure::Unavailable(reason))
}

fn row(answer: &Answer) -> Row {
    let Answer { node, group, address, status } = answer;
    Row {
        node: node.0,
        group: group.0,
        address: *address,
        reachable: status.is_ok(),
        error: status.as_ref().err().map(ToString::to_string),
        state: status.as_ref().ok().map(State::of),
    }
}

/// Whether a node leads that a quorum of those that answered can follow.
fn has_leader(config: &Config, group: GroupId, answers: &[Answer]) -> bool {
    let mut statuses = answers.iter().filter(|a| a.group == group).filter_map(|a| a.status.as_ref().ok());
    let reachable = statuses.clone().filter(|status| status.role != role::HALTED).count();
    reachable >= config.quorums().phase2 && statuses.any(|status| status.role == role::LEADER)
}

fn table(rows: &[Row]) -> String {
    let headings = [
        "node",
        "group",
        "address",
        "mode",
        "role",
        "leader",
        ">ballot",
        ">chosen",
        ">applied",
        ">durable lsn",
        ">durable bytes",
        ">tail",
        ">dropped",
    ];
    let mut table = Table::new(&headings);
    for row in rows {
        let mut cells = vec![row.node.to_string(), row.group.to_string(), row.address.to_string()];
        match &row.state {
            Some(state) => cells.extend([
                state.mode.unwrap_or("-").to_string(),
                state.role.to_string(),
                state.leader.map_or("-".into(), |leader| leader.to_string()),
                format!("{}.{}", state.ballot_round, state.ballot_node),
                state.chosen_slot.to_string(),
                state.applied_slot.to_string(),
                state.durable_lsn.to_string(),
                state.durable_bytes.to_string(),
                state.tail.to_string(),
                dropped(state).to_string(),
            ]),
            None => {
                cells.push("unreachable".into());
                cells.extend(std::iter::repeat_n("-".to_string(), headings.len() - cells.len()));
            }
        }
        table.row(cells);
    }
    let mut text = table.render();
    for row in rows {
        if let Some(state) = &row.state
            && let Some(first) = state.counters.get("first_sequence").filter(|first| **first > 1)
        {
            let (node, group) = (row.node, row.group);
            let count = |name: &str| state.counters.get(name).copied().unwrap_or(0);
            let (bytes, segments) = (count("log_bytes"), count("segments_removed"));
            text.push_str(&format!(
                "node {node} group {group}: entries before {first} were trimmed; {segments} segment(s) removed, {bytes} bytes of log left\n"
            ));
        }
        // TARGET needs no word: everything else does.
        if let Some(State { mode: Some(mode), mode_reason: Some(reason), mode_seconds, .. }) = &row.state
            && *mode != Mode::Target.name()
        {
            let (node, group) = (row.node, row.group);
            text.push_str(&format!("node {node} group {group}: {mode} for {mode_seconds:.1} s: {reason}\n"));
        }
        let hidden = row.state.as_ref().map_or(0, |state| state.unknown_slots);
        if hidden != 0 {
            let count = if hidden < 0 { "all slots above the chosen ones".into() } else { format!("{hidden} slot(s)") };
            text.push_str(&format!("node {} group {}: damage hides the votes of {count}\n", row.node, row.group));
        }
    }
    text
}

/// Datagrams that were malformed, foreign, too long, or came when there was no room; `-o json` has them one by one.
fn dropped(state: &State) -> u64 {
    state.counters.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum()
}
