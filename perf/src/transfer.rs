//! The scene of `transfer` and `return` of `disturb`: a member of a group with a map is away while the log grows and is trimmed, so
//! that it has to be sent a snapshot, and comes back under load.

use crate::cluster::{Cluster, Spec};
use crate::load::Cues;
use crate::product::ProductClient;
use crate::scenario::{self, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::time::{Duration, Instant};
use synod_client::{Counter, Status, TrimLimit};
use synod_wire::client::role;
use synod_wire::{NodeId, Sequence};

/// The parts of a return, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// The member's process starts and reads its own log.
    Start,
    /// It asks for a snapshot, is sent it, installs it, and stands with its state. This is what `transfer` counts.
    Transfer,
    /// It is sent the values behind it, until it is in step.
    Values,
}

impl Part {
    pub(crate) const ALL: [Part; 3] = [Part::Start, Part::Transfer, Part::Values];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Start => "start",
            Part::Transfer => "transfer",
            Part::Values => "values",
        }
    }
}

/// A snapshot each so many entries. The default of a map, 10,000, would have all nodes write the whole state several times a second,
/// before the transfer as well as during it.
const SNAPSHOT_ENTRIES: u64 = 100_000;
/// The log's share of a segment: enough segments lie in what is trimmed.
const SEGMENTS_IN_LAG: u64 = 16;
/// Between two short fills while the log's front is to leave.
const BETWEEN_FILLS: Duration = Duration::from_millis(450);
/// How often the nodes are asked beside the load that is measured: their answers take time of the pipelines.
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// The smallest segment that the product takes, and its default.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 << 20..=64 << 20;

/// What the cluster of such a chapter has besides.
pub(crate) fn prepare(spec: &mut Spec, lag_mib: u64) {
    let segment_bytes = ((lag_mib << 20) / SEGMENTS_IN_LAG).next_power_of_two();
    spec.map = true;
    spec.settings.push(("snapshot", "every_entries", SNAPSHOT_ENTRIES));
    spec.settings.push(("wal", "segment_bytes", segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())));
}

/// Keys whose puts, of entries of this size, make a state of about so many bytes.
pub(crate) fn keys(state_mib: u64, args: &ScenarioArgs) -> u64 {
    ((state_mib << 20) / args.shape.size as u64).max(1)
}

/// Nobody appends: waits until all members' newest snapshots are of one slot, the last that makes one due. A member that came back reads
/// what it was sent for its own until then, and if it were stopped before, it would read all that at its next start.
pub(crate) fn await_snapshots(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.await_that(PATIENCE, "snapshot of one slot at all members", |cluster| {
        let newest = |status: Status| status.picture.and_then(|picture| picture.snapshot);
        let mut all: Vec<_> = cluster.status().into_iter().map(newest).collect();
        let whole = all.len() == cluster.members.len() && all.iter().all(Option::is_some);
        all.dedup();
        (whole && all.len() == 1).then_some(())
    })
}

/// Starts the member that is away, and waits until it is in step; tells where each [`Part`] ends.
pub(crate) fn come_back(cluster: &mut Cluster, node: NodeId, cues: &Cues) -> anyhow::Result<()> {
    cluster.restart(node)?;
    let count = |status: &Status, counter| status.counter(counter).unwrap_or(0);
    cluster.await_each(ASK_AGAIN, PATIENCE, "request for a snapshot", |cluster| {
        let status = cluster.quick_status_of(node)?;
        let asked = count(&status, Counter::SnapshotBytesWanted) + count(&status, Counter::SnapshotsInstalled);
        (asked > 0).then_some(())
    })?;
    cues.next_part();
    cluster.await_each(ASK_AGAIN, PATIENCE, "member that stands with what it was sent", |cluster| {
        let status = cluster.quick_status_of(node)?;
        (count(&status, Counter::SnapshotsInstalled) > 0 && status.role == role::FOLLOWER).then_some(())
    })?;
    cues.next_part();
    cluster.await_each(ASK_AGAIN, PATIENCE, "member in step", |cluster| cluster.in_step().map(drop))
}

/// Stops a follower, appends `lag_mib` without it, trims half of that, and waits until the leader's log begins above what the follower
/// has; which it is.
pub(crate) fn leave_without_log(
    cluster: &mut Cluster,
    args: &ScenarioArgs,
    lag_mib: u64,
    keys: u64,
) -> anyhow::Result<NodeId> {
    let node = cluster.await_follower(PATIENCE)?;
    cluster.kill(node)?;
    let leader = cluster.await_leader(PATIENCE)?;
    let (first, had_bytes) = (last(cluster, leader)?, scenario::log_bytes(cluster, leader)?);
    let until = had_bytes + (lag_mib << 20);
    let mut client = ProductClient::connect(cluster, &args.client(MOST_IN_FLIGHT))?;
    client.put(keys)?;
    scenario::fill_with(&mut client, cluster, |cluster| Ok(scenario::log_bytes(cluster, leader)? >= until))?;
    trim_half(cluster, first, last(cluster, leader)?)?;
    // Segments leave below the older of two snapshots, and those are made as the log grows; which it does slowly here, or it would
    // grow faster than it is read for them, and the member lack far more than it was to.
    let wanted = had_bytes + (lag_mib << 20) / 8;
    scenario::fill_with(&mut client, cluster, |cluster| {
        let enough = begins_at(cluster, leader)? >= wanted;
        if !enough {
            scenario::wait(BETWEEN_FILLS)?;
        }
        Ok(enough)
    })?;
    Ok(node)
}

/// Members that were heard of late hold a trim back: it is asked for until none does.
fn trim_half(cluster: &Cluster, first: u64, last: u64) -> anyhow::Result<()> {
    let addresses: Vec<_> = cluster.members.iter().map(|(_, address)| *address).collect();
    let until = Instant::now() + PATIENCE;
    loop {
        let before = Sequence(first.midpoint(last));
        let trimmed = synod_client::trim(cluster.id, cluster.group, addresses.clone(), before, PATIENCE)?;
        if trimmed.limit == TrimLimit::Nothing {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the trim is held back: {trimmed:?}");
        scenario::wait(Duration::from_millis(200))?;
    }
}

/// Bytes of snapshots that all members have sent.
pub(crate) fn sent_bytes(cluster: &Cluster) -> u64 {
    cluster.status().iter().filter_map(|status| status.counter(Counter::SnapshotBytesSent)).sum()
}

fn last(cluster: &Cluster, node: NodeId) -> anyhow::Result<u64> {
    scenario::log_entries(cluster, node)
}

/// Where a node's log begins.
fn begins_at(cluster: &Cluster, node: NodeId) -> anyhow::Result<u64> {
    let status = cluster.status_of(node, PATIENCE).with_context(|| format!("node {node} does not answer"))?;
    Ok(status.durable_bytes.saturating_sub(status.counter(Counter::LogBytes).unwrap_or(u64::MAX)))
}
