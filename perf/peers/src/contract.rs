//! What `synod-peer` prints on stdout: one JSON value, an `Outcome`. This file is compiled into both ends: `synod-peer`
//! writes it, and `synod-perf compare` reads it (`perf/src/compare.rs` names this path; `compare/outcome.rs` judges it).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One run of one peer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    /// Its name.
    pub(crate) peer: String,
    /// Its version, as it says itself or as it was compiled in.
    pub(crate) version: String,
    /// Why it could not be started; then nothing below is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) absent: Option<String>,
    /// One for each number in flight.
    pub(crate) levels: Vec<Level>,
    /// What was counted with one entry in flight, in a time of its own; none if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) syncs: Option<Syncs>,
}

/// One measurement.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Level {
    /// Entries in flight.
    pub(crate) outstanding: usize,
    /// Entries that ended within the measured time.
    pub(crate) ended: u64,
    /// The measured time.
    pub(crate) elapsed_ns: u64,
    /// Latency in nanoseconds and how often, of an HdrHistogram of three digits.
    pub(crate) latency_ns: Vec<(u64, u64)>,
}

/// Calls that made data durable, while `commits` entries were acknowledged.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Syncs {
    /// Entries, one in flight at a time.
    pub(crate) commits: u64,
    /// One for each process.
    pub(crate) nodes: Vec<NodeSyncs>,
}

/// One process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeSyncs {
    /// Calls on files of the log that hold commits.
    pub(crate) log: u64,
    /// Calls by kind, on any file.
    pub(crate) calls: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let level = Level { outstanding: 64, ended: 3, elapsed_ns: 7, latency_ns: vec![(100, 2), (u64::MAX, 1)] };
        let node = NodeSyncs { log: 5, calls: [("fdatasync".into(), 5), ("fsync".into(), 1)].into() };
        let syncs = Some(Syncs { commits: 5, nodes: vec![node, NodeSyncs::default()] });
        let measured = Outcome { peer: "x".into(), version: "x 1".into(), absent: None, levels: vec![level], syncs };
        let absent =
            Outcome { absent: Some("no \"x\"\nhere".into()), levels: Vec::new(), syncs: None, ..measured.clone() };
        for outcome in [measured, absent] {
            let text = serde_json::to_string(&outcome).unwrap();
            assert!(!text.contains('\n'), "one line: {text}");
            assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
        }
    }

    #[test]
    fn another_shape_is_refused() {
        assert!(serde_json::from_str::<Outcome>(r#"{"peer":"x","version":"1"}"#).is_err(), "no levels");
        let more = r#"{"peer":"x","version":"1","levels":[],"latencies":[]}"#;
        assert!(serde_json::from_str::<Outcome>(more).is_err(), "a field that nobody reads");
    }
}
