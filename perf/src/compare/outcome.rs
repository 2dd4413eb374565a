//! What a peer's run is worth: whether it measured what was asked for, and whether its syncs prove that commits were durable.
//! Pure; `compare` calls it on what `synod-peer` printed.

use super::contract::{Level, Outcome, Syncs};
use crate::stats::Measured;
use anyhow::{Context, ensure};
use std::time::Duration;

impl Outcome {
    /// Reads it; what was not asked for is refused.
    pub(super) fn parse(text: &str, outstanding: &[usize]) -> anyhow::Result<Outcome> {
        let outcome: Outcome = serde_json::from_str(text.trim()).with_context(|| format!("it said {text:?}"))?;
        let measured: Vec<usize> = outcome.levels.iter().map(|level| level.outstanding).collect();
        let expected = if outcome.absent.is_some() { &[] } else { outstanding };
        ensure!(measured == expected, "{measured:?} in flight were measured instead of {expected:?}");
        Ok(outcome)
    }
}

impl Level {
    /// As the product's measurements are.
    pub(super) fn measured(&self) -> anyhow::Result<Measured> {
        let mut measured = Measured::new();
        for (nanoseconds, count) in &self.latency_ns {
            measured.latency_ns.saturating_record_n(*nanoseconds, *count);
        }
        ensure!(!measured.latency_ns.is_empty(), "no entry was acknowledged in the measured time");
        measured.ended = self.ended;
        measured.elapsed = Duration::from_nanos(self.elapsed_ns);
        Ok(measured)
    }
}

impl Syncs {
    /// Of each node, for each commit.
    pub(super) fn per_commit(&self) -> Vec<f64> {
        self.nodes.iter().map(|node| node.log as f64 / self.commits.max(1) as f64).collect()
    }

    /// Whether each commit can have been durable on a majority: it needs a sync on each node of one. Which nodes may differ
    /// from commit to commit (the fastest of them), so all syncs count, but of each node one for each commit at most.
    pub(super) fn durable(&self) -> bool {
        let majority = self.nodes.len() as u64 / 2 + 1;
        let useful: u64 = self.nodes.iter().map(|node| node.log.min(self.commits)).sum();
        self.commits > 0 && useful >= majority * self.commits
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::NodeSyncs;
    use super::*;
    use std::collections::BTreeMap;

    const MEASURED: &str = r#"{"peer":"x","version":"1","levels":[{"outstanding":4,"ended":10,"elapsed_ns":1000000000,
        "latency_ns":[[100000,5],[300000,5]]}],
        "syncs":{"commits":10,"nodes":[{"log":10,"calls":{"fsync":11}},{"log":10,"calls":{}},{"log":0,"calls":{}}]}}"#;

    fn syncs(commits: u64, logs: [u64; 3]) -> Syncs {
        Syncs { commits, nodes: logs.map(|log| NodeSyncs { log, calls: BTreeMap::new() }).into() }
    }

    #[test]
    fn a_peers_histogram_becomes_one_of_ours() {
        let outcome = Outcome::parse(MEASURED, &[4]).unwrap();
        let summary = outcome.levels[0].measured().unwrap().summary();
        assert_eq!((summary.operations, summary.per_second), (10, 10.0));
        assert!((99.0..101.0).contains(&summary.p50_us) && (299.0..301.0).contains(&summary.p99_us), "{summary:?}");
        assert!(outcome.syncs.unwrap().durable());
    }

    #[test]
    fn other_levels_than_those_asked_for_are_refused() {
        assert!(Outcome::parse(MEASURED, &[1]).is_err());
        assert!(Outcome::parse("Segmentation fault", &[4]).is_err());
        let absent = r#"{"peer":"x","version":"","absent":"no such file","levels":[]}"#;
        assert_eq!(Outcome::parse(absent, &[1]).unwrap().absent.as_deref(), Some("no such file"));
    }

    #[test]
    fn an_empty_measurement_is_an_error_and_no_fast_one() {
        let level = Level { outstanding: 1, ended: 0, elapsed_ns: 1, latency_ns: Vec::new() };
        assert!(level.measured().is_err());
    }

    #[test]
    fn each_commit_needs_a_sync_on_a_majority() {
        assert!(syncs(100, [100, 100, 0]).durable());
        assert!(syncs(100, [100, 70, 40]).durable(), "the faster follower differs");
        assert!(!syncs(100, [1_000, 0, 0]).durable(), "one node's many syncs are no majority");
        assert!(!syncs(100, [100, 90, 0]).durable());
        assert!(!syncs(0, [0, 0, 0]).durable(), "nothing was committed, nothing is proven");
    }
}
