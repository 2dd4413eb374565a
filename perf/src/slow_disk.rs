//! The scene `slow-disk` of `disturb`: the leader's log writes take ten times as long as they did, under load, until another leads.

use crate::cluster::Cluster;
use crate::scenario::PATIENCE;
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};
use synod_client::Counter;
use synod_wire::NodeId;
use synod_wire::client::Stage;

/// Of a write's time is added to it.
const TIMES_MORE: u32 = 9;

/// What became of it.
pub(crate) struct Yielded {
    /// Who led, and whose log is slow.
    pub(crate) node: NodeId,
    /// What each of its writes takes more.
    pub(crate) late: Duration,
    /// Until another led.
    pub(crate) after: Duration,
}

/// Slows the leader's log, and waits until another leads.
pub(crate) fn slow_the_leader(cluster: &mut Cluster) -> anyhow::Result<Yielded> {
    let node = cluster.await_leader(PATIENCE)?;
    let late = write_time(cluster, node)? * TIMES_MORE;
    cluster.slow_log(node, late)?;
    let start = Instant::now();
    let yielded = cluster.await_leader_other_than(node, PATIENCE);
    let after = start.elapsed();
    yielded?;
    let status = cluster.status_of(node, PATIENCE).context("who led does not answer")?;
    let count = status.counter(Counter::SlowDiskYields).unwrap_or(0);
    ensure!(count == 1, "node {node} gave up the leadership {count} times for its disk: something else deposed it");
    Ok(Yielded { node, late, after })
}

/// The median from when a log write is submitted to when it is durable.
fn write_time(cluster: &Cluster, node: NodeId) -> anyhow::Result<Duration> {
    let status = cluster.status_of(node, PATIENCE).context("the leader does not answer")?;
    let median = |stage| status.stages.iter().find(|times| times.stage == stage).map(|times| times.p50);
    let times = median(Stage::Durable).zip(median(Stage::Written));
    let (durable, written) = times.context("the leader's status has no stages")?;
    Ok(durable.saturating_sub(written))
}
