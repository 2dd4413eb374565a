//! What this program prints: one JSON value on stdout. `perf/src/compare/contract.rs` is its reader.

use serde::Serialize;
use std::collections::BTreeMap;

/// One run of one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// Its name.
    pub(crate) peer: &'static str,
    /// Its version, as it says itself or as it was compiled in.
    pub(crate) version: String,
    /// Why it could not be started; then nothing below is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) absent: Option<String>,
    /// One for each number in flight.
    pub(crate) levels: Vec<Level>,
    /// What was counted with one entry in flight, in a time of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) syncs: Option<Syncs>,
}

/// One measurement.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub(crate) struct Syncs {
    /// Entries, one in flight at a time.
    pub(crate) commits: u64,
    /// One for each process.
    pub(crate) nodes: Vec<NodeSyncs>,
}

/// One process.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeSyncs {
    /// Calls on files of the log that hold commits.
    pub(crate) log: u64,
    /// Calls by kind, on any file.
    pub(crate) calls: BTreeMap<String, u64>,
}
